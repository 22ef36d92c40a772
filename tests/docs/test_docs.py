"""The documentation says what is: links, settings, commands, targets, status."""

import re
import tomllib
from pathlib import Path

import draw_states
import pytest

from millpond import __version__
from millpond.cli.main import main
from millpond.config import SETTINGS, Config
from millpond.domain.states import NodeState

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(path for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md") for path in REPOSITORY.glob(pattern))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for target in targets:
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        found = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / target).resolve() for target in found]
    assert set(PAGES) <= reached, [str(page.relative_to(REPOSITORY)) for page in PAGES if page not in reached]


def test_the_index_lists_every_page_and_example() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\]\(([^)]+\.md)\)", index))
    pages = {
        f"{path.parent.name}/{path.name}"
        for kind in ("how-to", "reference", "tutorials")
        for path in (REPOSITORY / "docs" / kind).glob("*.md")
    }
    examples = {f"../examples/{path.parent.name}/README.md" for path in (REPOSITORY / "examples").glob("*/README.md")}
    assert pages | examples <= listed, (pages | examples) - listed


def test_every_setting_is_described_with_its_default() -> None:
    text = (REPOSITORY / "docs/reference/configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (`MILLPOND_.*) \|$", text, re.MULTILINE))
    assert set(rows) == set(SETTINGS)
    defaults = Config(data_dir="~/.local/share/millpond")
    for key, row in rows.items():
        variable, default, _ = row.split(" | ", 2)
        assert variable == f"`{SETTINGS[key].variable}`"
        section, _, name = key.rpartition(".")
        value = getattr(getattr(defaults, section) if section else defaults, name)
        shown = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else value
        assert default == f"`{shown}`"


def test_commands_named_in_the_readme_are_there() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"millpond (up|env|status|storage|[a-z]+)(?= |`|\)|\")", text)) & {
        "up",
        "env",
        "status",
        "storage",
        "serve",
        "start",
        "run",
        "init",
    }
    commands = set(main.list_commands(None))
    assert {"up", "env", "storage"} <= named <= commands


def test_make_targets_named_in_the_documentation_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"make ([a-z-]+)\b", (REPOSITORY / name).read_text()))
        assert named <= targets, f"{name} names {named - targets}"


def test_decisions_are_all_listed() -> None:
    folder = REPOSITORY / "docs" / "adr"
    listing = (folder / "README.md").read_text(encoding="utf-8")
    pages = sorted(path.name for path in folder.glob("0*.md"))
    assert pages == sorted(re.findall(r"\((0[^)]+\.md)\)", listing))
    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))


def test_the_version_is_one() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert "## [Unreleased]" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_the_state_diagrams_are_what_the_tables_say() -> None:
    assert draw_states.PAGE.read_text() == draw_states.page(), "run python tools/draw_states.py"


@pytest.mark.parametrize("diagram", draw_states.DIAGRAMS, ids=lambda diagram: diagram.title)
def test_every_state_is_in_its_table(diagram: draw_states.Diagram) -> None:
    assert set(diagram.moves) == set(type(diagram.first))
    reached = {diagram.first}
    while more := {to for state in reached for to in diagram.moves[state]} - reached:
        reached |= more
    # No part of the service moves a node to `upgradingos`: automatic OS upgrades belong to Azure's own machines.
    assert set(diagram.moves) - reached <= {NodeState.UPGRADING_OS}
