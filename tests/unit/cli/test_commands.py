"""The command line as far as it needs no running service: help, version, errors in one line."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from millpond import __version__
from millpond.cli.main import main
from millpond.datadir import DataDir, Endpoint
from tests.commands import millpond

REPOSITORY = Path(__file__).resolve().parents[3]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="millpond")


def known_service(path: Path) -> DataDir:
    """A data directory in which a service has run."""
    directory = DataDir(path)
    path.mkdir()
    directory.account_keys(create=True)
    directory.write_endpoint(Endpoint("http://127.0.0.1:1", "lab", 42))
    return directory


def test_version_and_help() -> None:
    assert invoke("--version").output == f"millpond, version {__version__}\n"
    listing = invoke("--help").output
    for name in ("env", "status", "storage", "up"):
        assert f"\n  {name} " in listing
    assert millpond("--version").stdout == f"millpond, version {__version__}\n"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("upp", "No such command 'upp'. (Did you mean one of: 'app', 'up'?)"),
        ("job", "`az batch job`"),
        ("nothing-like-it", "No such command 'nothing-like-it'."),
    ],
)
def test_a_word_that_is_no_command_is_answered_with_one(word: str, expected: str) -> None:
    result = invoke(word, "list")
    assert result.exit_code == 2
    assert expected in result.stderr


@pytest.mark.parametrize("arguments", [("--version",), ("--help",)])
def test_version_and_help_import_no_server(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; from millpond.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'asyncio', 'uvicorn', 'aiohttp', 'msgspec', 'platformdirs', 'ssl'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
    )
    assert result.stdout.endswith("heavy: []\n")


def test_a_plain_service_reads_no_client_of_storage_or_identities() -> None:
    code = (
        "import sys, millpond.cli.up\n"
        "heavy = {'aiohttp', 'azure', 'obstore', 'jwt', 'cryptography'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
    )
    assert result.stdout == "heavy: []\n"


def test_an_unknown_command_is_a_usage_error() -> None:
    result = invoke("upp")
    assert result.exit_code == 2
    assert "No such command 'upp'" in result.output


def test_a_bad_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text("[server]\nprot = 1\n")
    result = millpond("env", "--config", str(tmp_path / "m.toml"))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"millpond: {tmp_path}/m.toml: server.prot: no such setting; did you mean server.port? Correct or remove it\n"
    )


def test_a_bad_variable_is_one_line_and_exit_code_2() -> None:
    result = millpond("env", environment={"MILLPOND_SERVER_PORT": "x"})
    assert result.returncode == 2
    assert result.stderr.startswith("millpond: MILLPOND_SERVER_PORT: must be a whole number")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["env", "status"])
def test_no_service_ever_is_one_line_and_exit_code_1(tmp_path: Path, command: str) -> None:
    result = invoke(command, "--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr == f"millpond: no service has run in {tmp_path}; start one with millpond up\n"


def test_env_prints_lines_for_a_shell(tmp_path: Path) -> None:
    directory = known_service(tmp_path / "it's here")
    result = millpond("env", "--data-dir", str(directory.path))
    assert result.returncode == 0
    assert "no service runs" in result.stderr
    shell = subprocess.run(
        [
            "sh",
            "-c",
            f'{result.stdout}\nprintf "%s %s %s" "$AZURE_BATCH_ACCOUNT" "$AZURE_BATCH_ENDPOINT" "$AZURE_BATCH_ACCESS_KEY"',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout == f"lab http://127.0.0.1:1 {directory.account_keys().primary}"
    assert [shlex.split(line)[0] for line in result.stdout.splitlines()] == ["export"] * 3


def test_env_prints_json(tmp_path: Path) -> None:
    directory = known_service(tmp_path / "d")
    result = invoke("env", "--data-dir", str(directory.path), "--json")
    assert json.loads(result.stdout) == {
        "AZURE_BATCH_ACCOUNT": "lab",
        "AZURE_BATCH_ACCESS_KEY": directory.account_keys().primary,
        "AZURE_BATCH_ENDPOINT": "http://127.0.0.1:1",
    }


def test_status_of_a_service_that_is_gone_or_does_not_answer(tmp_path: Path) -> None:
    directory = known_service(tmp_path / "d")
    result = invoke("status", "--data-dir", str(directory.path))
    assert result.exit_code == 1
    assert "no service runs in" in result.stderr
    directory.open()
    try:
        result = invoke("status", "--data-dir", str(directory.path))
    finally:
        directory.close()
    assert result.exit_code == 1
    assert "the service at http://127.0.0.1:1 does not answer" in result.stderr
    assert result.stderr.count("\n") == 1


def test_status_of_a_service_that_takes_no_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = known_service(tmp_path / "d")
    monkeypatch.setattr("millpond.cli.status._ask", lambda _: {"service": "Millpond", "ready": False})
    directory.open()
    try:
        result = invoke("status", "--data-dir", str(directory.path))
    finally:
        directory.close()
    assert result.exit_code == 0
    assert "ready     false: changes cannot be taken just now; what millpond up writes says why" in result.output


def test_accounts_are_listed_and_chosen(tmp_path: Path) -> None:
    directory = known_service(tmp_path / "data")
    directory.make_account("render", {"subscription": "s1", "group": "films", "location": "north"})
    where = ("--data-dir", str(directory.path))
    listed = json.loads(invoke("account", "list", "--json", *where).output)
    assert [(one["name"], one["endpoint"], one["resourceGroup"]) for one in listed] == [
        ("lab", "http://127.0.0.1:1", "millpond"),
        ("render", "http://127.0.0.1:1/accounts/render", "films"),
    ]
    assert invoke("account", "list", *where).output.splitlines()[1].split() == [
        "render",
        "http://127.0.0.1:1/accounts/render",
    ]
    said = json.loads(invoke("env", "--json", "--arm", "--account", "render", *where).stdout)
    assert (said["AZURE_BATCH_ACCOUNT"], said["AZURE_BATCH_ENDPOINT"]) == (
        "render",
        "http://127.0.0.1:1/accounts/render",
    )
    assert said["AZURE_BATCH_ACCESS_KEY"] == directory.account("render").account_keys().primary
    assert (said["AZURE_SUBSCRIPTION_ID"], said["AZURE_BATCH_RESOURCE_GROUP"]) == ("s1", "films")
    first = json.loads(invoke("env", "--json", "--account", "lab", *where).stdout)
    assert first["AZURE_BATCH_ENDPOINT"] == "http://127.0.0.1:1"
    result = invoke("env", "--account", "nobody", *where)
    assert result.exit_code == 1
    assert "there is no account nobody" in result.stderr
    assert "only lab, render" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("delete", "lab"), "lab is the service's first account"),
        (("delete", "nobody"), "there is no account nobody"),
        (("create", "lab"), "there is an account lab already"),
    ],
)
def test_accounts_that_cannot_be_made_or_deleted(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    directory = known_service(tmp_path / "data")
    result = invoke("account", *arguments, "--data-dir", str(directory.path))
    assert result.exit_code == 1
    assert said in result.stderr
