"""The purity check finds what it is there to find, and the source passes it."""

from pathlib import Path

import check_purity
import pytest

PACKAGE = Path(__file__).resolve().parents[3] / "src" / "millpond"


def planted(tmp_path: Path, room: str, text: str) -> list[str]:
    for name in check_purity.PURE_ROOMS:
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / room / "deep").mkdir()
    (tmp_path / room / "deep" / "planted.py").write_text(text)
    return list(check_purity.violations(tmp_path))


@pytest.mark.parametrize("room", check_purity.PURE_ROOMS)
@pytest.mark.parametrize(
    "text",
    [
        "import time\n",
        "import os.path as p\n",
        "import json, uuid\n",
        "from asyncio import Queue\n",
        "from os.path import join\n",
        "if True:\n    import socket\n",
        "try:\n    import random\nexcept ImportError:\n    pass\n",
        "def f():\n    import json\n",
        "async def f():\n    from millpond.domain import ids\n",
        "class A:\n    def f(self):\n        if self:\n            import json\n",
        "t = __import__('time')\n",
        "import importlib\n",
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, room: str, text: str) -> None:
    found = planted(tmp_path, room, text)
    assert found
    assert all("planted.py" in line for line in found)


@pytest.mark.parametrize(
    "text", ["import json\n", "from . import time\n", "timeless = 'import time'\n", "import osmium\n"]
)
def test_what_is_pure_passes(tmp_path: Path, text: str) -> None:
    assert planted(tmp_path, "domain", text) == []


def test_other_rooms_may(tmp_path: Path) -> None:
    assert planted(tmp_path, "domain", "") == []
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.py").write_text("import time\n")
    assert list(check_purity.violations(tmp_path)) == []


def test_a_long_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("x = 1\n" * 601)
    (tmp_path / "short.py").write_text("x = 1\n" * 600)
    assert [line for line in check_purity.long_files(tmp_path) if "long.py: 601 lines" in line]
    assert len(list(check_purity.long_files(tmp_path))) == 1


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_purity.main([str(tmp_path)]) == 2
    planted(tmp_path, "domain", "import time\n")
    assert check_purity.main([str(tmp_path)]) == 1
    assert "planted.py:1: a pure room imports time" in capsys.readouterr().err
    assert check_purity.main([str(PACKAGE)]) == 0
