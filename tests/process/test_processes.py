"""Real processes under the spawner: trees, crashes, limits."""

import asyncio
import contextlib
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from millpond.agent.base import GivenBack, ProcessExit, ProcessSpec
from millpond.agent.executors.compiled import build
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.spawning import frames
from millpond.domain.errors import TaskFailure, TaskFailureCode
from tests.machine import command_lines, runs
from tests.waiting import PATIENCE_S, until_true


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


class Host:
    """A host's directory, with the executor of its present life."""

    def __init__(self, path: Path, *, compiled: bool = False) -> None:
        """`compiled`: the starter in C is used."""
        self.path = path
        self.directory = str(path / "host")
        self._is_compiled = compiled
        self.executor = ProcessExecutor(self.directory, compiles=False)

    async def begin(self) -> None:
        if self._is_compiled:
            assert await self.executor.compile()

    def spec(self, *argv: str, name: str = "a", **environment: str) -> ProcessSpec:
        return ProcessSpec(
            id=f"node/{name}/1",
            argv=argv,
            directory=str(self.path),
            environment={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
            stdout_path=str(self.path / f"{name}.out"),
            stderr_path=str(self.path / f"{name}.err"),
        )

    def shell(self, script: str, name: str = "a") -> ProcessSpec:
        return self.spec("/bin/sh", "-c", script, name=name)

    async def run(self, spec: ProcessSpec) -> ProcessExit:
        await self.executor.start(spec)
        ended = await self.executor.wait(spec.id)
        assert ended is not None
        return ended

    def out(self, name: str = "a") -> str:
        return (self.path / f"{name}.out").read_text()

    def err(self, name: str = "a") -> str:
        return (self.path / f"{name}.err").read_text()

    def pids(self, name: str) -> list[int]:
        """The numbers a script wrote, one a line."""
        with contextlib.suppress(FileNotFoundError):
            return [int(line) for line in (self.path / name).read_text().splitlines(keepends=True) if line[-1] == "\n"]
        return []

    def spawner_pid(self) -> int:
        wanted = f"spawner.py\0{self.directory}\0"
        return next(pid for pid, arguments in command_lines() if wanted in arguments)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the spawner, as an agent does: the socket's own path may be too long for that."""
        directory = os.open(self.directory, os.O_PATH)
        try:
            return await asyncio.open_unix_connection(f"/proc/self/fd/{directory}/{frames.SOCKET_NAME}")
        finally:
            os.close(directory)

    async def crash(self) -> None:
        """The agent is gone without a word; a new life begins."""
        await self.executor.close()
        self.executor = ProcessExecutor(self.directory, compiles=False)
        await self.begin()


@pytest.fixture(params=["python", "compiled"])
async def host(request: pytest.FixtureRequest, tmp_path: Path, leave_out: Callable[[str], None]) -> AsyncIterator[Host]:
    if request.param == "compiled" and not build(str(tmp_path / "host" / "compiled")):
        leave_out("no C compiler")
    host = Host(tmp_path, compiled=request.param == "compiled")
    await host.begin()
    yield host
    await host.executor.shutdown()


# --- starting -------------------------------------------------------------------------------------------------------


async def test_what_a_process_is_given(host: Host) -> None:
    script = """
import os, signal, sys
print(sys.argv[1:])
print(os.getcwd(), os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), os.umask(0))
print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:3], os.readlink('/proc/self/fd/0'))
print(sum(1 for fd in os.listdir('/proc/self/fd') if int(fd) > 2))
print(sorted(name for name in os.environ if name != 'LC_CTYPE'))
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
print(int(status['SigBlk'], 16), int(status['SigIgn'], 16) & 1 << signal.SIGHUP - 1)
print('to the other', file=sys.stderr)
"""
    spec = host.spec(sys.executable, "-c", script, "two words", "", "ünïcode", "$HOME", FIRST="1", EMPTY="")
    ended = await host.run(spec)
    assert ended.exit_code == 0, host.err()
    lines = host.out().splitlines()
    assert lines[0] == "['two words', '', 'ünïcode', '$HOME']"
    assert lines[1] == f"{host.path} True True {0o022}"
    assert lines[2] == "[0, 1, 2] /dev/null"
    # Only the listing's own descriptor is open beyond those three.
    assert lines[3] == "1"
    assert lines[4] == "['EMPTY', 'FIRST', 'MILLPOND_PROCESS', 'PATH']"
    assert lines[5] == "0 0"
    assert host.err() == "to the other\n"
    assert stat.S_IMODE((host.path / "a.out").stat().st_mode) == 0o644


async def test_processes_are_given_a_limit_of_open_files(host: Host) -> None:
    host.executor = ProcessExecutor(host.directory, open_files=333, compiles=False)
    await host.begin()
    await host.run(host.shell("ulimit -Sn"))
    assert host.out() == "333\n"


async def test_a_starter_that_cannot_be_loaded_is_done_without(host: Host) -> None:
    broken = host.path / "broken.so"
    broken.write_bytes(b"no library")
    await host.executor.open()
    assert host.executor._connection is not None
    host.executor._connection.write(frames.frame(frames.COMPILED, os.fsencode(broken)))
    assert (await host.run(host.shell("exit 3"))).exit_code == 3


def test_the_starter_is_built_where_there_is_room_for_it(tmp_path: Path, leave_out: Callable[[str], None]) -> None:
    closed, other = tmp_path / "a file" / "pycache", tmp_path / "compiled"
    (tmp_path / "a file").touch()
    built = build(str(other), str(closed))
    if not built:
        leave_out("no C compiler")
    assert Path(built).parent == other
    assert os.listdir(other) == [Path(built).name]
    assert build(str(other), str(closed)) == built


async def test_logs_are_begun_anew(host: Host) -> None:
    (host.path / "a.out").write_text("of an earlier attempt")
    await host.run(host.shell("echo new"))
    assert host.out() == "new\n"


async def test_a_log_is_not_written_through_a_link(host: Host) -> None:
    victim = host.path / "victim"
    victim.write_text("precious")
    (host.path / "a.out").symlink_to(victim)
    with pytest.raises(TaskFailure) as caught:
        await host.executor.start(host.shell("echo new"))
    assert caught.value.code is TaskFailureCode.COMMAND_LAUNCH_FAILED
    assert victim.read_text() == "precious"


async def test_cpu_time(host: Host) -> None:
    ended = await host.run(
        host.spec(sys.executable, "-c", "import time\nwhile time.process_time() < 0.05: pass", PYTHONHASHSEED="0")
    )
    assert ended.user_cpu_s + ended.kernel_cpu_s >= 0.04


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("no-such-program",), TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND),
        (("./no-such-program",), TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND),
        (("/no/such/program",), TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND),
        (("./plain.txt",), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        (("./sub",), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        (("/",), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        (("./no-interpreter",), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        (("./no-format",), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        (("",), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        ((), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        (("true", "a\0b"), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        (("true", "\ud800"), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        (("true", "x" * 200_000), TaskFailureCode.COMMAND_LAUNCH_FAILED),
        (("true", *["x" * 100_000] * 200), TaskFailureCode.COMMAND_LAUNCH_FAILED),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value.value,
)
async def test_what_cannot_be_started(host: Host, argv: tuple[str, ...], code: TaskFailureCode) -> None:
    (host.path / "plain.txt").write_text("just text")
    (host.path / "sub").mkdir()
    for name, text in (("no-interpreter", "#!/no/such/interpreter\n"), ("no-format", "neither this nor that\n")):
        (host.path / name).write_text(text)
        (host.path / name).chmod(0o755)
    with pytest.raises(TaskFailure) as caught:
        await host.executor.start(host.spec(*argv))
    assert caught.value.code is code
    assert caught.value.user_error
    assert list(await host.executor.known()) == []
    # The spawner is none the worse for it.
    assert (await host.run(host.shell("exit 3", name="b"))).exit_code == 3


async def test_program_by_path_and_by_directory(host: Host) -> None:
    for name in ("tool", "hidden"):
        (host.path / name).write_text(f"#!/bin/sh\necho {name}\n")
        (host.path / name).chmod(0o755)
    (host.path / "sub").mkdir()
    (host.path / "sub" / "tool").write_text("not executable: the search goes on")
    assert (await host.run(host.spec("./hidden", name="b"))).exit_code == 0
    assert host.out("b") == "hidden\n"
    spec = host.spec("tool", name="c", PATH=f"{host.path}/sub:{host.path}:/usr/bin:/bin")
    assert (await host.run(spec)).exit_code == 0
    assert host.out("c") == "tool\n"


async def test_a_missing_directory_is_the_nodes_fault(host: Host) -> None:
    spec = ProcessSpec("node/a/1", ("true",), "/no/such/place", {}, str(host.path / "o"), str(host.path / "e"))
    with pytest.raises(TaskFailure) as caught:
        await host.executor.start(spec)
    assert not caught.value.user_error


# --- ending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_ended_by_a_signal(host: Host, number: signal.Signals) -> None:
    assert (await host.run(host.shell(f"kill -{int(number)} $$"))).exit_code == -number


PYTHON_DAEMON = """
import os, sys, time
def forever(name):
    with open(name, 'a') as file:
        file.write(f'{os.getpid()}\\n')
    time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        forever('pids')
    forever('pids')
if os.fork() == 0:
    os.setpgid(0, 0)
    forever('pids')
if os.fork() == 0:
    forever('pids')
"""


async def spread(host: Host, rest: str, count: int = 4, environment: str = "") -> ProcessSpec:
    """Start a process that has `count` descendants in other groups, sessions and hands; then it does `rest`."""
    script = PYTHON_DAEMON + environment + f"\nwhile len(open('pids').readlines()) < {count}: time.sleep(0.01)\n" + rest
    (host.path / "pids").touch()
    spec = host.spec(sys.executable, "-S", "-c", script)
    await host.executor.start(spec)
    await until_true(lambda: len(host.pids("pids")) == count, "the tree did not grow")
    return spec


async def test_no_child_outlives_its_task(host: Host) -> None:
    spec = await spread(host, "sys.exit(4)")
    ended = await host.executor.wait(spec.id)
    assert ended is not None
    assert ended.exit_code == 4
    assert [pid for pid in host.pids("pids") if runs(pid)] == []


async def test_kill_takes_the_whole_tree(host: Host) -> None:
    spec = await spread(host, "time.sleep(600)")
    await host.executor.kill(spec.id)
    ended = await host.executor.wait(spec.id)
    assert ended is not None
    assert ended.exit_code == -9
    assert [pid for pid in host.pids("pids") if runs(pid)] == []


async def test_kill_takes_what_ignores_sigterm_and_is_stopped(host: Host) -> None:
    host.executor = ProcessExecutor(host.directory, grace_s=0.1)
    script = (
        "trap '' TERM HUP INT; echo $$ >> pids; (trap '' TERM; echo 1; kill -STOP $$) ; while :; do sleep 600; done"
    )
    await host.executor.start(host.shell(script))
    await until_true(lambda: len(host.pids("pids")) == 1, "it did not begin")
    await host.executor.kill("node/a/1")
    ended = await host.executor.wait("node/a/1")
    assert ended is not None
    assert ended.exit_code == -9
    assert not runs(host.pids("pids")[0])


async def test_grace_lets_a_process_end_by_itself(host: Host) -> None:
    host.executor = ProcessExecutor(host.directory, grace_s=60.0)
    script = "trap 'echo bye; exit 6' TERM; echo $$ >> pids; while :; do sleep 0.01; done"
    await host.executor.start(host.shell(script))
    await until_true(lambda: len(host.pids("pids")) == 1, "it did not begin")
    await host.executor.kill("node/a/1")
    ended = await host.executor.wait("node/a/1")
    assert ended is not None
    assert ended.exit_code == 6
    assert host.out() == "bye\n"


async def test_a_daemon_without_the_marker_is_found_by_its_time(host: Host) -> None:
    """It clears its environment and begins a session: nothing is left to know it by but when it came."""
    script = "env -i setsid sh -c 'echo $$ >> pids; exec sleep 600' & while [ ! -s pids ]; do sleep 0.01; done; exit 2"
    assert (await host.run(host.shell(script))).exit_code == 2
    assert not runs(host.pids("pids")[0])


async def test_strays_of_another_task_are_left_alone(host: Host) -> None:
    """One task daemonises and runs on; another comes and goes."""
    script = "setsid sh -c 'echo $$ >> pids; exec sleep 600' & while [ ! -s pids ]; do sleep 0.01; done; exec 2>&-; "
    # Through a middle process that ends, so that the daemon is the spawner's child.
    await host.executor.start(host.shell(f'sh -c "{script}"; echo up > up; sleep 600', name="a"))
    await until_true((host.path / "up").exists, "the daemon did not start")
    pid = host.pids("pids")[0]
    assert (await host.run(host.shell("exit 1", name="b"))).exit_code == 1
    assert runs(pid)
    await host.executor.kill("node/a/1")
    await host.executor.wait("node/a/1")
    assert not runs(pid)


async def test_a_chain_that_keeps_forking_is_caught(host: Host) -> None:
    script = """
import os, time
if os.fork():
    while not os.path.exists('last'):
        time.sleep(0.01)
    time.sleep(0.2)
    os._exit(0)
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
    open('last', 'w').write(str(os.getpid()))
    time.sleep(0.002)
"""
    ended = await host.run(host.spec(sys.executable, "-S", "-c", script))
    assert ended.exit_code == 0
    last = int((host.path / "last").read_text() or 0)
    assert not runs(last)


# --- crashes --------------------------------------------------------------------------------------------------------


async def test_an_agent_killed_outright(host: Host) -> None:
    """Another process plays the agent, starts tasks and is killed; its tasks and their exits are found."""
    program = f"""
import asyncio, sys
sys.path[:0] = {sys.path!r}
from millpond.agent.base import ProcessSpec
from millpond.agent.executors.process import ProcessExecutor
async def main():
    executor = ProcessExecutor({host.directory!r})
    for name, script in (('long', 'while [ ! -e go ]; do sleep 0.01; done; exit 11'), ('short', 'exit 12')):
        await executor.start(ProcessSpec(f'node/{{name}}/1', ('/bin/sh', '-c', script), {str(host.path)!r},
            {{'PATH': '/usr/bin:/bin'}}, {str(host.path)!r} + f'/{{name}}.out', {str(host.path)!r} + f'/{{name}}.err'))
    print('up', flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert agent.stdout is not None
    assert await agent.stdout.readline() == b"up\n"
    agent.kill()
    await agent.communicate()
    assert sorted(await host.executor.known()) == ["node/long/1", "node/short/1"]
    (host.path / "go").touch()
    ended = await asyncio.gather(*(host.executor.wait(f"node/{name}/1") for name in ("long", "short")))
    assert [one.exit_code for one in ended if one is not None] == [11, 12]


async def test_an_exit_while_nobody_listens_is_kept(host: Host) -> None:
    await host.executor.start(host.shell("while [ ! -e go ]; do sleep 0.01; done; echo done > done; exit 21"))
    pid = host.spawner_pid()
    await host.crash()
    (host.path / "go").touch()
    await until_true((host.path / "done").exists, "the task did not run on")
    ended = await host.executor.wait("node/a/1")
    assert ended is not None
    assert ended.exit_code == 21
    assert host.spawner_pid() == pid
    await host.executor.forget("node/a/1")
    await asyncio.sleep(0)  # it goes out with the loop's next turn
    await host.crash()
    assert list(await host.executor.known()) == []


async def test_a_spawner_killed_outright(host: Host) -> None:
    """Its tasks are lost: whoever waits is told, and they do not run on."""
    spec = await spread(host, "time.sleep(600)")
    pid = host.spawner_pid()
    waiting = asyncio.ensure_future(host.executor.wait(spec.id))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    assert await asyncio.wait_for(waiting, PATIENCE_S) is None
    await until_true(lambda: not any(runs(pid) for pid in host.pids("pids")), "the lost task runs on")
    assert host.spawner_pid() != pid
    assert (await host.run(host.shell("exit 5", name="b"))).exit_code == 5


class Watched:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def running(self, began: float, *, is_over: bool) -> None:
        self.told.append("running")

    def ended(self, exit_: ProcessExit | None) -> None:
        self.told.append(exit_ and exit_.exit_code)

    def failed(self, error: Exception) -> None:
        self.told.append(type(error))


async def test_a_spawner_killed_outright_while_a_process_is_watched(host: Host) -> None:
    """It was lost; what is begun before there is a new spawner is begun there."""
    await host.executor.open()
    first, second = Watched(), Watched()
    host.executor.begin(host.shell("sleep 600"), first)
    await until_true(lambda: first.told == ["running"])
    os.kill(host.spawner_pid(), signal.SIGKILL)
    host.executor.begin(host.shell("exit 5", name="b"), second)
    await until_true(lambda: len(first.told) == 2 and len(second.told) == 2, "they are not told")
    assert first.told == ["running", None]
    assert second.told == ["running", 5]


async def test_an_agent_that_ends_tells_its_watchers(host: Host) -> None:
    await host.executor.open()
    watched = Watched()
    host.executor.begin(host.shell("sleep 600"), watched)
    await until_true(lambda: watched.told == ["running"])
    await host.executor.close()
    assert watched.told == ["running", ConnectionResetError]
    assert not host.executor.is_ready
    host.executor = ProcessExecutor(host.directory)
    await host.executor.kill("node/a/1")
    exit_ = await host.executor.wait("node/a/1")
    assert exit_ is not None
    assert exit_.exit_code == -signal.SIGKILL


# --- what waits for others to end -----------------------------------------------------------------------------------


def in_lane(spec: ProcessSpec) -> ProcessSpec:
    return msgspec.structs.replace(spec, lane="node", width=1)


async def run_in_lane(host: Host, spec: ProcessSpec) -> list[object]:
    """Begun again when it is given back, as the lane is not what it was when this agent last heard of it: only once."""
    for _ in range(2):
        watched = Watched()
        host.executor.begin(in_lane(spec), watched)
        await until_true(lambda told=watched.told: told == [GivenBack] or len(told) == 2)
        if watched.told != [GivenBack]:
            break
    return watched.told


async def test_what_waits_behind_a_long_task_is_given_back(host: Host) -> None:
    await host.executor.open()
    first, second = Watched(), Watched()
    host.executor.begin(in_lane(host.shell("sleep 600")), first)
    host.executor.begin(in_lane(host.shell("exit 5", name="b")), second)
    await until_true(lambda: second.told, "it is not given back")
    assert second.told == [GivenBack]
    await until_true(lambda: first.told == ["running"])
    assert await host.executor.known() == ["node/a/1"]
    await host.executor.kill("node/a/1")
    await until_true(lambda: first.told == ["running", -signal.SIGKILL])
    assert await run_in_lane(host, host.shell("exit 5", name="b")) == ["running", 5]


async def test_what_waits_is_not_begun_when_the_agent_is_gone(host: Host) -> None:
    """The next agent is told that it has not been, also if it was about to be told the last one."""
    await host.executor.open()
    host.executor.begin(in_lane(host.shell("sleep 600")), Watched())
    for name in "bc":
        host.executor.begin(in_lane(host.shell(f"touch {host.path}/{name}", name=name)), Watched())
    await asyncio.sleep(0)
    await host.crash()
    assert await host.executor.known() == ["node/a/1"]
    assert await host.executor.began("node/a/1") > 0
    for name in "bc":
        with pytest.raises(GivenBack):
            await host.executor.began(f"node/{name}/1")
    assert await host.executor.began("node/never heard of/1") == 0
    await host.executor.end("node/a/1")
    assert await run_in_lane(host, host.shell(f"touch {host.path}/b", name="b")) == ["running", 0]
    await host.crash()
    assert sorted(await host.executor.known()) == ["node/a/1", "node/b/1"]
    assert await host.executor.began("node/b/1") > await host.executor.began("node/a/1")
    with pytest.raises(GivenBack):
        await host.executor.began("node/c/1")
    assert not (host.path / "c").exists()


async def test_what_waits_goes_to_the_next_spawner(host: Host) -> None:
    """When the one before is killed: what ran there is lost, what had not begun begins once."""
    await host.executor.open()
    first = Watched()
    host.executor.begin(in_lane(host.shell("sleep 600")), first)
    await until_true(lambda: first.told == ["running"])
    os.kill(host.spawner_pid(), signal.SIGKILL)
    others = [Watched() for _ in range(3)]
    for number, watched in enumerate(others):
        host.executor.begin(in_lane(host.shell(f"echo {number} >> {host.path}/ran", name=f"b{number}")), watched)
    await until_true(lambda: all(len(watched.told) == 2 or watched.told == [GivenBack] for watched in others))
    assert first.told == ["running", None]
    ran = [str(number) for number, watched in enumerate(others) if watched.told == ["running", 0]]
    assert (host.path / "ran").read_text().split() == ran
    assert ran, "not even the first"


async def test_what_waits_ends_with_the_spawner(host: Host) -> None:
    await host.executor.open()
    first, second = Watched(), Watched()
    host.executor.begin(in_lane(host.shell("sleep 600")), first)
    host.executor.begin(in_lane(host.shell(f"touch {host.path}/b", name="b")), second)
    await host.executor.shutdown()
    assert first.told[-1] in (ConnectionResetError, -signal.SIGKILL)
    assert second.told[0] in (ConnectionResetError, GivenBack)
    assert not (host.path / "b").exists()
    host.executor = ProcessExecutor(host.directory)


async def test_files_it_left_come_with_its_end(host: Host) -> None:
    """Where that is not looked at, the agent does."""
    spec = host.shell("echo four; echo >&2")
    exit_ = await host.run(spec)
    if not exit_.outputs:
        assert exit_.directory_inode == 0
        return
    assert exit_.directory_inode == os.stat(os.path.dirname(spec.directory)).st_ino
    for seen, path in zip(exit_.outputs, (spec.stdout_path, spec.stderr_path), strict=True):
        facts = os.stat(path)
        assert (seen.inode, seen.size, seen.mode) == (facts.st_ino, facts.st_size, facts.st_mode)
        assert seen.last_modified == pytest.approx(facts.st_mtime)


async def test_two_agents_starting_at_once_share_a_spawner(host: Host) -> None:
    other = ProcessExecutor(host.directory)
    # The later one takes the place of the earlier, which connects again when it has something to ask.
    await asyncio.gather(host.executor.known(), other.known())
    await other.close()
    assert (await host.run(host.shell("exit 9"))).exit_code == 9


async def test_a_spawner_ends_when_nobody_comes(host: Host) -> None:
    host.executor = ProcessExecutor(host.directory, linger_s=0.0)
    await host.run(host.shell("exit 0"))
    pid = host.spawner_pid()
    await host.executor.close()
    await until_true(lambda: not runs(pid), "the spawner stays")
    # The next life starts its own.
    host.executor = ProcessExecutor(host.directory)
    assert list(await host.executor.known()) == []


async def test_a_spawner_without_a_directory_ends_with_its_tasks(tmp_path: Path) -> None:
    host = Host(tmp_path)
    await host.executor.start(host.shell("echo $$ >> pids; exec sleep 600"))
    await until_true(lambda: len(host.pids("pids")) == 1, "it did not begin")
    pid = host.spawner_pid()
    await host.executor.close()
    (Path(host.directory) / frames.SOCKET_NAME).unlink()
    await until_true(lambda: not runs(pid) and not runs(host.pids("pids")[0]), "they stay")


async def test_a_forgotten_process_is_still_the_spawners(host: Host) -> None:
    """It is known no more, but killed and reaped like any other."""
    await host.executor.start(host.shell("echo $$ >> pids; exec sleep 600"))
    await until_true(lambda: len(host.pids("pids")) == 1, "it did not begin")
    await host.executor.forget("node/a/1")
    await asyncio.sleep(0)  # it goes out with the loop's next turn
    await host.crash()
    assert list(await host.executor.known()) == []
    await host.executor.kill("node/a/1")
    await until_true(lambda: not Path(f"/proc/{host.pids('pids')[0]}").exists(), "it runs on")


async def test_shutdown_ends_everything(host: Host) -> None:
    spec = await spread(host, "time.sleep(600)")
    pid = host.spawner_pid()
    waiting = asyncio.ensure_future(host.executor.wait(spec.id))
    await asyncio.sleep(0)
    await host.executor.shutdown()
    ended = await waiting
    assert ended is not None
    assert ended.exit_code == -9
    await until_true(lambda: not runs(pid), "the spawner stays")
    assert [pid for pid in host.pids("pids") if runs(pid)] == []


async def test_a_client_that_talks_nonsense_is_dropped(host: Host) -> None:
    assert (await host.run(host.shell("exit 0"))).exit_code == 0
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n" * 100, frames.frame(99), frames.frame(frames.KILL, b"a", b"soon")):
        reader, writer = await host.connect()
        writer.write(nonsense)
        await reader.read()
        await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        await writer.wait_closed()
    assert (await host.run(host.shell("exit 8", name="b"))).exit_code == 8


# --- many -----------------------------------------------------------------------------------------------------------


async def test_thousands_leave_nothing_behind(host: Host) -> None:
    await host.run(host.shell("exit 0", name="first"))
    pid = host.spawner_pid()
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    numbers = iter(range(2000))

    async def lane() -> None:
        for number in numbers:
            spec = host.spec("true", name=f"quick{number % 8}-{number}")
            spec = ProcessSpec(
                spec.id, spec.argv, spec.directory, spec.environment, f"{host.path}/out{number % 8}", f"{host.path}/err"
            )
            assert (await host.run(spec)).exit_code == 0
            await host.executor.forget(spec.id)

    await asyncio.gather(*(lane() for _ in range(4)))
    assert list(await host.executor.known()) == ["node/first/1"]
    assert len(os.listdir(f"/proc/{pid}/fd")) == descriptors
    assert children(pid) == ""


# --- attempts of several processes ----------------------------------------------------------------------------------


def of_attempt(spec: ProcessSpec, name: str, *, keeps: bool = True, appends: bool = False) -> ProcessSpec:
    return msgspec.structs.replace(spec, id=f"node/a/1/{name}", keeps=keeps, appends=appends)


async def test_what_is_kept_outlives_its_process_and_ends_with_the_attempt(host: Host) -> None:
    (host.path / "pids").touch()
    script = PYTHON_DAEMON + "\nwhile len(open('pids').readlines()) < 4: time.sleep(0.01)\nsys.exit(0)\n"
    spec = of_attempt(host.spec(sys.executable, "-S", "-c", script), "coordination")
    assert (await host.run(spec)).exit_code == 0
    left = host.pids("pids")
    assert len(left) == 4
    # Another process of the attempt comes and goes, and so does another attempt: both leave it alone.
    assert (await host.run(of_attempt(host.shell("exit 3"), "command-1"))).exit_code == 3
    assert (await host.run(host.shell("exit 0", name="b"))).exit_code == 0
    assert [pid for pid in left if runs(pid)] == left
    await host.executor.end("node/a/1")
    assert [pid for pid in left if runs(pid)] == []
    ended = await host.executor.wait(spec.id)
    assert ended is not None
    assert ended.exit_code == 0


async def test_what_is_kept_and_hides_ends_with_the_attempt(host: Host) -> None:
    script = "env -i setsid sh -c 'echo $$ >> pids; exec sleep 600' & while [ ! -s pids ]; do sleep 0.01; done"
    await host.run(of_attempt(host.shell(script), "coordination"))
    (left,) = host.pids("pids")
    await host.executor.start(host.shell("sleep 600", name="b"))
    await host.executor.end("node/b/1")
    assert runs(left)
    await host.executor.end("node/a/1")
    assert not runs(left)


async def test_what_is_kept_outlives_the_agent(host: Host) -> None:
    script = "setsid sh -c 'echo $$ >> pids; exec sleep 600' & while [ ! -s pids ]; do sleep 0.01; done; exit 4"
    spec = of_attempt(host.shell(script), "coordination")
    await host.run(spec)
    (left,) = host.pids("pids")
    await host.crash()
    assert list(await host.executor.known()) == [spec.id]
    ended = await host.executor.wait(spec.id)
    assert ended is not None
    assert ended.exit_code == 4
    assert runs(left)
    await host.executor.end("node/a/1")
    assert not runs(left)


async def test_what_is_kept_does_not_outlive_a_kill_nor_being_forgotten(host: Host) -> None:
    for name in ("killed", "forgotten", "shutdown"):
        (host.path / "pids").unlink(missing_ok=True)
        script = "setsid sh -c 'echo $$ >> pids; exec sleep 600' & while [ ! -s pids ]; do sleep 0.01; done"
        spec = of_attempt(host.shell(script), name)
        await host.run(spec)
        (left,) = host.pids("pids")
        assert runs(left)
        if name == "killed":
            await host.executor.kill(spec.id)
        elif name == "forgotten":
            await host.executor.forget(spec.id)
        else:
            await host.executor.shutdown()
        await until_true(lambda left=left: not runs(left), f"{name}: it runs on")


async def test_what_is_kept_does_not_outlive_a_spawner_killed_outright(host: Host) -> None:
    script = "setsid sh -c 'echo $$ >> pids; exec sleep 600' & while [ ! -s pids ]; do sleep 0.01; done"
    spec = of_attempt(host.shell(script), "coordination")
    await host.run(spec)
    (left,) = host.pids("pids")
    old = host.spawner_pid()
    os.kill(old, signal.SIGKILL)
    await until_true(lambda: not runs(old), "the spawner does not end")
    await host.executor.end("node/a/1")
    assert not runs(left)
    assert await host.executor.wait(spec.id) is None


async def test_output_may_be_appended(host: Host) -> None:
    await host.run(of_attempt(host.shell("echo one; echo two >&2"), "coordination"))
    await host.run(msgspec.structs.replace(host.shell("echo three; echo four >&2"), appends=True))
    assert (host.out(), host.err()) == ("one\nthree\n", "two\nfour\n")
