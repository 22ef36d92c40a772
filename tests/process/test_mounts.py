"""Mounts of a node, made for real: directories of the host, blob containers of Azurite, a share of a private smbd."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from azure.core.exceptions import ResourceNotFoundError

from millpond.agent.mount_kinds import Mount, MountSettings
from millpond.agent.mount_table import is_alive, mounted_below
from millpond.agent.mounts import Mounts, NodeMounts
from millpond.domain.errors import TaskFailure
from tests.process.mounting import Smb, bind_works, clear, needs
from tests.servers.azurite import Azurite
from tests.waiting import until

FAST = {"timeout_s": 60.0, "tries": 1, "pause_s": 0.01}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "root/volatile").mkdir(parents=True)
    yield tmp_path / "root"
    clear(tmp_path)


@pytest.fixture
def open_root(open_path: Path) -> Iterator[Path]:
    """The same where every user can get at it."""
    (open_path / "root/volatile").mkdir(parents=True)
    yield open_path / "root"
    clear(open_path)


@pytest.fixture
def can_mount(tmp_path: Path, root: Path, leave_out: Callable[[str], None]) -> None:
    needs((), lambda *_: None, leave_out)
    if not bind_works(tmp_path):
        leave_out("this root may not mount")


@pytest.fixture
def can_rclone(
    can_mount: None, require_component: Callable[[str, str], None], leave_out: Callable[[str], None]
) -> None:
    needs(("rclone", "fusermount3"), require_component, leave_out)


@pytest.fixture
def smb(
    can_rclone: None, tmp_path: Path, require_component: Callable[[str, str], None], leave_out: Callable[[str], None]
) -> Iterator[Smb]:
    needs(("smbd", "smbpasswd"), require_component, leave_out)
    server = Smb(tmp_path / "smb")
    yield server
    server.stop()


def mounts_of(*wire: dict[str, Any]) -> list[Mount]:
    return msgspec.convert(list(wire), list[Mount])


def bind(source: Path, path: str = "data", **more: Any) -> dict[str, Any]:
    return {"nfsMountConfiguration": {"source": f"file://{source}", "relativeMountPath": path, **more}}


def blob(azurite: Azurite, container: str, path: str = "blobs", **more: Any) -> dict[str, Any]:
    opened = {} if {"sasKey", "containerUrl"} & more.keys() else {"accountKey": azurite.key}
    wire = {"accountName": azurite.account, "containerName": container, "relativeMountPath": path, **opened, **more}
    return {"azureBlobFileSystemConfiguration": wire}


def share(smb: Smb, path: str = "share", **more: Any) -> dict[str, Any]:
    wire = {
        "accountName": smb.user,
        "accountKey": smb.password,
        "azureFileUrl": f"https://127.0.0.1:{smb.port}/data",
        "relativeMountPath": path,
        **more,
    }
    return {"azureFileShareConfiguration": wire}


async def refusal(mounts: NodeMounts, *wire: dict[str, Any]) -> TaskFailure:
    with pytest.raises(TaskFailure) as caught:
        await mounts.set_up(mounts_of(*wire), None)
    assert caught.value.code == "MountConfigurationError"
    return caught.value


def log_of(root: Path, name: str) -> str:
    return (root / f"fsmounts/{name}.log").read_text()


# --- directories of the host --------------------------------------------------------------------------------------


async def test_a_directory_of_the_host(can_mount: None, tmp_path: Path, root: Path) -> None:
    data = tmp_path / "lent/data"
    data.mkdir(parents=True)
    (data / "model").write_text("weights")
    mounts = NodeMounts(str(root), MountSettings(allow=(str(tmp_path / "lent"),)))
    await mounts.set_up(mounts_of(bind(data, "a/b"), bind(data, "readonly", mountOptions="-o ro")), None)
    assert (root / "fsmounts/a/b/model").read_text() == "weights"
    (root / "fsmounts/a/b/result").write_text("new")
    assert (data / "result").read_text() == "new"
    with pytest.raises(OSError, match="Read-only"):
        (root / "fsmounts/readonly/x").write_text("x")
    assert mounts.is_whole
    mounts.take_down()
    assert mounted_below(str(root)) == []
    assert (data / "model").exists()
    assert not mounts.is_whole, "the plan stays: it is to be mounted again"
    # Fewer next time.
    await mounts.set_up(mounts_of(bind(data)), None)
    assert [one.path for one in mounted_below(str(root))] == [f"{root}/fsmounts/data"]
    await mounts.set_up([], None)
    assert mounted_below(str(root)) == []
    assert mounts.is_whole


async def test_only_what_the_operator_lends(tmp_path: Path, root: Path) -> None:
    (tmp_path / "lent").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "lent/out").symlink_to(tmp_path / "other")
    mounts = NodeMounts(str(root), MountSettings(allow=(str(tmp_path / "lent"),), **FAST))
    for source in ("other", "lent/../other", "lent/out", "lentmore"):
        failure = await refusal(mounts, bind(tmp_path / source))
        assert "nodes.mount_allow" in failure.message
        assert failure.details["MountConfigurationPath"] == "data"
    assert "no directory" in (await refusal(mounts, bind(tmp_path / "lent/missing"))).message
    assert "not understood" in (await refusal(mounts, bind(tmp_path / "lent", mountOptions="--make-shared"))).message
    nobody = NodeMounts(str(root), MountSettings())
    assert "nodes.mount_allow" in (await refusal(nobody, bind(tmp_path / "lent"))).message
    assert mounted_below(str(root)) == []


async def test_without_root_it_is_a_link(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "file").write_text("x")
    mounts = NodeMounts(str(root), MountSettings(allow=(str(tmp_path),)))
    await mounts.set_up(mounts_of(bind(tmp_path)), None)
    assert (root / "fsmounts/data/file").read_text() == "x"
    assert mounts.is_whole
    await mounts.set_up(mounts_of(bind(tmp_path)), None)
    assert (root / "fsmounts/data/file").exists()
    mounts.take_down()
    assert not (root / "fsmounts/data").exists()
    assert not mounts.is_whole
    assert "root" in (await refusal(mounts, bind(tmp_path, mountOptions="ro"))).message


async def test_one_that_fails_leaves_none(can_mount: None, tmp_path: Path, root: Path) -> None:
    mounts = NodeMounts(str(root), MountSettings(allow=(str(tmp_path),), **FAST))
    await refusal(mounts, bind(tmp_path, "good"), bind(tmp_path / "missing", "bad"))
    assert mounted_below(str(root)) == []


async def test_what_a_task_put_in_the_way_is_not_followed(can_mount: None, tmp_path: Path, root: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "keep").write_text("mine")
    (root / "fsmounts").mkdir()
    (root / "fsmounts/data").symlink_to(victim)
    (root / "fsmounts/data.log").symlink_to(victim / "keep")
    mounts = NodeMounts(str(root), MountSettings(allow=(str(tmp_path),)))
    (tmp_path / "lent").mkdir()
    await mounts.set_up(mounts_of(bind(tmp_path / "lent")), None)
    assert [one.path for one in mounted_below(str(tmp_path))] == [f"{root}/fsmounts/data"]
    assert (victim / "keep").read_text() == "mine"


# --- the kernel's file systems --------------------------------------------------------------------------------------


async def test_a_kernel_without_nfs_and_cifs_is_told(can_mount: None, tmp_path: Path, root: Path) -> None:
    """Where it has them, nobody listens at that address."""
    mounts = NodeMounts(str(root), MountSettings(timeout_s=60.0, tries=3, pause_s=0.01))
    nfs = {"source": "127.0.0.1:/export", "relativeMountPath": "nfs", "mountOptions": "-o vers=4,soft,retry=0"}
    failure = await refusal(mounts, {"nfsMountConfiguration": nfs})
    assert failure.details["Message"]
    assert log_of(root, "nfs").strip()
    cifs = {"source": r"\\127.0.0.1\data", "relativeMountPath": "cifs", "username": "u", "password": "geheim,x"}
    failure = await refusal(mounts, {"cifsMountConfiguration": cifs})
    assert "geheim" not in failure.message + log_of(root, "cifs")
    # Its password is in no file any more.
    assert not [path for path in (root / "volatile").rglob("*") if path.is_file() and b"geheim" in path.read_bytes()]


async def test_a_program_that_does_not_end_is_ended(
    can_mount: None, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mount").write_text('#!/bin/sh\necho trying >&2\necho x >> "$0.tries"\nexec sleep 600\n')
    (tmp_path / "bin/mount").chmod(0o755)
    monkeypatch.setattr("millpond.agent.mount_kinds._SYSTEM_PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    mounts = NodeMounts(str(root), MountSettings(timeout_s=5.0, tries=2, pause_s=0.01))
    failure = await refusal(mounts, {"nfsMountConfiguration": {"source": "h:/e", "relativeMountPath": "n"}})
    assert "within 5 s" in failure.message
    assert "trying" in failure.message
    assert (tmp_path / "bin/mount.tries").read_text() == "x\nx\n"


# --- blob containers ------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(azurite: Azurite) -> MountSettings:
    return MountSettings(endpoints={azurite.account: azurite.endpoint}, **FAST)


def stored(azurite: Azurite, container: str, name: str) -> bytes | None:
    try:
        return azurite.read(container, name)
    except ResourceNotFoundError:
        return None


def arguments_of_rclones(root: Path) -> list[str]:
    return list(rclones(root).values())


def rclones(root: Path) -> dict[int, str]:
    """The arguments of those that serve a directory, by process id."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text.partition("\0")[0].endswith("rclone") and str(root) in text:
                found[int(name)] = text
    return found


