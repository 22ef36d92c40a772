"""`millpond intercept`: clients with Azure's host names built in, as they are."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, MillpondProcess

BY_KEY = """
import os
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential

credential = AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
client = BatchClient("https://millpond.westeurope.batch.azure.com", credential)
images = list(client.list_supported_images(max_results=1))
print("by key", len(images) > 1, os.environ["AZURE_BATCH_ENDPOINT"])
"""
BY_SIGNING_IN = """
import os
from azure.batch import BatchClient
from azure.identity import EnvironmentCredential

client = BatchClient("https://millpond.westeurope.batch.azure.com", EnvironmentCredential())
print("signed in", [pool.id for pool in client.list_pools()])
"""
ELSEWHERE = """
import urllib.request
urllib.request.urlopen("https://example.org/", timeout=10)
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MillpondProcess]:
    running = MillpondProcess(tmp_path_factory.mktemp("service") / "data", "--tls", "--development-issuer")
    try:
        yield running.start()
    finally:
        running.stop()


def run(
    data_dir: Path,
    *command: str,
    allow: str = "",
    account: str = "millpond",
    environment: dict[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    allowed = ("--allow", allow) if allow else ()
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "millpond",
            "intercept",
            "--data-dir",
            str(data_dir),
            "--account",
            account,
            *allowed,
            "--",
            *command,
        ],
        capture_output=True,
        text=True,
        timeout=90,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY / "src"), **(environment or {})},
        check=False,
    )


def test_by_the_accounts_key(service: MillpondProcess) -> None:
    done = run(service.data_dir, sys.executable, "-c", BY_KEY)
    assert (done.returncode, done.stdout) == (0, "by key True https://millpond.local.batch.azure.com\n"), done.stderr


def test_a_further_account_by_its_host_name(service: MillpondProcess) -> None:
    def millpond(*command: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "millpond", *command, "--data-dir", str(service.data_dir)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
            stdout=subprocess.DEVNULL,
            timeout=90,
            check=True,
        )

    millpond("account", "create", "films")
    code = BY_KEY.replace("millpond.westeurope", "films.westeurope")
    done = run(service.data_dir, sys.executable, "-c", code, account="films")
    assert (done.returncode, done.stdout) == (0, "by key True https://films.local.batch.azure.com\n"), done.stderr
    millpond("account", "delete", "films", "--yes")


def test_by_signing_in_as_at_azure(service: MillpondProcess) -> None:
    shown = run_env(service)
    del shown["AZURE_AUTHORITY_HOST"]  # where Azure's own is built in
    done = run(service.data_dir, sys.executable, "-c", BY_SIGNING_IN, environment=shown)
    assert (done.returncode, done.stdout) == (0, "signed in []\n"), done.stderr


def run_env(service: MillpondProcess) -> dict[str, str]:
    command = [sys.executable, "-m", "millpond", "env", "--entra", "reader", "--data-dir", str(service.data_dir)]
    environment = {"PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)
    pairs = (line.removeprefix("export ").partition("=") for line in done.stdout.splitlines())
    return {name: value.strip("'") for name, _, value in pairs if name.startswith("AZURE_")}


def test_other_hosts_are_refused(service: MillpondProcess) -> None:
    done = run(service.data_dir, sys.executable, "-c", ELSEWHERE)
    assert done.returncode == 1
    assert "403 Forbidden" in done.stderr
    assert "millpond: refused example.org; let it through with --allow example.org" in done.stderr


def test_a_host_that_is_allowed_is_reached_as_it_is(service: MillpondProcess) -> None:
    done = run(
        service.data_dir,
        sys.executable,
        "-c",
        ELSEWHERE.replace("example.org", "no.such.invalid"),
        allow="no.such.invalid",
    )
    assert "502 Bad Gateway" in done.stderr
    assert "refused" not in done.stderr


def test_the_exit_code_is_the_commands(service: MillpondProcess) -> None:
    assert run(service.data_dir, "/bin/sh", "-c", "exit 7").returncode == 7
    assert run(service.data_dir, "/bin/sh", "-c", "kill -9 $$").returncode == 137
    done = run(service.data_dir, "/no/such/command")
    assert done.returncode == 1
    assert "/no/such/command cannot be run: No such file or directory" in done.stderr


def test_without_tls_it_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path / "none", "/bin/true")
    assert done.returncode == 1
    assert "start one with millpond up" in done.stderr


def test_nothing_is_left(service: MillpondProcess, tmp_path: Path) -> None:
    said = run(
        service.data_dir,
        "/bin/sh",
        "-c",
        'ls "$(dirname "$SSL_CERT_FILE")" && echo "$SSL_CERT_FILE"',
        environment={"TMPDIR": str(tmp_path)},
    ).stdout.split()
    assert "ca.key" in said
    assert said[-1].startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
