"""The fixtures of this package (see its docstring)."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.servers.http import HttpServer

if TYPE_CHECKING:
    from tests.servers.azurite import Azurite
    from tests.servers.moto import MotoS3


@pytest.fixture(scope="session")
def _azurite_is_here(require_component: Callable[[str, str], None]) -> None:
    from tests.servers.azurite import why_not

    if reason := why_not():
        require_component("azurite", reason)


@pytest.fixture(scope="session")
def azurite(_azurite_is_here: None, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Azurite]":
    """One server for all tests of this process."""
    from tests.servers.azurite import Azurite

    server = Azurite(tmp_path_factory.mktemp("azurite")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def azurite_https(_azurite_is_here: None, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Azurite]":
    """The same behind TLS, with a certificate of a CA of its own (`ca_path`)."""
    from tests.servers.azurite import Azurite

    server = Azurite(tmp_path_factory.mktemp("azurite-https"), tls=True).start()
    yield server
    server.stop()


@pytest.fixture
def new_azurite(_azurite_is_here: None, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Callable[[], Azurite]]":
    """Make servers of a test's own, started."""
    from tests.servers.azurite import Azurite

    made: list[Azurite] = []

    def make() -> Azurite:
        made.append(Azurite(tmp_path_factory.mktemp("azurite")).start())
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def moto_s3(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[MotoS3]":
    """One server for all tests of this process."""
    from tests.servers.moto import MotoS3

    server = MotoS3(tmp_path_factory.mktemp("moto"))
    yield server
    server.stop()


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    """Scripted answers, for one test."""
    with HttpServer() as server:
        yield server
