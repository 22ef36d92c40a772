"""The published formulas with expectations computed by hand."""

import pytest

from millpond.autoscale.errors import FormulaErrorCode, FormulaSyntaxError
from millpond.autoscale.parser import parse
from millpond.autoscale.variables import Metric
from millpond.domain.durations import parse_timestamp
from millpond.domain.states import NodeDeallocationOption
from tests.unit.autoscale import published
from tests.unit.autoscale.support import Newest, run

M = Metric


@pytest.mark.parametrize(
    ("newest", "target"),
    [
        ([40, 40, 40], 1),  # 3 of 6
        ([40] * 6, 25),
        ([0] * 6, 0),
        ([10, 10, 10, 10, 10, 11], 10),
        ([9, 9, None, 9, None, 9], 1),  # 4 of 6 is 66.7 %
        ([9, 9, None, 9, 9, 9], 9),
        ([], 1),
    ],
)
def test_v1_pending_tasks(newest: Newest, target: int) -> None:
    done = run(published.PENDING, {M.PENDING_TASKS: newest})
    assert done.error is None
    assert (done.target_dedicated_nodes, done.target_low_priority_nodes) == (target, 0)
    assert done.node_deallocation_option is NodeDeallocationOption.TASK_COMPLETION


@pytest.mark.parametrize(("newest", "targets"), [([0] * 6, (0, 25)), ([3, 3, 4], (3, 22)), ([], (25, 0))])
def test_v2_preemption(newest: Newest, targets: tuple[int, int]) -> None:
    done = run(published.PREEMPTION, {M.PREEMPTED_NODE_COUNT: newest})
    assert (done.target_dedicated_nodes, done.target_low_priority_nodes) == targets


@pytest.mark.parametrize(("day", "target"), [("2024-04-29", 5), ("2024-04-28", 1), ("2024-05-01", 1)])
def test_v3_mondays(day: str, target: int) -> None:
    assert run(published.MONDAY, now=parse_timestamp(f"{day}T09:00:00Z")).target_dedicated_nodes == target


@pytest.mark.parametrize(
    ("at", "target"),
    [
        ("2024-05-01T07:59:59Z", 10),
        ("2024-05-01T08:00:00Z", 20),
        ("2024-05-01T17:59:59Z", 20),
        ("2024-05-01T18:00:00Z", 10),
        ("2024-05-04T12:00:00Z", 10),  # Saturday
        ("2024-05-05T12:00:00Z", 10),  # Sunday
    ],
)
def test_v4_working_hours(at: str, target: int) -> None:
    assert run(published.WORKING_HOURS, now=parse_timestamp(at)).target_dedicated_nodes == target


def test_v4_results_are_printed_as_azure_documents_them() -> None:
    done = run(published.WORKING_HOURS, now=parse_timestamp("2016-10-13T19:18:47.805Z"))
    assert done.results == (
        "$TargetDedicatedNodes=10;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue;"
        "$curTime=2016-10-13T19:18:47.805Z;$isWeekday=1;$isWorkingWeekdayHour=0;$workHours=0"
    )


@pytest.mark.parametrize(
    ("current", "cpu", "target"),
    [(100, 0.9, 110), (100, 0.1, 90), (100, 0.5, 100), (390, 0.9, 400), (10, 0.9, 11), (5, 0.9, 5)],
)
def test_v5_processor_use(current: int, cpu: float, target: int) -> None:
    done = run(published.CPU, {M.CPU_PERCENT: [cpu] * 120}, current={M.CURRENT_DEDICATED_NODES: current})
    assert done.target_dedicated_nodes == target


def test_v5_without_a_semicolon_as_one_version_of_the_documentation_has_it() -> None:
    text = published.CPU.rstrip().removesuffix(";") + "\n$NodeDeallocationOption = taskcompletion;"
    with pytest.raises(FormulaSyntaxError) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (9, 1)
    assert "Expected ';'" in caught.value.detail


@pytest.mark.parametrize(
    ("present", "newest", "target"),
    [
        (8, [0] * 30, 4),
        (4, [0] * 30, 2),
        (2, [0] * 30, 1),
        (1, [0] * 30, 0),
        (8, [30] * 30, 20),
        (8, [3] + [None] * 29, 3),
        (8, [], 4),
        (8, [2, *[8] * 29], 7),  # mean 7.8
    ],
)
def test_v6_tasks(present: int, newest: Newest, target: int) -> None:
    assert run(published.TASKS, {M.PENDING_TASKS: newest}, dedicated=present).target_dedicated_nodes == target


@pytest.mark.parametrize(("present", "tasks", "target"), [(0, 1, 1), (1, 9, 3), (3, 0, 0)])
def test_v7_four_slots(present: int, tasks: int, target: int) -> None:
    done = run(published.FOUR_SLOTS, {M.ACTIVE_TASKS: [tasks] * 30}, dedicated=present)
    assert done.target_dedicated_nodes == target


