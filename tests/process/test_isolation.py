"""Who tasks run as and what they can reach, with real processes of real users. Needs root."""

import asyncio
import grp
import hashlib
import io
import os
import pwd
import shutil
import stat
import zipfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from millpond.agent import switch
from millpond.agent.isolation.as_user import acting_as
from millpond.agent.node_dirs import NodeDirectories
from millpond.domain.errors import TaskFailureCode
from millpond.domain.states import TaskKind
from tests.process.isolated import ADMIN, FIRST_UID, OWN, Machine, Node, open_directory, processes_of, why_not_here
from tests.unit.runner.test_task_runner import time_is_up
from tests.waiting import PATIENCE_S, until_true

WHY_NOT = why_not_here()

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"does not apply here: {WHY_NOT}")


@pytest.fixture
def place() -> Iterator[Path]:
    path = open_directory()
    # As the host's process: root's own groups would open what a task's user may not.
    groups = os.getgroups()
    os.setgroups([])
    yield path
    os.setgroups(groups)
    shutil.rmtree(path)


@pytest.fixture
async def machine(place: Path) -> AsyncIterator[Machine]:
    machine = Machine(place)
    yield machine
    await machine.close()


@pytest.fixture
def node(machine: Machine) -> Node:
    return machine.node()


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    facts = path.lstat()
    return facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)


def belongs_to(path: Path, uid: int) -> bool:
    return path.lstat().st_uid == uid


# --- users ----------------------------------------------------------------------------------------------------------


async def test_without_a_wish_a_task_is_the_pools_user(node: Node) -> None:
    printed = await node.output(
        "t", "id -u; id -g; id -G; echo $USER $AZ_BATCH_TASK_USER $AZ_BATCH_TASK_USER_IDENTITY; echo $HOME; umask"
    )
    uid, group = node.pool_uid, node.users.group
    assert printed.splitlines() == [
        str(uid),
        str(uid),
        f"{uid} {group}",
        f"{node.users.pool_user} {node.users.pool_user} PoolNonAdmin",
        str(node.task("t") / "wd"),
        "0022",
    ]
    assert owner_and_mode(node.task("t")) == (uid, uid, 0o770)
    assert owner_and_mode(node.task("t") / "wd") == (uid, uid, 0o770)
    assert owner_and_mode(node.task("t") / "stdout.txt") == (uid, uid, 0o644)


async def test_a_task_has_no_privilege_left(node: Node) -> None:
    printed = await node.output("t", "grep -E ^Cap[IPEA] /proc/self/status; id -ru; cat /proc/self/loginuid >/dev/null")
    assert {line.split()[-1] for line in printed.splitlines()[:4]} == {"0" * 16}
    outcome = await node.shell("u", "exec setpriv --reuid=0 true")
    assert outcome.exit_code != 0


async def test_a_user_of_the_tasks_own_is_made_for_it_and_gone_after(node: Node) -> None:
    script = "id -u; echo $AZ_BATCH_TASK_USER_IDENTITY; (setsid sleep 600 &) ; echo secret > kept; chmod 666 kept"
    first = (await node.output("a", script, userIdentity=OWN)).splitlines()
    second = (await node.output("b", script, userIdentity=OWN)).splitlines()
    assert first[1] == second[1] == "TaskNonAdmin"
    assert first[0] != second[0]
    for uid in (int(first[0]), int(second[0])):
        assert uid in node.users.block
        assert processes_of(uid) == []
        with pytest.raises(KeyError):
            pwd.getpwuid(uid)
    # What it left belongs to nobody any more: not even who gets the number next gets in.
    assert owner_and_mode(node.task("a"))[:2] == (0, 0)
    assert (await node.file("workitems/job/job-1/a/wd/kept"))[1] == b"secret\n"
    outcome = await node.shell("c", f"cat {node.task('a')}/wd/kept", userIdentity=OWN)
    assert outcome.exit_code == 1


async def test_numbers_are_not_given_twice_across_lives_of_the_agent(node: Node) -> None:
    uids = set()
    for life in range(3):
        uids.add(await node.output(f"t{life}", "id -u", userIdentity=OWN))
        await node.runner.close()
        node.machine.isolation.close_node(str(node.root))
        node = node.machine.node(node.name)
    assert len(uids) == 3


