"""The data directory: its lock, the account's keys, the endpoint."""

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from millpond.datadir import AccountKeyPair, DataDir, DataDirError, Endpoint


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_open_makes_a_private_directory_and_holds_the_lock(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "a" / "b").open()
    try:
        assert mode_of(tmp_path / "a" / "b") == 0o700
        assert directory.is_in_use()
        with pytest.raises(DataDirError, match=rf"in use by another millpond \(process {os.getpid()}\)"):
            DataDir(tmp_path / "a" / "b").open()
    finally:
        directory.close()
    assert not directory.is_in_use()
    DataDir(tmp_path / "a" / "b").open().close()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from millpond.datadir import DataDir\n"
        "d = DataDir(Path(sys.argv[1])).open(); print('locked', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "d")], stdout=subprocess.PIPE, text=True, env=environment
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        assert DataDir(tmp_path / "d").is_in_use()
        with pytest.raises(DataDirError, match=rf"process {holder.pid}"):
            DataDir(tmp_path / "d").open()
        holder.kill()
    DataDir(tmp_path / "d").open().close()


def test_a_file_in_the_way_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match="is not a directory"):
        DataDir(tmp_path / "file").open()
    with pytest.raises(DataDirError, match=r"cannot be written .* --data-dir"):
        DataDir(tmp_path / "file" / "below").open()
    with pytest.raises(DataDirError, match="cannot be written"):
        DataDir(Path("/proc/self/millpond")).open()


def test_keys_are_made_once_private_and_long(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "d").open()
    try:
        with pytest.raises(DataDirError, match="no account key"):
            directory.account_keys()
        keys = directory.account_keys(create=True)
        assert [len(base64.b64decode(key, validate=True)) for key in keys] == [64, 64]
        assert keys.primary != keys.secondary
        assert mode_of(directory.keys_path) == 0o600
        assert directory.account_keys(create=True) == directory.account_keys() == keys
    finally:
        directory.close()


def test_keys_left_open_to_others_are_closed_again(tmp_path: Path) -> None:
    directory = DataDir(tmp_path)
    directory.account_keys(create=True)
    directory.keys_path.chmod(0o644)
    directory.account_keys(create=True)
    assert mode_of(directory.keys_path) == 0o600


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"primary": "YQ==", "secondary": ""}', '{"primary": "YQ==", "secondary": "!"}', "é"]
)
def test_damaged_keys_are_said_to_be(tmp_path: Path, content: str) -> None:
    directory = DataDir(tmp_path)
    directory.keys_path.write_text(content, encoding="utf-8")
    with pytest.raises(DataDirError, match=r"keys\.json"):
        directory.account_keys(create=True)
    assert directory.keys_path.read_text(encoding="utf-8") == content


def test_keys_of_the_users_own_are_taken(tmp_path: Path) -> None:
    own = {"primary": base64.b64encode(b"k" * 64).decode(), "secondary": base64.b64encode(b"s").decode()}
    (tmp_path / "keys.json").write_text(json.dumps(own))
    assert DataDir(tmp_path).account_keys() == AccountKeyPair(**own)


def test_the_node_secret_is_made_once(tmp_path: Path) -> None:
    secret = DataDir(tmp_path).node_secret()
    assert len(secret) == 32
    assert DataDir(tmp_path).node_secret() == secret
    assert mode_of(tmp_path / "node-secret.json") == 0o600
    (tmp_path / "node-secret.json").write_text("{}")
    with pytest.raises(DataDirError, match=r"node-secret\.json cannot be read: it is damaged"):
        DataDir(tmp_path).node_secret()


def test_the_endpoint_is_kept(tmp_path: Path) -> None:
    directory = DataDir(tmp_path)
    with pytest.raises(DataDirError, match="no service has run"):
        directory.endpoint()
    directory.write_endpoint(Endpoint("http://127.0.0.1:1", "millpond", 42))
    assert directory.endpoint() == Endpoint("http://127.0.0.1:1", "millpond", 42)
    (tmp_path / "endpoint.json").write_text("{}")
    with pytest.raises(DataDirError, match="damaged"):
        directory.endpoint()


def test_further_accounts_have_directories_of_their_own(tmp_path: Path) -> None:
    root = DataDir(tmp_path)
    assert root.account_names() == []
    root.account_keys(create=True)
    root.make_account("render", {"location": "x"})
    (root.accounts_path / "half").mkdir()
    assert root.account_names() == ["render"]
    account = root.account("render")
    assert account.account_settings() == {"location": "x"}
    assert account.account_keys() != root.account_keys()
    assert (mode_of(root.accounts_path), mode_of(account.path)) == (0o700, 0o700)
    with pytest.raises(DataDirError, match="holds an account already"):
        root.make_account("render", {})
    root.make_account("half", {})
    assert root.account_names() == ["half", "render"]
    (account.path / "storage").mkdir()
    (account.path / "storage" / "file").write_text("x")
    account.remove()
    account.remove()
    assert root.account_names() == ["half"]
    assert not account.path.exists()


def test_an_account_with_something_mounted_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = DataDir(tmp_path)
    root.make_account("render", {})
    account = root.account("render")
    point = account.path / "nodes" / "n" / "m\u00f6unt"
    monkeypatch.setattr(DataDir, "_mounts", lambda _: [str(point)])
    with pytest.raises(DataDirError, match="is still mounted"):
        account.remove()
    assert account.account_keys().primary


def test_others_can_pass_to_the_nodes_of_every_account(tmp_path: Path) -> None:
    root = DataDir(tmp_path / "data").open()
    try:
        umask = os.umask(0o022)
        root.let_pass()
        root.make_account("render", {})
        root.account("render").let_pass()
        root.let_pass()
        assert mode_of(root.accounts_path) & 0o011 == 0o011
        assert mode_of(root.account("render").path) & 0o011 == 0o011
        assert mode_of(root.account("render").keys_path) == 0o600
    finally:
        os.umask(umask)
        root.close()


def test_groups_are_kept(tmp_path: Path) -> None:
    root = DataDir(tmp_path)
    assert root.groups() == []
    root.write_groups([{"name": "g"}])
    assert root.groups() == [{"name": "g"}]
    (tmp_path / "groups.json").write_text("no")
    with pytest.raises(DataDirError, match=r"groups\.json cannot be read"):
        root.groups()
