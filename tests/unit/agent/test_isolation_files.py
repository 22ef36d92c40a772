"""Claims of user ids, entries in the account files, and control groups, over files of the test's own."""

import os
from pathlib import Path

import pytest

from millpond.agent.isolation.account_files import AccountEntry, AccountFiles
from millpond.agent.isolation.cgroups import CgroupTree, NodeCgroup, find_tree
from millpond.agent.isolation.claims import Block, NoUidsLeft, UidClaims, UidRange
from millpond.agent.isolation.node import why_not
from millpond.agent.isolation.users import identity_words, wished
from millpond.agent.runner.spec import AutoUser, UserIdentity
from millpond.domain.states import TaskKind

RANGE = UidRange(10_000, 10_000 + 3 * 512 - 1)


@pytest.fixture
def owners(tmp_path: Path) -> list[str]:
    made = [tmp_path / f"node{number}" for number in range(5)]
    for path in made:
        path.mkdir()
    return [str(path) for path in made]


# --- claims ---------------------------------------------------------------------------------------------------------


def test_every_node_has_numbers_of_its_own_and_keeps_them(tmp_path: Path, owners: list[str]) -> None:
    claims = UidClaims(RANGE, str(tmp_path / "claims"))
    blocks = [claims.claim(owner) for owner in owners[:3]]
    assert [block.first for block in blocks] == [10_000, 10_512, 11_024]
    assert all(block.size == 512 and block.last in RANGE for block in blocks)
    again = UidClaims(RANGE, str(tmp_path / "claims"))
    assert [again.claim(owner) for owner in owners[:3]] == blocks
    with pytest.raises(NoUidsLeft, match="all 3 blocks of user ids from 10000 to 11535 are in use"):
        again.claim(owners[3])


def test_what_is_given_back_comes_last(tmp_path: Path, owners: list[str]) -> None:
    claims = UidClaims(RANGE, str(tmp_path / "claims"))
    first = claims.claim(owners[0])
    claims.release(owners[0])
    others = [claims.claim(owner) for owner in owners[1:3]]
    assert first not in others
    assert claims.claim(owners[3]) == first


def test_a_claim_ends_with_its_directory(tmp_path: Path, owners: list[str]) -> None:
    claims = UidClaims(RANGE, str(tmp_path / "claims"))
    gone = claims.claim(owners[0])
    os.rmdir(owners[0])
    cleared: list[Block] = []
    block = claims.claim(owners[1], clear_up=cleared.append)
    assert cleared == [gone]
    assert block != gone
    # Another directory of the name is another node.
    Path(owners[4], "keeps-the-inode").touch()
    os.rename(owners[4], owners[0])
    assert claims.claim(owners[0]) not in (gone, block)


def test_numbers_in_the_nodes_own_files_are_taken_again_unless_somebody_has_them(
    tmp_path: Path, owners: list[str]
) -> None:
    claims = UidClaims(RANGE, str(tmp_path / "claims"))
    earlier = Block(7, 10_600, 512)
    assert claims.claim(owners[0], earlier) == earlier
    assert claims.claim(owners[1], earlier).first == 10_000


def test_blocks_of_another_range_that_reach_into_this_one_are_left_alone(tmp_path: Path, owners: list[str]) -> None:
    elsewhere = UidRange(9_000, 10_099)
    held = [UidClaims(elsewhere, str(tmp_path / "claims")).claim(owner) for owner in owners[:2]]
    assert [(block.first, block.last) for block in held] == [(9_000, 9_511), (9_512, 10_023)]
    claims = UidClaims(RANGE, str(tmp_path / "claims"))
    assert claims.claim(owners[2]).first == 11_024
    assert claims.claim(owners[3]).first == 10_512
    with pytest.raises(NoUidsLeft):
        claims.claim(owners[4])
    assert RANGE.blocks == 3


def test_a_claims_file_that_is_damaged_is_begun_anew(tmp_path: Path, owners: list[str]) -> None:
    directory = tmp_path / "claims"
    directory.mkdir()
    (directory / "claims.json").write_text("{")
    assert UidClaims(RANGE, str(directory)).claim(owners[0]).first == 10_000


# --- account files --------------------------------------------------------------------------------------------------

PASSWD = "root:x:0:0:root:/root:/bin/bash\n# a comment\n+::::::\nalice:x:1000:1000::/home/alice:/bin/sh\n"


def test_entries_come_and_go_and_nothing_else_changes(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text(PASSWD)
    (tmp_path / "passwd").chmod(0o640)
    (tmp_path / "group").write_text("root:x:0:\n")
    files = AccountFiles(str(tmp_path))
    account = AccountEntry("_azbatch1", 10_001, "/home/of/it")
    for _ in range(2):
        files.add(("_azbatchgrp1", 10_000), [account])
    added = (tmp_path / "passwd").read_text().removeprefix(PASSWD)
    assert added.count("\n") == 1
    assert added.startswith("_azbatch1:*:10001:10001:Millpond task user:/home/of/it:/bin/")
    assert (tmp_path / "group").read_text() == "root:x:0:\n_azbatch1:*:10001:\n_azbatchgrp1:*:10000:_azbatch1\n"
    assert (tmp_path / "passwd").stat().st_mode & 0o777 == 0o640
    assert files.taken_names() == {"root": 0, "alice": 1000, "_azbatch1": 10_001, "_azbatchgrp1": 10_000}
    files.remove(10_000, 10_511)
    assert (tmp_path / "passwd").read_text() == PASSWD
    assert (tmp_path / "group").read_text() == "root:x:0:\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pwd.lock", "group", "passwd"]