@pytest.mark.parametrize("by", ["accountKey", "sasKey", "identity"])
async def test_a_blob_container(
    can_rclone: None, azurite: Azurite, settings: MountSettings, root: Path, by: str
) -> None:
    container = azurite.new_container()
    azurite.put(container, "in/data.txt", b"from the container")
    url = azurite.container_url(container)
    more = {"accountKey": {}, "sasKey": {"sasKey": f"?{url.partition('?')[2]}"}, "identity": {"containerUrl": url}}[by]
    mounts = NodeMounts(str(root), settings)
    await mounts.set_up(
        mounts_of(blob(azurite, container, blobfuseOptions="-o attr_timeout=5 --log-level=LOG_DEBUG", **more)), None
    )
    place = root / "fsmounts/blobs"
    assert (place / "in/data.txt").read_text() == "from the container"
    (place / "out").mkdir()
    (place / "out/result.bin").write_bytes(b"x" * 300_000)
    until(lambda: stored(azurite, container, "out/result.bin") == b"x" * 300_000)
    assert "LOG_DEBUG" in log_of(root, "blobs")
    (arguments,) = arguments_of_rclones(root)
    assert "sig=" not in arguments
    assert azurite.key not in arguments
    assert mounts.is_whole
    mounts.take_down()
    assert mounted_below(str(root)) == []
    until(lambda: not arguments_of_rclones(root))