async def test_an_elevated_task_is_root(node: Node) -> None:
    printed = await node.output("t", "id -u; echo $AZ_BATCH_TASK_USER $AZ_BATCH_TASK_USER_IDENTITY", userIdentity=ADMIN)
    assert printed.splitlines() == ["0", "root PoolAdmin"]
    own = {"autoUser": {"scope": "task", "elevationLevel": "admin"}}
    printed = await node.output("u", "id -u; echo $AZ_BATCH_TASK_USER_IDENTITY", userIdentity=own)
    assert printed.splitlines() == ["0", "TaskAdmin"]


async def test_named_accounts(machine: Machine) -> None:
    accounts = [
        {"name": "bob", "linuxUserConfiguration": {"sshPrivateKey": "the key"}},
        {"name": "alice"},
        {"name": "given", "linuxUserConfiguration": {"uid": FIRST_UID + 90_001, "gid": FIRST_UID + 90_002}},
        {"name": "chief", "elevationLevel": "admin"},
        {"name": "zero", "linuxUserConfiguration": {"uid": 0, "gid": 0}},
    ]
    node = machine.node(accounts=accounts)
    script = "id -u; id -g; echo $AZ_BATCH_TASK_USER $AZ_BATCH_TASK_USER_IDENTITY"

    async def who(name: str) -> list[str]:
        return (await node.output(f"t-{name}", script, userIdentity={"username": name})).splitlines()

    bob, alice = await who("bob"), await who("alice")
    assert bob[2] == "bob bob"
    assert alice[2] == "alice alice"
    assert len({bob[0], alice[0], str(node.pool_uid)}) == 3
    assert all(int(uid) in node.users.block for uid in (bob[0], alice[0]))
    assert await who("given") == [str(FIRST_UID + 90_001), str(FIRST_UID + 90_002), "given given"]
    assert await who("chief") == ["0", "0", "chief chief"]
    # There was an alice on the machine, and she is left alone.
    entries = {line.split(":")[0]: line.split(":") for line in (machine.etc / "passwd").read_text().splitlines()}
    assert entries["alice"][2] == "1000"
    assert entries["bob"][2] == bob[0]
    assert entries[f"alice-{node.users.block.number}"][2] == alice[0]
    key = Path(entries["bob"][5]) / ".ssh/id_rsa"
    assert key.read_text() == "the key\n"
    assert owner_and_mode(key) == (int(bob[0]), int(bob[1]), 0o600)
    for name, word in (("nobody-here", "no user account"), ("zero", "uid 0")):
        outcome = await node.shell("x", "true", userIdentity={"username": name})
        assert outcome.failure is not None
        assert outcome.failure.code == TaskFailureCode.COMMAND_LAUNCH_FAILED
        assert word in outcome.failure.message
        assert not outcome.retryable
    # The same in the agent's next life, whatever order they come in.
    node.accounts = accounts[::-1]
    await node.runner.close()
    machine.isolation.close_node(str(node.root))
    node = machine.node(accounts=accounts[::-1])
    assert await who("bob") == bob


async def test_accounts_have_names_while_the_node_is_there(machine: Machine) -> None:
    node = machine.node()
    block = node.users.block
    before = (machine.etc / "passwd").read_text()
    assert f"\n{node.users.pool_user}:*:{node.pool_uid}:{node.pool_uid}:" in before
    assert (
        f"\n_azbatchgrp{block.number}:*:{block.first}:{node.users.pool_user}\n" in (machine.etc / "group").read_text()
    )
    await node.output("t", "true", userIdentity=OWN)
    # Nothing is written for a task.
    assert (machine.etc / "passwd").read_text() == before
    machine.isolation.remove_node(str(node.directory), str(node.root))
    assert (machine.etc / "passwd").read_text().splitlines() == before.splitlines()[:2]
    assert "_azbatch" not in (machine.etc / "group").read_text()


# --- what a task can reach ------------------------------------------------------------------------------------------