def test_a_bare_container_gets_files(tmp_path: Path) -> None:
    AccountFiles(str(tmp_path)).add(("g", 10_000), [AccountEntry("u", 10_001, "/")])
    assert (tmp_path / "passwd").read_text().startswith("u:*:10001:")


# --- who a task asks to be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "kind", "words"),
    [
        (None, TaskKind.TASK, "PoolNonAdmin"),
        (None, TaskKind.JOB_PREPARATION, "PoolNonAdmin"),
        (None, TaskKind.JOB_RELEASE, "PoolNonAdmin"),
        (None, TaskKind.START_TASK, "TaskNonAdmin"),
        (UserIdentity(), TaskKind.TASK, "PoolNonAdmin"),
        (UserIdentity(auto_user=AutoUser()), TaskKind.START_TASK, "PoolNonAdmin"),
        (UserIdentity(auto_user=AutoUser("Task", "nonAdmin")), TaskKind.TASK, "TaskNonAdmin"),
        (UserIdentity(auto_user=AutoUser(None, "Admin")), TaskKind.START_TASK, "PoolAdmin"),
        (UserIdentity(auto_user=AutoUser("task", "admin")), TaskKind.INSTANCE, "TaskAdmin"),
        (UserIdentity(user_name="bob"), TaskKind.TASK, "bob"),
    ],
)
def test_wishes(identity: UserIdentity | None, kind: TaskKind, words: str) -> None:
    name, own, admin = wished(identity, kind)
    assert identity_words(name, own=own, admin=admin) == words


# --- whether it can be had ------------------------------------------------------------------------------------------


def test_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_not(str(tmp_path), RANGE) == "the agent does not run as root"


# --- control groups -------------------------------------------------------------------------------------------------


def fake_proc(tmp_path: Path, groups: str, mounts: str) -> str:
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text(mounts)
    return str(proc)


def test_version_1_is_found_where_it_is_mounted(tmp_path: Path) -> None:
    mounts = (
        "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "31 24 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 24 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
        "33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    proc = fake_proc(tmp_path, "9:pids:/x\n4:memory:/a:b\n1:cpu,cpuacct:/docker/abc\n0::/\n", mounts)
    tree, reason = find_tree(proc, lambda path: "pids" not in path)
    assert reason == ""
    assert tree == CgroupTree(1, {"memory": "/sys/fs/cgroup/memory/a:b", "cpu": "/sys/fs/cgroup/cpu,cpuacct"})


class FakeV2:
    """The files the kernel would make, as far as they are written to."""

    def __init__(self, path: Path) -> None:
        self.root = path / "cgroup"
        self.root.mkdir()
        (self.root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (self.root / "cgroup.subtree_control").touch()
        self.proc = fake_proc(path, "0::/\n", f"30 24 0:26 / {self.root} rw - cgroup2 cgroup2 rw\n")

    def on_mkdir(self, path: str, mode: int = 0o777) -> None:
        self.mkdir(path, mode)
        for name in ("memory.max", "memory.swap.max", "memory.events", "pids.max", "cpu.weight"):
            Path(path, name).write_text("")
        Path(path, "cgroup.subtree_control").write_text("")

    mkdir = staticmethod(os.mkdir)

    def text(self, name: str) -> str:
        return (self.root / name).read_text()


def test_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeV2(tmp_path)
    tree, reason = find_tree(fake.proc)
    assert (reason, tree) == ("", CgroupTree(2, dict.fromkeys(("memory", "pids", "cpu"), str(fake.root))))
    assert fake.text("cgroup.subtree_control") == "+memory +pids +cpu"
    monkeypatch.setattr(os, "mkdir", fake.on_mkdir)
    assert tree is not None
    node = NodeCgroup(tree, "n", memory_bytes=1 << 30, task_slots=4, per_task=True)
    assert (fake.text("n/memory.max"), fake.text("n/pids.max")) == (str(1 << 30), "8192")
    assert fake.text("n/cgroup.subtree_control") == "+memory +pids +cpu"
    assert node.enter("t", 2) == (f"{fake.root}/n/t",)
    assert (fake.text("n/t/cpu.weight"), fake.text("n/t/memory.max")) == ("200", str(1 << 29))
    (fake.root / "n/t/memory.events").write_text("low 0\nhigh 0\nmax 5\noom 2\noom_kill 2\n")
    assert node.out_of_memory_kills("t") == 2
    node.close()
    shared = NodeCgroup(tree, "m", memory_bytes=0, task_slots=4)
    # Nothing may be both in a group and in one below it.
    assert shared.enter("t", 1) == (f"{fake.root}/m/rest",)
    assert shared.enter("u", 3) == (f"{fake.root}/m/u",)
    assert fake.text("m/u/cpu.weight") == "300"
    assert fake.text("m/memory.max") == ""


@pytest.mark.parametrize(
    ("groups", "mounts", "reason"),
    [
        ("0::/\n", "", "no control groups are mounted"),
        ("0::/\n", "30 24 0:26 / {root} rw - cgroup2 cgroup2 rw\n", "has none of memory, pids and cpu"),
        ("0::/\n", "30 24 0:26 / /no/where rw - cgroup2 cgroup2 rw\n", "cannot be read"),
    ],
)
def test_why_there_are_none(tmp_path: Path, groups: str, mounts: str, reason: str) -> None:
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    tree, told = find_tree(fake_proc(tmp_path, groups, mounts.format(root=tmp_path)))
    assert tree is None
    assert reason in told


def test_why_there_are_none_without_proc(tmp_path: Path) -> None:
    tree, told = find_tree(str(tmp_path / "nowhere"))
    assert tree is None
    assert "cannot be found" in told
