"""Pictures: of every kind, the same for the same reports, and a clear word where there can be none."""

import sys
from pathlib import Path

import pytest

from millpond.lab.backtest import Moment, Report, compare
from millpond.lab.loads import parse_synthetic
from millpond.lab.picture import PictureError, render, save_picture, span_text, thinned
from tests.unit.autoscale import published


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    load = parse_synthetic("bursts:days=1,size=10")
    return compare({"tasks": published.TASKS, "pending": published.PENDING}, load)


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_a_picture_of_each_kind(reports: list[Report], tmp_path: Path, name: str, begins: bytes) -> None:
    save_picture(reports, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_an_svg_stands_by_itself_and_is_always_the_same(reports: list[Report]) -> None:
    picture = render(reports)
    assert picture == render(reports)
    text = picture.decode()
    links = [part.split('"')[0] for part in text.split('href="')[1:]]
    assert all(link.startswith("#") for link in links)
    assert "<script" not in text


def test_no_picture_of_other_kinds_or_of_nothing(reports: list[Report], tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"ends in \.png, \.svg, \.pdf"):
        save_picture(reports, tmp_path / "a.gif")
    with pytest.raises(PictureError, match="nothing to draw"):
        render([])
    with pytest.raises(PictureError, match="No such file"):
        save_picture(reports, tmp_path / "gone" / "a.svg")


def test_without_matplotlib_it_says_what_to_install(reports: list[Report], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PictureError, match=r"extra `lab`"):
        render(reports)


def test_thinning_keeps_the_peaks() -> None:
    series = [Moment(float(at), 1, 1, 500 if at == 777 else 0, 0) for at in range(10_000)]
    kept = thinned(series, 300)
    assert len(kept) <= 300
    assert max(one.active for one in kept) == 500
    assert [one.at for one in kept] == sorted(one.at for one in kept)


def test_lengths_of_time_are_short() -> None:
    assert [span_text(one) for one in (0.0, 4.25, 42.0, 90.0, 7300.0, 200_000.0)] == [
        "0 s",
        "4.2 s",
        "42 s",
        "1.5 min",
        "2.0 h",
        "2.3 d",
    ]