async def test_a_task_sees_no_other_users_directory(node: Node) -> None:
    await node.output("a", "echo secret > private")
    for identity in (OWN, {"autoUser": {"scope": "pool"}}):
        outcome = await node.shell("b", f"cat {node.task('a')}/wd/private", userIdentity=identity)
        # The pool's tasks share an account, as on the service; a user of a task's own is somebody else.
        assert outcome.exit_code == (1 if identity is OWN else 0)
    outcome = await node.shell(
        "c", f"ls {node.task('a')} || touch {node.task('a')}/x || ls {node.root}/workitems", userIdentity=OWN
    )
    assert outcome.exit_code != 0


async def test_a_task_sees_nothing_of_the_agent(machine: Machine, node: Node) -> None:
    secrets = [
        node.directory / "journal",
        node.directory / "users.json",
        node.root / "volatile/retention",
        machine.host / "spawner.lock",
        Path(f"/proc/{os.getpid()}/environ"),
        Path(f"/proc/{os.getpid()}/maps"),
    ]
    await node.output("warm-up", "true")
    for secret in secrets:
        assert secret.exists()
        for identity in (OWN, None):
            outcome = await node.shell("spy", f"cat {secret}", **({"userIdentity": identity} if identity else {}))
            assert outcome.exit_code == 1, secret
    closed = [machine.host, machine.host / "nodes", node.directory, node.root / "volatile", machine.host / "switch"]
    for directory in closed:
        assert (await node.shell("spy", f"ls {directory}")).exit_code == 2, directory
    assert (await node.shell("spy", f"touch {node.root}/x || touch {node.directory}/x")).exit_code == 1
    assert (await node.shell("spy", f"echo > {machine.host}/spawner.sock")).exit_code == 2


async def test_a_task_cannot_signal_what_runs_it(node: Node) -> None:
    outcome = await node.shell("t", "kill -9 $PPID || exit 7")
    assert outcome.exit_code == 7
    # All of its own it may: its account's other tasks die, and nothing else does.
    other = asyncio.create_task(node.shell("other", "touch there; exec sleep 600"))
    await until_true((node.task("other") / "wd/there").exists, "the other task runs")
    await node.run(node.start("u", "python3 -I -c 'import os; os.kill(-1, 9)'"))
    assert (await other).exit_code == -9
    assert (await node.shell("v", "true")).exit_code == 0


async def test_nodes_of_one_machine_are_strangers(machine: Machine) -> None:
    one, two = machine.node("n1"), machine.node("n2")
    assert one.pool_uid not in two.users.block
    await one.output("t", "echo secret > private; chmod 777 . private; echo x > $AZ_BATCH_NODE_SHARED_DIR/x")
    for path in (one.task("t") / "wd/private", one.root / "shared/x", one.directory / "journal"):
        assert (await two.shell("t", f"cat {path}")).exit_code == 1
    assert (await two.shell("t", f"ls {one.root}")).exit_code == 2


async def test_the_shared_directory_is_everybodys(node: Node) -> None:
    await node.output("a", "cd $AZ_BATCH_NODE_SHARED_DIR && mkdir d && echo a > d/a && echo b > b")
    printed = await node.output(
        "b",
        "cd $AZ_BATCH_NODE_SHARED_DIR && cat d/a && rm b && mkdir e && ls -d e",
        userIdentity=OWN,
    )
    assert printed.splitlines() == ["a", "e"]


async def test_what_a_preparation_task_leaves_can_be_read_by_all_and_written_by_its_user(node: Node) -> None:
    await node.output("prep", "echo ready > data", kind=TaskKind.JOB_PREPARATION, slots=0)
    path = node.task("prep") / "wd"
    assert owner_and_mode(path) == (node.pool_uid, node.users.group, 0o750)
    assert await node.output("a", f"cat {path}/data", userIdentity=OWN) == "ready\n"
    assert (await node.shell("b", f"touch {path}/x", userIdentity=OWN)).exit_code == 1
    assert (await node.shell("c", f"touch {path}/x")).exit_code == 0


# --- files ----------------------------------------------------------------------------------------------------------


