"""`millpond intercept`: clients with Azure's host names built in, as they are."""

import subprocess
import sys
from pathlib import Path

from tests.commands import millpond, said_by
from tests.conftest import MillpondProcess

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
urllib.request.urlopen("https://example.org/", timeout=60)
"""


def run(
    data_dir: Path,
    *command: str,
    allow: str = "",
    account: str = "millpond",
    environment: dict[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    allowed = ("--allow", allow) if allow else ()
    return millpond(
        "intercept", "--account", account, *allowed, "--", *command, data_dir=data_dir, environment=environment
    )


def test_by_the_accounts_key(secured: MillpondProcess) -> None:
    done = run(secured.data_dir, sys.executable, "-c", BY_KEY)
    assert (done.returncode, done.stdout) == (0, "by key True https://millpond.local.batch.azure.com\n"), done.stderr


def test_a_further_account_by_its_host_name(secured: MillpondProcess) -> None:
    said_by("account", "create", "films", data_dir=secured.data_dir)
    code = BY_KEY.replace("millpond.westeurope", "films.westeurope")
    done = run(secured.data_dir, sys.executable, "-c", code, account="films")
    assert (done.returncode, done.stdout) == (0, "by key True https://films.local.batch.azure.com\n"), done.stderr
    unasked = millpond("account", "delete", "films", data_dir=secured.data_dir)
    assert unasked.returncode == 1
    assert unasked.stderr == "millpond: the account films was not deleted: nobody said yes; --yes says it\n"
    said_by("account", "delete", "films", "--yes", data_dir=secured.data_dir)


def test_by_signing_in_as_at_azure(secured: MillpondProcess) -> None:
    shown = run_env(secured)
    del shown["AZURE_AUTHORITY_HOST"]  # where Azure's own is built in
    done = run(secured.data_dir, sys.executable, "-c", BY_SIGNING_IN, environment=shown)
    assert (done.returncode, done.stdout) == (0, "signed in []\n"), done.stderr


def run_env(secured: MillpondProcess) -> dict[str, str]:
    said = said_by("env", "--entra", "reader", data_dir=secured.data_dir)
    pairs = (line.removeprefix("export ").partition("=") for line in said.splitlines())
    return {name: value.strip("'") for name, _, value in pairs if name.startswith("AZURE_")}


def test_other_hosts_are_refused(secured: MillpondProcess) -> None:
    done = run(secured.data_dir, sys.executable, "-c", ELSEWHERE)
    assert done.returncode == 1
    assert "403 Forbidden" in done.stderr
    assert "millpond: refused example.org; let it through with --allow example.org" in done.stderr


def test_a_host_that_is_allowed_is_reached_as_it_is(secured: MillpondProcess) -> None:
    done = run(
        secured.data_dir,
        sys.executable,
        "-c",
        ELSEWHERE.replace("example.org", "no.such.invalid"),
        allow="no.such.invalid",
    )
    assert "502 Bad Gateway" in done.stderr
    assert "refused" not in done.stderr


def test_the_exit_code_is_the_commands(secured: MillpondProcess) -> None:
    assert run(secured.data_dir, "/bin/sh", "-c", "exit 7").returncode == 7
    assert run(secured.data_dir, "/bin/sh", "-c", "kill -9 $$").returncode == 137
    done = run(secured.data_dir, "/no/such/command")
    assert done.returncode == 1
    assert "/no/such/command cannot be run: No such file or directory" in done.stderr


def test_without_tls_it_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path / "none", "/bin/true")
    assert done.returncode == 1
    assert "start one with millpond up" in done.stderr


def test_nothing_is_left(secured: MillpondProcess, tmp_path: Path) -> None:
    said = run(
        secured.data_dir,
        "/bin/sh",
        "-c",
        'ls "$(dirname "$SSL_CERT_FILE")" && echo "$SSL_CERT_FILE"',
        environment={"TMPDIR": str(tmp_path)},
    ).stdout.split()
    assert "ca.key" in said
    assert said[-1].startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
