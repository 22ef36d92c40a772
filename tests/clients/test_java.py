"""`com.microsoft.azure:azure-batch` for Java: the library before `azure-compute-batch`, with the same operations."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.environments import EnvironmentMissing, java_libraries, output_of
from tests.clients.how_to import snippet
from tests.conftest import MillpondProcess, ServiceFactory

PROGRAMS = Path(__file__).parent / "programs"
# It looks into classes of the platform, which later Javas open only on request.
OPENED = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in ("util", "lang", "time", "io", "math")]

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def jars(require_component: Callable[[str, str], None]) -> Path:
    try:
        return java_libraries("azure-batch-java", PROGRAMS / "pom.xml", heavy=True)
    except EnvironmentMissing as error:
        require_component("azure-batch for Java", str(error))
        raise


def run(service: MillpondProcess, jars: Path, source: Path, *options: str) -> list[str]:
    """The lines a program in one file prints."""
    said = output_of(service, "java", *OPENED, *options, "-cp", os.fspath(jars / "*"), os.fspath(source))
    return said.splitlines()


def test_java(service: MillpondProcess, jars: Path) -> None:
    steps = run(service, jars, PROGRAMS / "BatchClientProgram.java")
    assert steps == ["images", "pool", "tasks", "files", "end"]


def test_the_how_to_over_https(new_service: ServiceFactory, jars: Path, tmp_path: Path) -> None:
    service = new_service("data", "--tls").start()
    source = tmp_path / "Images.java"
    source.write_text(snippet("Java", "java"))
    store = service.data_dir / "tls" / "truststore.p12"
    trust = (f"-Djavax.net.ssl.trustStore={store}", "-Djavax.net.ssl.trustStorePassword=millpond")
    assert "batch.node.ubuntu 24.04" in run(service, jars, source, *trust)
