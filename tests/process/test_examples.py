"""The examples, as a newcomer runs them, in small."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"


def run(script: str, *arguments: str, environment: dict[str, str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(filter(None, (str(REPOSITORY / "src"), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **environment},
    )


def test_the_demo_makes_its_own_service_and_a_film(tmp_path: Path) -> None:
    result = run(
        "mandelbrot/demo.py",
        "--frames",
        "6",
        "--size",
        "48x30",
        "--out",
        str(tmp_path / "out"),
        environment={},
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "7/7" in result.stdout
    assert "speed-up" in result.stdout
    film = (tmp_path / "out" / "mandelbrot.png").read_bytes()
    assert film.count(b"fcTL") == 6
    # Nothing else is left: the service's own directory is gone.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mandelbrot.png"]


def test_the_demo_says_what_is_missing(tmp_path: Path) -> None:
    environment = {"AZURE_BATCH_ACCOUNT": "", "AZURE_BATCH_ACCESS_KEY": "", "AZURE_BATCH_ENDPOINT": ""}
    result = run("mandelbrot/demo.py", "--use-env", environment=environment, cwd=tmp_path)
    assert result.returncode == 1
    assert "--use-env needs AZURE_BATCH_ACCOUNT" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_words_of_the_users_own_folder_are_counted(service: Any, tmp_path: Path) -> None:
    texts = tmp_path / "my texts"
    texts.mkdir()
    (texts / "a b.txt").write_text("the pond, the mill; it's the Größe\n", encoding="utf-8")
    (texts / "two.txt").write_text("the mill\n", encoding="utf-8")
    (texts / "empty.txt").write_text("")
    (texts / "not.md").write_text("the the the")
    result = run(
        "wordcount/wordcount.py", str(texts), "--out", "out.tsv", environment=service.client_environment(), cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "failed at its first run, on purpose, with exit code 17" in result.stdout
    assert "(retry count 1)" in result.stdout
    lines = (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == ["4\tthe", "2\tmill", "1\tgröße", "1\tit's", "1\tpond"]


def test_the_word_count_says_what_is_missing(service: Any, tmp_path: Path) -> None:
    result = run("wordcount/wordcount.py", environment={"AZURE_BATCH_ENDPOINT": ""}, cwd=tmp_path)
    assert result.returncode == 1
    assert "millpond up" in result.stdout
    result = run("wordcount/wordcount.py", str(tmp_path), environment=service.client_environment(), cwd=tmp_path)
    assert result.returncode == 1
    assert "no *.txt in" in result.stdout


@pytest.mark.parametrize("place", ["directory", "account"])
def test_the_quickstart(place: str, request: pytest.FixtureRequest, new_service: Any, tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    arguments: tuple[str, ...] = ()
    if place == "account":
        environment["AZURE_STORAGE_CONNECTION_STRING"] = request.getfixturevalue("azurite").connection_string
        arguments = ("--blob-connection-string-env", "AZURE_STORAGE_CONNECTION_STRING")
    service = new_service("data", *arguments, environment=environment).start()
    result = run("quickstart/quickstart.py", environment={**environment, **service.client_environment()}, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = [line.removeprefix("result").strip() for line in result.stdout.splitlines() if line.startswith("result")]
    texts = sorted((EXAMPLES / "quickstart" / "inputs").glob("*.txt"))
    assert counts == [f"{path.name}: {len(path.read_text().split())}" for path in texts]


def test_the_quickstart_says_what_is_missing(tmp_path: Path) -> None:
    result = run("quickstart/quickstart.py", environment={"AZURE_BATCH_ENDPOINT": ""}, cwd=tmp_path)
    assert result.returncode == 1
    assert "millpond up" in result.stdout
