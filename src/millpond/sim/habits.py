"""What the users of one run are like: every run has some features and not others, so that none hides another."""

from random import Random

import msgspec


class Habits(msgspec.Struct, frozen=True):
    """Drawn once for a run."""

    pools: tuple[str, ...]
    jobs_at_most: int
    nodes_at_most: int
    task_slots: tuple[int, ...]
    batch_at_most: int
    run_s: tuple[float, float]
    pause_s: float
    dependencies: float
    """How likely a job uses them, and a task of it has some."""
    start_tasks: bool
    preparations: float
    """How likely a job has a preparation task, and a release task."""
    managers: float
    gangs: float
    """How likely a task is a multi-instance task, in a pool that runs them."""
    schedules: bool
    auto_pools: float
    moves: bool
    retention: bool
    """All tasks have a short retention time, and nodes may be asked to wait for it."""
    preemption: float
    """How likely a job lends its nodes to jobs of higher priority."""
    endless: float
    """How likely a task runs until the calm."""
    job_actions: float
    """How likely a job does what the exit conditions of its tasks say."""
    scaled: float
    """How likely a pool scales itself."""
    arrays: float
    """How likely tasks that are added are an array."""
    weights: tuple[float, ...]
    """How often users add tasks, add jobs, read, change pools, change jobs, change tasks, change nodes, change job
    schedules."""

    @staticmethod
    def of(random: Random) -> "Habits":
        def often(chance: float, *rates: float) -> float:
            return random.choice(rates) if random.random() < chance else 0.0

        shortest = random.choice((0.001, 0.02, 0.5, 5.0))
        gangs = often(0.35, 0.1, 0.4)
        schedules = random.random() < 0.35
        drawn = Habits(
            scaled=0.0,
            arrays=0.0,
            pools=random.choice((("red",), ("red",), ("red", "Blue"))),
            jobs_at_most=random.randint(2, 5),
            nodes_at_most=random.randint(1, 5) if not gangs else random.randint(3, 5),
            task_slots=random.choice(((1,), (1,), (2,), (4,), (1, 3))) if not gangs else (1,),
            batch_at_most=random.choice((3, 10, 25, 80)),
            run_s=(shortest, shortest * random.choice((2.0, 20.0, 60.0))),
            pause_s=random.choice((1.0, 3.0, 8.0, 15.0)),
            dependencies=random.choice((0.0, 0.5, 0.8)),
            start_tasks=random.random() < 0.35,
            preparations=often(0.4, 0.4, 0.9),
            managers=often(0.35, 0.3, 0.8),
            gangs=gangs,
            schedules=schedules,
            auto_pools=often(0.3, 0.2, 0.5),
            moves=random.random() < 0.4,
            retention=random.random() < 0.2,
            preemption=often(0.35, 0.5),
            endless=often(0.4, 0.02, 0.1),
            job_actions=often(0.5, 0.1, 0.6),
            weights=(
                6.0,
                random.choice((0.5, 1.5)),
                4.0,
                random.choice((0.1, 0.5, 1.0, 4.0)),
                random.choice((0.1, 0.5, 1.0, 4.0)),
                random.choice((0.2, 1.0, 3.0, 6.0)),
                often(0.4, 0.3, 1.0, 4.0),
                random.choice((0.5, 1.5)) if schedules else 0.0,
            ),
        )
        return msgspec.structs.replace(drawn, scaled=often(0.35, 0.5, 1.0), arrays=often(0.35, 0.1, 0.5))