async def test_a_container_that_cannot_be_opened(
    can_rclone: None, azurite: Azurite, settings: MountSettings, root: Path
) -> None:
    mounts = NodeMounts(str(root), settings)
    container = azurite.new_container()
    expired = azurite.container_url(container, valid_s=-10).partition("?")[2]
    for wire in (
        blob(azurite, "there-is-none"),
        blob(azurite, container, sasKey=expired),
        blob(azurite, container, accountKey="bm90IHRoZSBrZXk="),
        blob(azurite, container, accountKey="no base64"),
    ):
        failure = await refusal(mounts, wire)
        assert expired.partition("sig=")[2].partition("&")[0] not in failure.message + log_of(root, "blobs")
        assert mounted_below(str(root)) == []
    until(lambda: not arguments_of_rclones(root))


async def test_a_mount_whose_process_died_is_not_whole_and_can_be_made_again(
    can_rclone: None, azurite: Azurite, settings: MountSettings, root: Path
) -> None:
    container = azurite.new_container()
    azurite.put(container, "a", b"a")
    mounts = NodeMounts(str(root), settings)
    await mounts.set_up(mounts_of(blob(azurite, container)), None)
    target = f"{root}/fsmounts/blobs"
    assert is_alive(target)
    (process_id,) = rclones(root)
    os.kill(process_id, signal.SIGKILL)
    until(lambda: not is_alive(target))
    assert not mounts.is_whole
    await mounts.set_up(mounts_of(blob(azurite, container)), None)
    assert os.listdir(target) == ["a"]


