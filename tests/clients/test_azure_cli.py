"""`az`, unmodified, against a service with TLS and the development issuer: sign-in, the account, applications, and the data
plane after `az batch account login`. Heavy: the environment has 1 GiB, and is made where CI=true only."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.environments import EnvironmentMissing, python_environment
from tests.commands import REPOSITORY
from tests.conftest import MillpondProcess

pytestmark = pytest.mark.timeout(1200)

_ENVIRONMENT: Final = ("azure-cli", "azure-cli==2.91.0")
_DEADLINE_S: Final = 120.0
_GROUP: Final = ("-g", "millpond", "-n", "millpond")


class Az:
    """`az` with a configuration of its own."""

    def __init__(self, python: Path, service: MillpondProcess, directory: Path) -> None:
        self._python = python
        self.directory = directory
        self.service = service
        told = subprocess.run(
            [
                sys.executable,
                "-m",
                "millpond",
                "env",
                "--json",
                "--entra",
                "admin",
                "--data-dir",
                str(service.data_dir),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONPATH": str(REPOSITORY / "src")},
            check=True,
        )
        self.told: dict[str, str] = json.loads(told.stdout)
        own = {name: self.told[name] for name in ("REQUESTS_CA_BUNDLE", "IDENTITY_ENDPOINT", "IDENTITY_HEADER")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "AZURE_"))}
        self._environment = {
            **kept,
            **own,
            "AZURE_CONFIG_DIR": str(directory / "azure"),
            "AZURE_CORE_COLLECT_TELEMETRY": "false",
            "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
        }

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self._python), "-m", "azure.cli", *arguments, "-o", "json"],
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            env=self._environment,
            cwd=self.directory,
            check=False,
        )

    def __call__(self, *arguments: str) -> Any:
        """What it prints, decoded; None when that is nothing."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"az {' '.join(arguments)}: {done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def refused(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode != 0, done.stdout
        return done.stderr


@pytest.fixture(scope="module")
def az(tmp_path_factory: pytest.TempPathFactory, require_component: Callable[[str, str], None]) -> Iterator[Az]:
    """Signed in as an administrator by a managed identity."""
    try:
        python = python_environment(*_ENVIRONMENT, heavy=True)
    except EnvironmentMissing as error:
        require_component("azure-cli", str(error))
        raise
    directory = tmp_path_factory.mktemp("az")
    service = MillpondProcess(directory / "data", "--tls", "--development-issuer")
    try:
        az = Az(python, service.start(), directory)
        az("cloud", "register", "-n", "Millpond", "--endpoint-resource-manager", service.endpoint)
        az("cloud", "set", "-n", "Millpond")
        (subscription,) = az("login", "--identity")
        assert subscription["state"] == "Enabled"
        yield az
    finally:
        service.stop()


def test_the_account(az: Az) -> None:
    account = az("batch", "account", "show", *_GROUP)
    assert account["accountEndpoint"] == az.service.endpoint.removeprefix("https://")
    assert account["allowedAuthenticationModes"] == ["SharedKey", "AAD", "TaskAuthenticationToken"]
    assert [one["name"] for one in az("batch", "account", "list")] == ["millpond"]
    az("batch", "account", "create", *_GROUP, "-l", "westeurope")
    assert az("batch", "account", "set", *_GROUP, "--tags", "team=render")["tags"] == {"team": "render"}
    assert az("batch", "location", "quotas", "show", "-l", "westeurope") == {"accountQuota": 3}
    skus = az("batch", "location", "list-skus", "-l", "westeurope", "--filter", "familyName eq 'standardDSv3Family'")
    assert "Standard_D2s_v3" in [one["name"] for one in skus]
    assert az("group", "show", "-n", "millpond")["name"] == "millpond"
    assert "could not be found" in az.refused("group", "show", "-n", "anything")


def test_a_further_account_in_a_group_of_its_own(az: Az) -> None:
    films = ("-g", "films", "-n", "films")
    assert "could not be found" in az.refused("batch", "account", "create", *films, "-l", "westeurope")
    assert az("group", "create", "-n", "films", "-l", "westeurope", "--tags", "a=b")["tags"] == {"a": "b"}
    made = az("batch", "account", "create", *films, "-l", "westeurope")
    host = az.service.endpoint.removeprefix("https://")
    assert (made["provisioningState"], made["accountEndpoint"]) == ("Succeeded", f"{host}/accounts/films")
    assert [one["name"] for one in az("batch", "account", "list", "-g", "films")] == ["films"]
    assert [one["name"] for one in az("batch", "account", "list")] == ["millpond", "films"]
    # Its pools by its own endpoint, signed in as to the management plane.
    az("batch", "account", "login", *films)
    assert az("batch", "pool", "list") == []
    az("batch", "job", "list")
    az("batch", "account", "login", *_GROUP)
    assert az("batch", "account", "keys", "list", *films)["primary"]
    az("batch", "account", "delete", *films, "--yes")
    az("group", "delete", "-n", "films", "--yes")
    assert az("group", "exists", "-n", "films") is False


def test_keys(az: Az) -> None:
    keys = az("batch", "account", "keys", "list", *_GROUP)
    assert keys["primary"] == az.service.key
    renewed = az("batch", "account", "keys", "renew", *_GROUP, "--key-name", "primary")
    assert (renewed["primary"] != keys["primary"], renewed["secondary"]) == (True, keys["secondary"])
    kept = json.loads((az.service.data_dir / "keys.json").read_text())
    assert kept["primary"] == renewed["primary"]


def test_applications(az: Az) -> None:
    with zipfile.ZipFile(az.directory / "tool.zip", "w") as archive:
        archive.writestr("tool.sh", "#!/bin/sh\necho tool\n")
    application = ("--application-name", "tool")
    az("batch", "application", "create", *_GROUP, *application)
    package = (*_GROUP, *application, "--version-name", "1")
    made = az("batch", "application", "package", "create", *package, "--package-file", "tool.zip")
    assert (made["state"], made["format"]) == ("Active", "zip")
    assert [one["name"] for one in az("batch", "application", "list", *_GROUP)] == ["tool"]


def test_the_data_plane_after_login(az: Az) -> None:
    az("batch", "account", "login", *_GROUP)
    az(
        *("batch", "pool", "create", "--id", "p", "--vm-size", "standard_d2s_v3", "--target-dedicated-nodes", "1"),
        *("--image", "canonical:0001-com-ubuntu-server-jammy:22_04-lts"),
        *("--node-agent-sku-id", "batch.node.ubuntu 22.04"),
    )
    az("batch", "job", "create", "--id", "j", "--pool-id", "p")
    az("batch", "task", "create", "--job-id", "j", "--task-id", "t", "--command-line", "/bin/echo hi")
    task = ("batch", "task", "show", "--job-id", "j", "--task-id", "t")
    deadline = time.monotonic() + _DEADLINE_S
    while (done := az(*task))["state"] != "completed":
        assert time.monotonic() < deadline, done
    assert done["executionInfo"]["exitCode"] == 0
    # The same by the account's key.
    az("batch", "account", "login", *_GROUP, "--shared-key-auth")
    assert [one["id"] for one in az("batch", "task", "list", "--job-id", "j")] == ["t"]
    az("batch", "job", "delete", "--job-id", "j", "--yes")
    az("batch", "pool", "delete", "--pool-id", "p", "--yes")


def test_sharedkey_turned_off_and_on_again(az: Az) -> None:
    url = f"{az.service.endpoint}/subscriptions/s/resourceGroups/g/providers/Microsoft.Batch/batchAccounts/millpond"
    patch = (
        "rest",
        "--method",
        "patch",
        "--url",
        f"{url}?api-version=2025-06-01",
        "--resource",
        "https://management.azure.com",
    )

    def modes(*names: str) -> Any:
        body = {"properties": {"allowedAuthenticationModes": list(names)}}
        return az(*patch, "--body", json.dumps(body))["properties"]["allowedAuthenticationModes"]

    assert modes("AAD") == ["AAD"]
    assert "SharedKeyNotAllowed" in az.refused("batch", "account", "keys", "list", *_GROUP)
    assert modes("AAD", "SharedKey", "TaskAuthenticationToken") == ["SharedKey", "AAD", "TaskAuthenticationToken"]
    assert az("batch", "account", "keys", "list", *_GROUP)["accountName"] == "millpond"


def test_a_service_principal(az: Az) -> None:
    az("config", "set", "core.instance_discovery=false")
    credentials = ("-u", az.told["AZURE_CLIENT_ID"], "-p", az.told["AZURE_CLIENT_SECRET"])
    (subscription,) = az("login", "--service-principal", *credentials, "--tenant", az.told["AZURE_TENANT_ID"])
    assert subscription["user"]["type"] == "servicePrincipal"
    assert az("batch", "account", "show", *_GROUP)["name"] == "millpond"
