"""Airflow's AzureBatchOperator, unmodified, in an environment of its own; no database and no scheduler of Airflow's."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.environments import EnvironmentMissing, client_environment, python_environment
from tests.clients.how_to import snippet
from tests.conftest import MillpondProcess

PROGRAM = Path(__file__).parent / "programs" / "airflow_operator.py"
DEADLINE_S = 240.0

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def python(require_component: Callable[[str, str], None]) -> Path:
    wanted = ("apache-airflow-providers-microsoft-azure==15.2.1", "apache-airflow==3.3.2")
    try:
        return python_environment("airflow", *wanted, heavy=True)
    except EnvironmentMissing as error:
        require_component("Airflow", str(error))
        raise


def run(service: MillpondProcess, python: Path, directory: Path, program: Path) -> str:
    """What a program prints, started as the how-to says."""
    script = f'{snippet("Airflow", "bash")}\nexec "{python}" "{program}"\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env=client_environment(service, AIRFLOW_HOME=str(directory / "airflow")),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def test_the_operator(service: MillpondProcess, python: Path, tmp_path: Path) -> None:
    """Waiting itself, and deferred; a pool it makes, one that is there; a task that fails; what it deletes."""
    steps = ("waits", "defers", "fails", "end")
    said = run(service, python, tmp_path, PROGRAM).splitlines()
    assert tuple(line for line in said if line in steps) == steps


def test_the_how_to(service: MillpondProcess, python: Path, tmp_path: Path) -> None:
    program = tmp_path / "dag.py"
    program.write_text(f"{snippet('Airflow', 'python')}\nprint('account:', render.hook.connection._config.endpoint)\n")
    program.write_text(program.read_text() + "print('jobs:', list(render.hook.connection.list_jobs()))\n")
    said = run(service, python, tmp_path, program)
    assert f"account: {service.endpoint}" in said
    assert "jobs: []" in said