async def test_resource_files_are_the_users(node: Node) -> None:
    node.staging.files["mem://in/a"] = b"#!/bin/sh\necho ran\n"
    files = [
        {"httpUrl": "mem://in/a", "filePath": "deep/er/run"},
        {"httpUrl": "mem://in/a", "filePath": "b", "fileMode": "0400"},
    ]
    printed = await node.output("t", "deep/er/run; echo x >> deep/er/run; touch deep/y", resourceFiles=files)
    assert printed == "ran\n"
    uid, wd = node.pool_uid, node.task("t") / "wd"
    assert owner_and_mode(wd / "deep/er/run") == (uid, uid, 0o770)
    assert owner_and_mode(wd / "b") == (uid, uid, 0o400)
    assert owner_and_mode(wd / "deep")[:2] == (uid, uid)


@pytest.mark.parametrize("identity", [None, OWN])
async def test_packages_are_read_by_all_users_of_the_node_and_written_by_none(
    machine: Machine, node: Node, identity: dict[str, object] | None
) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, mode in (("bin/tool", 0o700), ("data", 0o600)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(info, "#!/bin/sh\necho ran\n")
    node.staging.files["mem://p/a"] = content.getvalue()
    package = {"id": "a", "version": "1", "url": "mem://p/a", "sha256": hashlib.sha256(content.getvalue()).hexdigest()}
    script = "cd $AZ_BATCH_APP_PACKAGE_a_1 && bin/tool && cat data | wc -l; "
    for attempt in ("echo x >> data", "touch new", "touch bin/new", "rm -f data", "mv data x", "touch ../new"):
        script += f"({attempt}) 2>/dev/null && echo {attempt.split()[0]} was let; "
    more = {} if identity is None else {"userIdentity": identity}
    printed = await node.output("t", script + "true", applicationPackages=[package], **more)
    assert printed.split() == ["ran", "2"]
    # Users of other nodes do not get there.
    (directory,) = (node.root / "applications").iterdir()
    other = await machine.node("n2").shell("t", f"cat {directory}/data")
    assert other.exit_code not in (0, None)


async def test_while_files_are_fetched_nobody_else_gets_in(node: Node) -> None:
    node.staging.files["mem://in/a"] = b"a"
    node.staging.gate.clear()
    files = [{"httpUrl": "mem://in/a", "filePath": "d/a"}]
    running = asyncio.create_task(node.shell("t", "cat d/a", resourceFiles=files))
    await until_true(lambda: node.staging.waiting == 1, "the download has begun")
    # A task of the same user would put a link where the agent is about to write.
    outcome = await node.shell("other", f"cd {node.task('t')}/wd")
    assert outcome.exit_code not in (0, None)
    node.staging.gate.set()
    assert (await running).exit_code == 0


def output_file(pattern: str) -> dict[str, object]:
    return {
        "filePattern": pattern,
        "destination": {"container": {"containerUrl": "mem://out"}},
        "uploadOptions": {"uploadCondition": "taskcompletion"},
    }


async def test_uploads_are_read_as_the_tasks_user(machine: Machine, node: Node) -> None:
    await node.output("victim", "echo secret > private; chmod 600 private", userIdentity=OWN)
    outcome = await node.shell(
        "t", "echo mine > a; ln -s a b; chmod 600 a", outputFiles=[output_file("*")], userIdentity=OWN
    )
    assert outcome.failure is None
    assert node.staging.files == {"mem://out/a": b"mine\n", "mem://out/b": b"mine\n"}
    assert "2 file(s)" in (node.task("t") / "fileuploadout.txt").read_text()
    node.staging.files.clear()
    targets = [f"{node.task('victim')}/wd/private", f"{node.directory}/journal", f"{node.directory}/users.json"]
    for number, target in enumerate((*targets, "/etc/shadow")):
        third = node.task(f"w{number}")
        # As a link, and by its own name.
        await node.shell("u", f"ln -s {target} x", outputFiles=[output_file("x")], userIdentity=OWN)
        await node.shell("v", "true", outputFiles=[output_file(target)], userIdentity=OWN)
        # As a hard link, which the kernel may be told to let users make.
        start = node.start(
            third.name, "/bin/sh -c 'while [ ! -e x ]; do sleep 0.01; done'", outputFiles=[output_file("x")]
        )
        running = asyncio.create_task(node.run(start))
        await until_true((third / "wd").exists, "the directory is there")
        await until_true(partial(belongs_to, third, node.pool_uid), "the task runs")
        try:
            os.link(target, third / "wd/x")
        except OSError:
            # Another file system: then a task could not either.
            (third / "wd/x").touch()
            await running
            node.staging.files.pop("mem://out/x", None)
            continue
        outcome = await running
        assert outcome.failure is not None
        assert outcome.failure.code == TaskFailureCode.FILE_UPLOAD_MISC_ERROR
    assert node.staging.files == {}


async def test_the_logs_of_an_upload_overwrite_nothing(node: Node) -> None:
    await node.shell(
        "t",
        "echo kept > precious; ln precious ../fileuploadout.txt; ln -s wd/precious ../fileuploaderr.txt; touch a",
        outputFiles=[output_file("a")],
    )
    assert (node.task("t") / "wd/precious").read_text() == "kept\n"


async def test_the_api_reads_what_the_nodes_users_made_and_nothing_else(node: Node) -> None:
    await node.output("t", "echo mine > a; ln a b; chmod 0 a; ln -s /etc/shadow c; ln -s ../../../../../journal d")
    wd = node.task("t") / "wd"
    os.link(node.directory / "journal", wd / "e")
    for name in ("a", "b"):
        assert (await node.file(f"workitems/job/job-1/t/wd/{name}"))[1] == b"mine\n"
    for name in ("c", "d", "e"):
        reply, content = await node.file(f"workitems/job/job-1/t/wd/{name}")
        assert (reply.error, content) == ("FileNotFound", b"")


async def test_log_files_cannot_be_turned_elsewhere(node: Node) -> None:
    """A task of the same user may get at the directory before the process is started: it is opened as the user."""
    victim = node.directory / "victim"
    victim.write_text("kept")
    victim.chmod(0o600)
    start = node.start("t", "echo overwritten")
    attempt_directory = node.task("t")
    real = node.machine.executor.start

    async def plant(process: object) -> None:
        os.link(victim, attempt_directory / "stdout.txt")
        await real(process)

    node.machine.executor.start = plant
    try:
        outcome = await node.run(start)
    finally:
        node.machine.executor.start = real
    assert outcome.failure is not None
    assert "standard output" in outcome.failure.message
    assert victim.read_text() == "kept"


async def test_trash_takes_what_belongs_to_others_with_any_mode(node: Node) -> None:
    await node.output("t", "mkdir -p d/e; touch d/e/f; chmod 0 d/e/f d/e d", userIdentity=OWN)
    directories = NodeDirectories.of(str(node.root))
    directories.discard_task("workitems/job/job-1/t")
    while os.listdir(node.root / "volatile/trash"):
        directories.delete_slice()
    assert not node.task("t").exists()


async def test_a_directory_from_before_isolation_is_opened(machine: Machine) -> None:
    old = machine.host / "nodes/old/root"
    (old / "workitems/job/job-1/before/wd").mkdir(parents=True)
    (old / "startup/wd").mkdir(parents=True)
    node = machine.node("old")
    assert await node.output("t", "echo $AZ_BATCH_TASK_ID") == "t\n"
    assert (await node.shell("u", f"ls {node.task('before')}/wd")).exit_code in (0, 2)


# --- programs -------------------------------------------------------------------------------------------------------


async def test_a_program_out_of_reach_is_said_so(machine: Machine, node: Node) -> None:
    home = machine.path / "home"
    (home / "bin").mkdir(parents=True)
    home.chmod(0o700)
    (home / "bin/tool").symlink_to("/bin/true")
    (machine.path / "link").symlink_to(home / "bin/tool")
    script = machine.path / "script"
    script.write_text(f"#!{home}/bin/tool\n")
    script.chmod(0o755)
    for program in (home / "bin/tool", machine.path / "link", script):
        outcome = await node.run(node.start("t", str(program)))
        assert outcome.failure is not None
        assert outcome.failure.code == TaskFailureCode.COMMAND_LAUNCH_FAILED
        assert f"may not enter or execute {str(home)!r}" in outcome.failure.message
        assert not outcome.retryable
    assert (await node.run(node.start("u", str(home / "bin/tool"), userIdentity=ADMIN))).exit_code == 0


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND, "was not found"),
        ("#!/no/such/interpreter\n", TaskFailureCode.COMMAND_LAUNCH_FAILED, "interpreter"),
        ("no program\n", TaskFailureCode.COMMAND_LAUNCH_FAILED, "neither a program"),
    ],
)
async def test_what_cannot_be_started_is_told_as_without_isolation(
    machine: Machine, node: Node, content: str | None, code: TaskFailureCode, words: str
) -> None:
    program = machine.path / "program"
    if content is not None:
        program.write_text(content)
        program.chmod(0o755)
    outcome = await node.run(node.start("t", str(program)))
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.exit_code) == (code, None)
    assert words in outcome.failure.message
    assert (node.task("t") / "stderr.txt").read_text() == ""


