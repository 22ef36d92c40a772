"""The import rules leave no room out, and are kept."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


def protected() -> set[str]:
    tables = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert all(table["type"] == "protected" for table in tables)
    return {module for table in tables for module in table["protected_modules"]}


def test_every_room_has_a_contract() -> None:
    package = REPOSITORY / "src" / "millpond"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    missing = {f"millpond.{name}" for name in rooms | modules} - protected()
    assert not missing, f"no import contract in pyproject.toml for {sorted(missing)}"


def lint_imports(directory: Path) -> "subprocess.CompletedProcess[str]":
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory / "src")},
    )


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("api", "import millpond.scheduler.core"),
        ("agent", "from millpond.control import base"),
        ("domain", "import millpond.odata.filters"),
        ("control", "from millpond.store.sqlite import SqliteStore"),
        ("api", "from millpond.providers.local import LocalProvider"),
        ("control", "from millpond import config"),
        ("sim", "import millpond.lab.backtest"),
    ],
)
def test_an_import_up_or_across_breaks_a_contract(tmp_path: Path, room: str, line: str) -> None:
    shutil.copytree(REPOSITORY / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "src" / "millpond" / room / "planted.py").write_text(line + "\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"millpond.{room}.planted -> " in result.stdout


def test_the_source_keeps_every_contract() -> None:
    result = lint_imports(REPOSITORY)
    assert result.returncode == 0, result.stdout
