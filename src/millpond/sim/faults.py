"""The seeded plan of faults of one run: which kinds there are, how often, and when they stop."""

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Protocol

from millpond.sim.disk import SimDisk
from millpond.sim.loop import VirtualLoop
from millpond.sim.names import short
from millpond.sim.network import Network
from millpond.sim.nodes import Machine
from millpond.sim.provider import SlowProvider
from millpond.sim.story import Story


class Cluster(Protocol):
    """What faults are done to."""

    loop: VirtualLoop
    network: Network
    disk: SimDisk
    provider: SlowProvider
    story: Story

    def clock(self) -> float: ...

    @property
    def machines(self) -> list[Machine]: ...

    def crash_control(self, down_s: float, *, after_steps: int) -> None: ...

    def restart_control(self, down_s: float) -> None: ...

    def lose_machine(self, node_id: str) -> None: ...

    def fail_machine(self, node_id: str) -> None: ...

    def outage(self, seconds: float) -> None: ...

    def preempt_machine(self, node_id: str) -> None: ...

    def spot_capacity(self, *, there: bool) -> None: ...

    def set_clock(self, seconds: float) -> None: ...

    def hang_up(self, chance: float) -> None: ...


class Faults:
    """Every run has some kinds of faults and not others: what hides behind a frequent one shows without it."""

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self._cluster = cluster
        self._random = random
        self.done: Counter[str] = Counter()
        kinds: list[tuple[str, Callable[[], None]]] = [
            ("control crash", self._crash_control),
            ("control crash", self._crash_control),
            ("control crash", self._crash_control),
            ("crash at commit", self._crash_at_commit),
            ("crash at commit", self._crash_at_commit),
            ("control restart", self._restart_control),
            ("commits fail", self._fail_commits),
            ("reads fail", self._fail_reads),
            ("slow disk", self._slow_disk),
            ("lease taken", self._take_lease),
            ("agent crash", self._crash_agent),
            ("agent crash", self._crash_agent),
            ("agent crash", self._crash_agent),
            ("agent stop", self._stop_agent),
            ("machine reboot", self._reboot),
            ("machine loss", self._lose_machine),
            ("machine failure", self._fail_machine),
            ("partition", self._part),
            ("bad network", self._bad_network),
            ("bad network", self._bad_network),
            ("bad network", self._bad_network),
            ("provider outage", self._outage),
            ("provider unsure", self._unsure),
            ("provider lies", self._lie),
            ("spot preemption", self._preempt),
            ("spot preemption", self._preempt),
            ("no spot capacity", self._no_spot),
            ("clock jump", self._jump),
            ("users hang up", self._hang_up),
        ]
        self._kinds = [kind for kind in kinds if random.random() < random.choice((0.15, 0.5, 0.9))]
        self._pause_s = random.choice((3.0, 6.0, 12.0, 25.0))

    async def run(self, until: float) -> None:
        loop = self._cluster.loop
        while self._kinds:
            await asyncio.sleep(self._random.expovariate(1.0 / self._pause_s))
            if loop.time() >= until:
                return
            name, do = self._random.choice(self._kinds)
            self.done[name] += 1
            do()

    def _for_a_while(self, what: str, seconds: float, end: Callable[[], None]) -> None:
        self._cluster.story.add("FAULT", f"{what} for {seconds:.3f} s")
        self._cluster.loop.in_world(seconds, end)

    # --- the control plane ---

    def _crash_control(self) -> None:
        random = self._random
        steps = random.choice((1, random.randint(1, 40), random.randint(1, 400)))
        self._cluster.crash_control(random.choice((0.01, 1.0, 20.0, 90.0)) * random.random(), after_steps=steps)

    def _crash_at_commit(self) -> None:
        """The control plane dies with a commit on its way, and is back before, or after, that has landed."""
        down_s = self._random.choice((0.001, 0.1, 2.0)) * self._random.random()
        self._cluster.disk.ambush = lambda: self._cluster.crash_control(down_s, after_steps=1)

    def _restart_control(self) -> None:
        self._cluster.restart_control(self._random.uniform(0.01, 5.0))

    def _fail_commits(self) -> None:
        disk = self._cluster.disk
        disk.commits_fail = self._random.choice((0.2, 0.5, 1.0))

        def end() -> None:
            disk.commits_fail = 0.0

        self._for_a_while(f"commits fail ({disk.commits_fail})", self._random.choice((0.05, 2.0, 30.0)), end)

    def _fail_reads(self) -> None:
        disk = self._cluster.disk
        disk.reads_fail = self._random.choice((0.2, 1.0))

        def end() -> None:
            disk.reads_fail = 0.0

        self._for_a_while(f"reads fail ({disk.reads_fail})", self._random.choice((0.05, 2.0, 10.0)), end)

    def _slow_disk(self) -> None:
        disk = self._cluster.disk
        before, disk.latency_s = disk.latency_s, self._random.choice((0.05, 1.0, 5.0))

        def end() -> None:
            disk.latency_s = before if before < 0.05 else 0.002

        self._for_a_while(f"slow disk ({disk.latency_s} s)", self._random.choice((1.0, 20.0)), end)

    def _take_lease(self) -> None:
        """A second control plane of the same name takes a pool over for a moment: the first must notice."""
        self._cluster.story.add("FAULT", "a lease is taken")
        self._cluster.loop.world_task(self._cluster.disk.take_lease(self._cluster.clock()), name="thief")

    def _hang_up(self) -> None:
        self._cluster.hang_up(self._random.choice((0.2, 0.7)))
        self._for_a_while("users hang up", 20.0, lambda: self._cluster.hang_up(0.0))

    # --- nodes ---

    def _a_machine(self) -> Machine | None:
        machines = self._cluster.machines
        return self._random.choice(machines) if machines else None

    def _crash_agent(self) -> None:
        machine = self._a_machine()
        if machine is None or machine.process is None or not machine.process.alive:
            return
        random = self._random
        process = machine.process
        back_s = random.choice((0.01, 3.0, 30.0, 100.0)) * random.random()

        def crash() -> None:
            if machine.process is process and process.alive:
                machine.crash_agent()
                self._cluster.loop.in_world(back_s, machine.boot)

        process.light_fuse(random.choice((1, random.randint(1, 10), random.randint(1, 60))), crash)

    def _stop_agent(self) -> None:
        machine = self._a_machine()
        if machine is not None:
            machine.stop_agent()
            self._cluster.loop.in_world(self._random.uniform(2.0, 20.0), machine.boot)

    def _reboot(self) -> None:
        machine = self._a_machine()
        if machine is not None:
            machine.reboot()
            self._cluster.loop.in_world(self._random.uniform(0.1, 90.0), machine.boot)

    def _lose_machine(self) -> None:
        machine = self._a_machine()
        if machine is not None:
            self._cluster.lose_machine(machine.node_id)

    def _fail_machine(self) -> None:
        machine = self._a_machine()
        if machine is not None:
            self._cluster.fail_machine(machine.node_id)
            self._cluster.loop.in_world(self._random.uniform(1.0, 60.0), self._cluster.lose_machine, machine.node_id)

    # --- the network ---

    def _part(self) -> None:
        random = self._random
        machines = self._cluster.machines
        chosen = machines if random.random() < 0.2 else [m for m in machines if random.random() < 0.4]
        node_ids = [machine.node_id for machine in chosen]
        self._cluster.network.parted.update(node_ids)

        def end() -> None:
            self._cluster.network.parted.difference_update(node_ids)

        names = " ".join(short(node_id) for node_id in node_ids)
        self._for_a_while(f"partition of {names or 'nobody'}", random.choice((1.0, 20.0, 70.0, 130.0)), end)

    def _bad_network(self) -> None:
        network, random = self._cluster.network, self._random
        network.lost = random.choice((0.0, 0.05, 0.3))
        network.doubled = random.choice((0.0, 0.1, 0.5))
        network.late = random.choice((0.0, 0.1, 0.3))
        network.late_s = random.choice((0.1, 2.0, 40.0))

        def end() -> None:
            network.lost = network.doubled = network.late = 0.0

        what = (
            f"bad network (lost {network.lost}, doubled {network.doubled}, late {network.late} by {network.late_s} s)"
        )
        self._for_a_while(what, random.choice((5.0, 60.0)), end)

    # --- the provider ---

    def _outage(self) -> None:
        seconds = self._random.choice((1.0, 30.0))
        self._cluster.story.add("FAULT", f"provider outage for {seconds} s")
        self._cluster.outage(seconds)

    def _unsure(self) -> None:
        provider = self._cluster.provider
        provider.no_answer = 0.5
        provider.latency_s = self._random.choice((0.05, 3.0))

        def end() -> None:
            provider.no_answer = 0.0
            provider.latency_s = 0.05

        self._for_a_while(f"provider slow ({provider.latency_s} s) and unsure", 30.0, end)

    def _lie(self) -> None:
        provider = self._cluster.provider
        provider.lies = self._random.choice((0.1, 0.4))

        def end() -> None:
            provider.lies = 0.0

        self._for_a_while(f"provider lies ({provider.lies})", self._random.choice((10.0, 40.0)), end)

    def _preempt(self) -> None:
        spot = [machine for machine in self._cluster.machines if machine.is_spot]
        if spot:
            self._cluster.preempt_machine(self._random.choice(spot).node_id)

    def _no_spot(self) -> None:
        self._cluster.spot_capacity(there=False)
        self._for_a_while(
            "no spot capacity",
            self._random.choice((10.0, 60.0)),
            lambda: self._cluster.spot_capacity(there=True),
        )

    # --- time ---

    def _jump(self) -> None:
        """Somebody sets the clock of the control plane."""
        seconds = self._random.choice((-3600.0, -40.0, -1.0, 0.5, 20.0, 200.0, 4000.0)) * self._random.random()
        self._cluster.set_clock(seconds)

    def stop(self) -> None:
        """All is well from now on."""
        cluster = self._cluster
        for process in cluster.loop.processes:
            process.defuse()
        cluster.disk.ambush = None
        cluster.disk.commits_fail = cluster.disk.reads_fail = 0.0
        cluster.disk.latency_s = 0.002
        cluster.network.heal()
        cluster.provider.no_answer = 0.0
        cluster.provider.latency_s = 0.05
        cluster.provider.lies = 0.0
        cluster.spot_capacity(there=True)
        cluster.hang_up(0.0)