async def test_a_resumed_task_keeps_its_user(node: Node) -> None:
    start = node.start(
        "t",
        "/bin/sh -c 'id -u > uid; while [ ! -e go ]; do sleep 0.01; done; echo done > out'",
        userIdentity=OWN,
        outputFiles=[output_file("out")],
    )
    first = asyncio.create_task(node.run(start))
    await until_true(
        lambda: (node.task("t") / "wd/uid").exists() and bool((node.task("t") / "wd/uid").read_text()), "runs"
    )
    async with asyncio.timeout(PATIENCE_S):
        while not await node.machine.executor.known():
            await asyncio.sleep(0.005)
    first.cancel()
    await asyncio.wait([first])
    await node.runner.close()
    node.next_life()
    second = asyncio.create_task(node.run(start, resumed=True))
    await until_true(lambda: node.users.is_live(node.task("t").stat().st_uid), "it is known again")
    uid = int((node.task("t") / "wd/uid").read_text())
    assert node.task("t").stat().st_uid == uid
    assert int(await node.output("u", "id -u", userIdentity=OWN)) != uid
    (node.task("t") / "wd/go").touch()
    assert (await second).exit_code == 0
    assert node.staging.files == {"mem://out/out": b"done\n"}
    assert owner_and_mode(node.task("t"))[0] == 0


