"""The snippets of docs/how-to/clients.md that need nothing but our own environment; the others are run in tests/clients."""

from pathlib import Path

import pytest

from tests.clients.how_to import PAGE, sections, snippet
from tests.commands import REPOSITORY, read_aloud, reader
from tests.conftest import MillpondProcess

# Who runs which snippets. A snippet that is added has to be added here, and to its test.
RUN_BY = {
    "Python": (["python", "python"], "tests/docs/test_how_to_clients.py"),
    "Python, azure-batch 14 and before": (["python"], "tests/clients/test_other_clients.py"),
    "JavaScript": (["javascript"], "tests/clients/test_other_clients.py"),
    "Java": (["java"], "tests/clients/test_java.py"),
    "az batch": (["bash"], "tests/clients/test_az.py"),
    "Airflow": (["bash", "python"], "tests/clients/test_airflow.py"),
    "Signing in: azure-identity": (["bash", "python"], "tests/docs/test_how_to_clients.py"),
    "Clients with Azure's host names built in": (["bash"], "tests/docs/test_how_to_clients.py"),
}
ENV = 'eval "$(millpond env)"'


def run(service: MillpondProcess, directory: Path, script: str) -> str:
    """What a reader's shell prints, where nothing is set yet."""
    return read_aloud(script, environment=reader(directory, service.data_dir), cwd=directory)


def python(code: str) -> str:
    return f"python3 - <<'END_OF_PROGRAM'\n{code}END_OF_PROGRAM\n"


def test_every_snippet_is_run_by_a_test() -> None:
    assert ENV in PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    assert {name: [spoken for spoken, _ in found] for name, found in sections().items()} == {
        name: languages for name, (languages, _) in RUN_BY.items()
    }
    for heading, (_, test) in RUN_BY.items():
        assert f'"{heading}"' in (REPOSITORY / test).read_text(encoding="utf-8"), f"{test} does not read {heading}"


@pytest.mark.parametrize("number", [0, 1], ids=["sync", "asyncio"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_python(request: pytest.FixtureRequest, tmp_path: Path, number: int, tls: bool) -> None:
    service = request.getfixturevalue("secured" if tls else "service")
    said = run(service, tmp_path, f"{ENV}\n{python(snippet('Python', 'python', number=number))}")
    assert "'batch.node.ubuntu 24.04'" in said


def test_signing_in(secured: MillpondProcess, tmp_path: Path) -> None:
    heading = "Signing in: azure-identity"
    said = run(secured, tmp_path, f"{snippet(heading, 'bash')}\n{python(snippet(heading, 'python'))}")
    assert "'batch.node.ubuntu 24.04'" in said


def test_intercept(secured: MillpondProcess, tmp_path: Path) -> None:
    heading = "Clients with Azure's host names built in"
    assert "'batch.node.ubuntu 24.04'" in run(secured, tmp_path, snippet(heading, "bash"))
