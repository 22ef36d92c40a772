"""The environment of a task."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.agent.base import NodeFacts
from millpond.agent.runner.environment import expand_settings, node_environment, task_environment
from millpond.domain.errors import TaskFailure

FACTS = NodeFacts("tvmps_1", "Pool", "acct", "https://acct/", is_dedicated=False, root="/mnt/root")
WD = "/mnt/root/workitems/job/job-1/task/wd"


def environment(*settings: tuple[str, str]) -> dict[str, str]:
    return task_environment(
        node_environment(FACTS),
        special={"AZ_BATCH_JOB_ID": "job", "AZ_BATCH_TASK_ID": "task"},
        task_directory=WD[:-3],
        working_directory=WD,
        user="me",
        user_identity="PoolNonAdmin",
        settings=settings,
    )


def test_what_every_task_sees() -> None:
    assert environment() == {
        "PATH": f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/mnt/root/shared:{WD}",
        "HOME": WD,
        "PWD": WD,
        "USER": "me",
        "LOGNAME": "me",
        "LANG": "C.UTF-8",
        "AZ_BATCH_ACCOUNT_NAME": "acct",
        "AZ_BATCH_ACCOUNT_URL": "https://acct/",
        "AZ_BATCH_POOL_ID": "Pool",
        "AZ_BATCH_NODE_ID": "tvmps_1",
        "AZ_BATCH_NODE_IS_DEDICATED": "false",
        "AZ_BATCH_NODE_ROOT_DIR": "/mnt/root",
        "AZ_BATCH_NODE_SHARED_DIR": "/mnt/root/shared",
        "AZ_BATCH_NODE_STARTUP_DIR": "/mnt/root/startup",
        "AZ_BATCH_NODE_STARTUP_WORKING_DIR": "/mnt/root/startup/wd",
        "AZ_BATCH_NODE_MOUNTS_DIR": "/mnt/root/fsmounts",
        "AZ_BATCH_RESERVED_DISK_SPACE_BYTES": "1000000",
        "AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES": "1000000",
        "AZ_BATCH_JOB_ID": "job",
        "AZ_BATCH_TASK_ID": "task",
        "AZ_BATCH_TASK_DIR": WD[:-3],
        "AZ_BATCH_TASK_WORKING_DIR": WD,
        "AZ_BATCH_CERTIFICATES_DIR": f"{WD[:-3]}/certs",
        "AZ_BATCH_TASK_USER": "me",
        "AZ_BATCH_TASK_USER_IDENTITY": "PoolNonAdmin",
    }


def test_the_last_setting_of_a_name_wins() -> None:
    found = environment(("A", "job"), ("B", "job"), ("A", "task"))
    assert (found["A"], found["B"]) == ("task", "job")


def test_the_services_own_cannot_be_set() -> None:
    found = environment(("AZ_BATCH_TASK_ID", "mine"), ("AZ_BATCH_MINE", "mine"), ("az_batch_mine", "mine"))
    assert found["AZ_BATCH_TASK_ID"] == "task"
    assert not {"AZ_BATCH_MINE", "az_batch_mine"} & found.keys()


def test_references_are_expanded() -> None:
    found = environment(
        ("OUT", "$AZ_BATCH_TASK_WORKING_DIR/out"),
        ("FILE", "${OUT}/a.txt"),
        ("PATH", "/opt/bin:$PATH"),
        ("PRICE", "$5 or $"),
        ("SECRET", "pa$word and $$"),
        ("EARLY", "$LATE"),
        ("LATE", "late"),
        ("NESTED", "${${OUT}}"),
    )
    assert found["FILE"] == f"{WD}/out/a.txt"
    assert found["PATH"].startswith("/opt/bin:/usr/local/sbin:")
    assert found["PRICE"] == "$5 or $"
    assert found["SECRET"] == "pa$word and $$"
    assert found["EARLY"] == "late"
    assert found["NESTED"] == f"${{{WD}/out}}"


def test_circles_end() -> None:
    found = environment(("A", "$B"), ("B", "$C."), ("C", "$A"), ("SELF", "$SELF!"))
    assert found["SELF"] == "$SELF!"
    # Where a circle closes, the reference stays as it was written.
    assert found["A"] == found["C"] == "$A."


def test_depth_and_growth_are_limited() -> None:
    chain = [(f"V{number}", f"$V{number + 1}") for number in range(100)]
    assert environment(*chain, ("V100", "end"))["V99"] == "end"
    bomb = [(f"V{number}", f"$V{number + 1}" * 10) for number in range(10)]
    with pytest.raises(TaskFailure):
        environment(*bomb, ("V10", "x" * 10))


@pytest.mark.parametrize("setting", [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")])
def test_what_no_process_can_be_given(setting: tuple[str, str]) -> None:
    with pytest.raises(TaskFailure):
        environment(setting)


@given(st.dictionaries(st.sampled_from("ABCD"), st.text("AB$CD{}x", max_size=8)))
def test_expansion_always_ends(settings: dict[str, str]) -> None:
    found = expand_settings(settings, {"X": "1"})
    assert found.keys() == settings.keys() | {"X"}
    for name, value in settings.items():
        if "$" not in value:
            assert found[name] == value