async def test_the_wall_clock_ends_every_process_of_the_tasks_user(node: Node) -> None:
    script = "(setsid sleep 600 &); (setsid setsid sleep 600 &); sleep 600"
    limit = {"maxWallClockTime": "PT1H"}
    start = node.start("t", f"/bin/sh -c '{script}'", userIdentity=OWN, constraints=limit)
    own_users = range(node.users.block.first + 32, node.users.block.first + 40)
    run = asyncio.create_task(node.run(start))
    await until_true(lambda: sum(len(processes_of(uid)) for uid in own_users) >= 3, "they run")
    time_is_up(node.runner, start.key)
    outcome = await run
    assert outcome.failure is not None
    assert outcome.failure.code == TaskFailureCode.TASK_ENDED
    assert "maximum wall clock time" in outcome.failure.message
    assert [(detail.name, detail.value) for detail in outcome.failure.details] == [("MaxWallClockTime", "PT1H")]
    assert outcome.exit_code == -9
    assert [uid for uid in own_users if processes_of(uid)] == []


async def test_setpriv_where_there_is_no_switch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "program", lambda: None)
    if shutil.which("setpriv") is None:
        pytest.skip("does not apply here: no setpriv")
    machine = Machine(place)
    assert machine.isolation.switch.endswith("/setpriv")
    node = machine.node()
    try:
        uid = node.pool_uid
        assert await node.output("t", "id -u; id -G") == f"{uid}\n{uid} {node.users.group}\n"
        printed = await node.output("u", "grep -E ^Cap[IPEA] /proc/self/status")
        assert {line.split()[-1] for line in printed.splitlines()} == {"0" * 16}
        outcome = await node.run(node.start("v", "no-such-program-anywhere"))
        assert outcome.failure is not None
        assert outcome.failure.code == TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND
        assert (await node.shell("w", "id -u", userIdentity=ADMIN)).exit_code == 0
    finally:
        await machine.close()


async def test_acting_as_a_user_is_this_threads_own_affair(node: Node) -> None:
    shadow = Path("/etc/shadow")
    identity = node.users.identify(None, TaskKind.TASK)

    def look() -> bool:
        with acting_as(identity.run_as):
            return os.access(shadow, os.R_OK, effective_ids=True)

    assert not await asyncio.to_thread(look)
    assert os.access(shadow, os.R_OK, effective_ids=True)
    assert grp.getgrgid(0)
