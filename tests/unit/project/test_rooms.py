"""The import rules leave no room out, and are kept."""

import tomllib
from pathlib import Path

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