def test_v8_initial_size() -> None:
    born = parse_timestamp("2014-10-06T10:20:00Z")
    young = run(published.INITIAL_SIZE, now=born + 300)
    assert young.error is None
    assert young.target_dedicated_nodes == 4
    assert young.windows == ()  # samples are not touched
    idle = {M.RUNNING_TASKS: [0] * 120, M.ACTIVE_TASKS: [0] * 120}
    assert run(published.INITIAL_SIZE, idle, now=born + 4200).target_dedicated_nodes == 0
    busy = {**idle, M.ACTIVE_TASKS: [0] * 60 + [1] + [0] * 59}
    assert run(published.INITIAL_SIZE, busy, now=born + 4200, dedicated=9).target_dedicated_nodes == 4


def test_v8_with_too_few_samples_changes_nothing() -> None:
    born = parse_timestamp("2014-10-06T10:20:00Z")
    done = run(published.INITIAL_SIZE, {M.RUNNING_TASKS: [0] * 22}, now=born + 660, dedicated=7)
    assert done.error is not None
    assert done.error.code is FormulaErrorCode.INSUFFICIENT_SAMPLE_DATA
    assert done.error.message == "Autoscale evaluation failed due to insufficient sample data"
    assert done.error.values == (
        (
            "Message",
            "Line 8, Col 52: Insufficient data from data set: $RunningTasks wanted 50%, received 18.33%",
        ),
    )
    assert done.target_dedicated_nodes == 7
    assert done.results == "$TargetDedicatedNodes=7;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"


@pytest.mark.parametrize(
    ("age_s", "newest", "target"), [(299, [9] * 10, 1), (301, [9] * 10, 3), (301, [0] * 10, 2), (301, [2], 2)]
)
def test_v9_nextflow(age_s: float, newest: Newest, target: int) -> None:
    now = parse_timestamp("2024-05-01T10:00:00.123456Z") + age_s
    done = run(published.NEXTFLOW, {M.PENDING_TASKS: newest}, now=now, dedicated=4)
    assert done.error is None
    assert (done.target_dedicated_nodes, done.target_low_priority_nodes) == (4, target)


def test_v10_tes() -> None:
    born = parse_timestamp("2024-05-01T10:00:00Z")
    assert run(published.TES, now=born + 120).target_dedicated_nodes == 3
    assert run(published.TES, {M.PENDING_TASKS: [7, 5, 6]}, now=born + 121).target_dedicated_nodes == 5
    late = run(published.TES, now=born + 121)
    assert late.error is not None
    assert late.error.detail == "Insufficient data from data set: $PendingTasks wanted 10%, received 0%"


def test_v11_tes_validator() -> None:
    assert run(published.TES_VALIDATOR).target_dedicated_nodes == 1
    done = run(published.TES_VALIDATOR, {M.PENDING_TASKS: [0]})
    assert done.target_dedicated_nodes == 0
    assert done.node_deallocation_option is NodeDeallocationOption.RETAINED_DATA


def test_v12_shipyard() -> None:
    nodes = {M.CURRENT_DEDICATED_NODES: 2.0, M.CURRENT_LOW_PRIORITY_NODES: 2.0}
    calm = run(published.SHIPYARD, {M.ACTIVE_TASKS: [40] * 20, M.PREEMPTED_NODE_COUNT: [0]}, current=nodes)
    assert calm.error is None
    assert (calm.target_dedicated_nodes, calm.target_low_priority_nodes) == (5, 5)
    preempted = run(published.SHIPYARD, {M.ACTIVE_TASKS: [40] * 20, M.PREEMPTED_NODE_COUNT: [3]}, current=nodes)
    assert (preempted.target_dedicated_nodes, preempted.target_low_priority_nodes) == (10, 0)


def test_v13_powershell_without_samples() -> None:
    done = run(published.POWERSHELL)
    assert done.results == (
        "$TargetDedicatedNodes=5;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue;totalNodes=5"
    )


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("$TargetDedicatedNodes=2", 2),
        ("$TargetDedicatedNodes = $CurrentDedicatedNodes;", 6),
        (published.ISSUE_151, 2),
    ],
)
def test_v14_bare_variables(text: str, target: int) -> None:
    current = {M.CURRENT_DEDICATED_NODES: 6.0, M.PENDING_TASKS: 4.0, M.TASK_SLOTS_PER_NODE: 2.0}
    assert run(text, current=current).target_dedicated_nodes == target


def test_an_unknown_variable_as_a_client_of_azure_recorded_it() -> None:
    done = run("$something_useless", dedicated=2)
    assert done.results == "$TargetDedicatedNodes=2;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
    assert done.error is not None
    assert done.error.code.value == "AutoScalingFormulaEvaluationError"


def test_results_in_the_order_a_user_of_azure_reported_it() -> None:
    text = (
        "$tasks = 0; $samples = 100; $round = 3; $maxTasksPerNode = 4; $targetVMs = 1; $TargetDedicatedNodes = 2; "
        "$TargetLowPriorityNodes = 5; $NodeDeallocationOption = taskcompletion"
    )
    assert run(text).results == (
        "$TargetDedicatedNodes=2;$TargetLowPriorityNodes=5;$NodeDeallocationOption=taskcompletion;"
        "$maxTasksPerNode=4;$round=3;$samples=100;$targetVMs=1;$tasks=0"
    )
