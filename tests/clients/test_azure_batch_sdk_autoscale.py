"""The official azure-batch SDK 15.1, unmodified: pools that scale themselves, on real nodes."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ServiceResponseError

from tests.conftest import MillpondProcess

FAST = {
    "MILLPOND_AUTOSCALE_MIN_INTERVAL_S": "1",
    "MILLPOND_AUTOSCALE_SAMPLE_S": "1",
    "MILLPOND_AUTOSCALE_ON_QUEUE_CHANGE": "true",
}
BY_QUEUE = (
    "// as many nodes as there is work, but no more than two\n"
    "$TargetDedicatedNodes = min(2, $PendingTasks.GetSample(1));\n"
    "$NodeDeallocationOption = taskcompletion;\n"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MillpondProcess]:
    """One that evaluates by the second."""
    running = MillpondProcess(tmp_path_factory.mktemp("service") / "data", environment=FAST)
    try:
        yield running.start()
    finally:
        running.stop()


def create(batch: Any, formula: str, interval_s: float | None = None, **more: Any) -> str:
    pool_id: str = batch.name("scaled")
    batch.client.create_pool(
        m.BatchPoolCreateOptions(
            id=pool_id,
            vm_size="standard_d2s_v3",
            virtual_machine_configuration=batch.image(),
            enable_auto_scale=True,
            auto_scale_formula=formula,
            auto_scale_evaluation_interval=None if interval_s is None else timedelta(seconds=interval_s),
            **more,
        )
    )
    return pool_id


def until_nodes(batch: Any, pool_id: str, count: int) -> m.BatchPool:
    pool: m.BatchPool = batch.until(
        lambda: batch.client.get_pool(pool_id),
        lambda pool: pool.current_dedicated_nodes == count and pool.allocation_state == m.AllocationState.STEADY,
    )
    return pool


def code_of(caught: "pytest.ExceptionInfo[HttpResponseError]") -> str:
    assert caught.value.error is not None
    assert caught.value.error.code is not None
    return caught.value.error.code


def test_a_real_pool_grows_with_its_queue_and_shrinks_again(batch: Any) -> None:
    pool_id = create(batch, BY_QUEUE, 2)
    pool = batch.client.get_pool(pool_id)
    assert pool.enable_auto_scale is True
    assert pool.auto_scale_formula == BY_QUEUE
    assert pool.auto_scale_evaluation_interval == timedelta(seconds=2)
    first = batch.until(lambda: batch.client.get_pool(pool_id), lambda pool: pool.auto_scale_run is not None)
    assert first.auto_scale_run is not None
    assert first.auto_scale_run.error is None
    assert first.auto_scale_run.results == (
        "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=taskcompletion"
    )
    job_id = batch.create_job(pool_info=m.BatchPoolInfo(pool_id=pool_id))
    for number in range(4):
        batch.sh(job_id, f"t{number}", "sleep 1")
    batch.until(lambda: batch.client.get_pool(pool_id), lambda pool: pool.target_dedicated_nodes == 2)
    for number in range(4):
        assert batch.completed(job_id, f"t{number}").execution_info.exit_code == 0
    empty = until_nodes(batch, pool_id, 0)
    assert empty.target_dedicated_nodes == 0
    assert empty.auto_scale_run is not None
    assert empty.auto_scale_run.timestamp > first.auto_scale_run.timestamp


def test_enabling_evaluating_and_disabling(batch: Any) -> None:
    pool_id = batch.name("fixed")
    batch.create_pool(pool_id, 1)
    batch.until_idle(pool_id, 1)
    with pytest.raises(HttpResponseError) as caught:
        batch.client.evaluate_pool_auto_scale(pool_id, m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula="a=1"))
    assert (caught.value.status_code, code_of(caught)) == (409, "OperationInvalidForCurrentState")
    batch.client.enable_pool_auto_scale(
        pool_id,
        m.BatchPoolEnableAutoScaleOptions(
            auto_scale_formula="$TargetDedicatedNodes = $CurrentDedicatedNodes;",
            auto_scale_evaluation_interval=timedelta(hours=1),
        ),
    )
    run = batch.client.evaluate_pool_auto_scale(
        pool_id,
        m.BatchPoolEvaluateAutoScaleOptions(
            auto_scale_formula="$TargetDedicatedNodes = $CurrentDedicatedNodes + 3; slots = $TaskSlotsPerNode"
        ),
    )
    assert run.error is None
    assert run.results == ("$TargetDedicatedNodes=4;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue;slots=1")
    run = batch.client.evaluate_pool_auto_scale(
        pool_id, m.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula="$something_useless")
    )
    # As a recorded answer of the real service has it.
    assert run.results == "$TargetDedicatedNodes=1;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
    assert run.error is not None
    assert run.error.code == "AutoScalingFormulaEvaluationError"
    assert run.error.error_values[0].value.startswith("Line 1, Col 1:")
    with pytest.raises(HttpResponseError) as caught:
        batch.client.begin_resize_pool(pool_id, m.BatchPoolResizeOptions(target_dedicated_nodes=2))
    assert (caught.value.status_code, code_of(caught)) == (409, "OperationInvalidForCurrentState")
    batch.client.disable_pool_auto_scale(pool_id)
    pool = batch.client.get_pool(pool_id)
    assert pool.enable_auto_scale is False
    assert pool.auto_scale_formula is None
    assert (pool.target_dedicated_nodes, pool.current_dedicated_nodes) == (1, 1)
    listed = [pool.id for pool in batch.client.list_pools(filter="enableAutoScale eq true")]
    assert pool_id not in listed


def test_what_the_service_refuses(batch: Any) -> None:
    for formula, told in (("$TargetDedicatedNodes = ;", "Line 1, Col 25"), ("a = 1\nb = 2", "Line 2, Col 1")):
        with pytest.raises(HttpResponseError) as caught:
            create(batch, formula)
        assert (caught.value.status_code, code_of(caught)) == (400, "AutoScalingFormulaSyntaxError")
        assert told in str(caught.value)
    with pytest.raises(HttpResponseError) as caught:
        create(batch, "a = 1;" * 2000)
    assert code_of(caught) == "AutoScaleFormulaTooLong"
    with pytest.raises(HttpResponseError) as caught:
        create(batch, "a = 1", target_dedicated_nodes=1)
    assert code_of(caught) == "InvalidAutoScalingSettings"
    with pytest.raises(HttpResponseError) as caught:
        create(batch, "a = 1", 0.5)
    assert code_of(caught) == "InvalidPropertyValue"


def test_enabling_again_at_once_is_refused_for_now(batch: Any) -> None:
    pool_id = create(batch, "$TargetDedicatedNodes = 0", 60)
    options = m.BatchPoolEnableAutoScaleOptions(auto_scale_evaluation_interval=timedelta(seconds=30))
    batch.client.enable_pool_auto_scale(pool_id, options)
    # The SDK's own retries of a 503 would go on for half a minute.
    with pytest.raises((HttpResponseError, ServiceResponseError)) as caught:
        batch.client.enable_pool_auto_scale(pool_id, options, retry_total=0)
    assert "TooManyEnableAutoScaleRequests" in str(caught.value)
    assert batch.client.get_pool(pool_id).auto_scale_evaluation_interval == timedelta(seconds=30)


def test_an_auto_pool_with_a_formula(batch: Any) -> None:
    def info(formula: str) -> m.BatchPoolInfo:
        return m.BatchPoolInfo(
            auto_pool_specification=m.BatchAutoPoolSpecification(
                pool_lifetime_option=m.BatchPoolLifetimeOption.JOB,
                pool=m.BatchPoolSpecification(
                    vm_size="standard_d2s_v3",
                    virtual_machine_configuration=batch.image(),
                    enable_auto_scale=True,
                    auto_scale_formula=formula,
                    auto_scale_evaluation_interval=timedelta(seconds=2),
                ),
            )
        )

    job_id = batch.create_job(pool_info=info(BY_QUEUE))
    batch.sh(job_id, "t", "true")
    assert batch.completed(job_id, "t").execution_info.exit_code == 0
    batch.client.begin_terminate_job(job_id, options={"terminateReason": "done"})
    job_id = batch.create_job(pool_info=info("$TargetDedicatedNodes = "))
    job = batch.until_job(job_id, m.BatchJobState.COMPLETED)
    assert job.execution_info is not None
    assert job.execution_info.scheduling_error is not None
    assert job.execution_info.scheduling_error.code == "InvalidAutoScaleFormulaInAutoPool"