async def test_users_of_the_node_can_use_it(
    can_rclone: None, azurite: Azurite, settings: MountSettings, open_root: Path
) -> None:
    root = open_root
    container = azurite.new_container()
    azurite.put(container, "a", b"for the group")
    mounts = NodeMounts(str(root), settings)
    await mounts.set_up(mounts_of(blob(azurite, container, "deep/blobs")), 54321)
    place = root / "fsmounts/deep/blobs"
    facts = (place / "a").stat()
    assert (facts.st_gid, facts.st_mode & 0o777) == (54321, 0o770)
    command = ["sh", "-c", f"cat {place}/a && echo mine > {place}/b"]
    (root / "fsmounts").chmod(0o751)
    ended = subprocess.run(command, user=54999, group=54999, extra_groups=[54321], capture_output=True, check=False)
    assert ended.stdout == b"for the group", ended.stderr
    until(lambda: stored(azurite, container, "b") == b"mine\n")


# --- file shares ----------------------------------------------------------------------------------------------------


async def test_a_file_share(smb: Smb, root: Path) -> None:
    mounts = NodeMounts(str(root), MountSettings(**FAST))
    (smb.files / "here.txt").write_text("on the share")
    await mounts.set_up(mounts_of(share(smb)), None)
    assert (root / "fsmounts/share/here.txt").read_text() == "on the share"
    (root / "fsmounts/share/new.txt").write_text("written")
    until(lambda: (smb.files / "new.txt").exists() and (smb.files / "new.txt").read_text() == "written")
    (arguments,) = arguments_of_rclones(root)
    assert smb.password not in arguments
    failure = await refusal(NodeMounts(str(root), MountSettings(**FAST)), share(smb, accountKey="wrong"))
    assert "wrong" not in failure.message


# --- the host's part ------------------------------------------------------------------------------------------------


async def test_what_was_left_mounted_in_the_trash_is_swept(can_mount: None, tmp_path: Path, root: Path) -> None:
    (tmp_path / "lent").mkdir()
    (tmp_path / "lent/keep").touch()
    mounts = NodeMounts(str(root), MountSettings(allow=(str(tmp_path / "lent"),)))
    await mounts.set_up(mounts_of(bind(tmp_path / "lent")), None)
    (tmp_path / "trash").mkdir()
    os.rename(root, tmp_path / "trash/1-1")
    await asyncio.to_thread(Mounts(MountSettings()).sweep, str(tmp_path / "trash"))
    assert mounted_below(str(tmp_path / "trash")) == []
    assert (tmp_path / "lent/keep").exists()


async def test_what_is_still_used_is_detached(can_mount: None, tmp_path: Path, root: Path) -> None:
    (tmp_path / "lent").mkdir()
    mounts = NodeMounts(str(root), MountSettings(allow=(str(tmp_path / "lent"),)))
    await mounts.set_up(mounts_of(bind(tmp_path / "lent")), None)
    user = subprocess.Popen(["sleep", "600"], cwd=root / "fsmounts/data")
    try:
        await asyncio.to_thread(mounts.take_down, 0.2)
        assert mounted_below(str(root)) == []
    finally:
        user.send_signal(signal.SIGKILL)
        user.wait()
