"""What the scheduler tells the service log. Of tasks only while somebody wants to know (`state.tells_tasks`): callers
ask before they call."""

from typing import Any

from millpond.domain import service_log as log
from millpond.domain.autoscale import AutoScale
from millpond.domain.durations import Timestamp, format_timestamp
from millpond.domain.effects import Effect, Publish
from millpond.domain.pool import Pool
from millpond.domain.states import ErrorCategory
from millpond.domain.task import FailureInfo, NameValue, Task
from millpond.scheduler.state import JobMemory, SchedulerState

_NO_NODE = " "


def _pairs(values: tuple[NameValue, ...]) -> tuple[log.NameAndValue, ...]:
    return tuple(log.NameAndValue(name=pair.name, value=pair.value) for pair in values)


# --- pools ----------------------------------------------------------------------------------------------------------


def _part(spec: dict[str, Any], name: str) -> dict[str, Any]:
    part = spec.get(name)
    return part if isinstance(part, dict) else {}


def pool_created(pool: Pool) -> Effect:
    machine = _part(pool.spec, "virtualMachineConfiguration")
    image = _part(machine, "imageReference")
    return Publish(
        log.PoolCreateEvent(
            id=pool.id,
            display_name=str(pool.spec.get("displayName") or ""),
            vm_size=pool.vm_size,
            network_configuration=log.NetworkConfiguration(
                subnet_id=str(_part(pool.spec, "networkConfiguration").get("subnetId") or " ")
            ),
            virtual_machine_configuration=log.VirtualMachineConfiguration(
                image_reference=log.ImageReference(
                    **{name: str(image.get(name) or " ") for name in ("publisher", "offer", "sku", "version")}
                ),
                node_agent_id=str(machine.get("nodeAgentSKUId") or " "),
            ),
            resize_timeout=f"{pool.resize_timeout_s * 1000:.0f}",
            target_dedicated_nodes=pool.target_dedicated_nodes,
            target_low_priority_nodes=pool.target_low_priority_nodes,
            task_slots_per_node=pool.task_slots_per_node,
            vm_fill_type=pool.fill_type.value.capitalize(),
            enable_auto_scale=pool.auto_scale is not None,
            enable_inter_node_communication=pool.inter_node_communication,
            is_auto_pool=pool.auto_pool,
        )
    )


def _nodes(state: SchedulerState) -> tuple[int, int]:
    """(dedicated, low-priority) of the pool, in whatever state."""
    dedicated = sum(node.row.is_dedicated for node in state.nodes.values())
    return dedicated, len(state.nodes) - dedicated


def resize_started(state: SchedulerState, pool: Pool) -> Effect:
    dedicated, low_priority = _nodes(state)
    shrinks = dedicated > pool.target_dedicated_nodes or low_priority > pool.target_low_priority_nodes
    return Publish(
        log.PoolResizeStartEvent(
            id=pool.id,
            node_deallocation_option=pool.node_deallocation_option.value if shrinks else "Invalid",
            current_dedicated_nodes=dedicated,
            target_dedicated_nodes=pool.target_dedicated_nodes,
            current_low_priority_nodes=low_priority,
            target_low_priority_nodes=pool.target_low_priority_nodes,
            enable_auto_scale=pool.auto_scale is not None,
            is_auto_pool=pool.auto_pool,
        )
    )


def resize_completed(state: SchedulerState, pool: Pool, started: Timestamp, at: Timestamp) -> Effect:
    dedicated, low_priority = _nodes(state)
    error = pool.resize_errors[0] if pool.resize_errors else None
    return Publish(
        log.PoolResizeCompleteEvent(
            id=pool.id,
            node_deallocation_option=pool.node_deallocation_option.value,
            current_dedicated_nodes=dedicated,
            target_dedicated_nodes=pool.target_dedicated_nodes,
            current_low_priority_nodes=low_priority,
            target_low_priority_nodes=pool.target_low_priority_nodes,
            enable_auto_scale=pool.auto_scale is not None,
            is_auto_pool=pool.auto_pool,
            start_time=format_timestamp(started),
            end_time=format_timestamp(at),
            result_code="Success" if error is None else error.code,
            result_message="The operation succeeded" if error is None else error.message,
        )
    )


def auto_scaled(pool: Pool, scale: AutoScale) -> Effect:
    run = scale.run
    assert run is not None
    error = log.AutoScaleError()
    if run.error is not None:
        error = log.AutoScaleError(code=run.error.code, message=run.error.message, values=_pairs(run.error.values))
    return Publish(
        log.PoolAutoScaleEvent(
            id=pool.id,
            timestamp=format_timestamp(run.timestamp),
            formula=scale.formula,
            results=run.results,
            error=error,
        )
    )


def delete_started(pool: Pool) -> Effect:
    return Publish(log.PoolDeleteStartEvent(id=pool.id))


def delete_completed(pool: Pool, at: Timestamp) -> Effect:
    start_time, end_time = format_timestamp(pool.state_time), format_timestamp(at)
    return Publish(log.PoolDeleteCompleteEvent(id=pool.id, start_time=start_time, end_time=end_time))


# --- tasks ----------------------------------------------------------------------------------------------------------


def _who(job: JobMemory, task: Task) -> dict[str, Any]:
    rules = task.rules
    retries = task.max_retry_count if task.max_retry_count is not None else job.row.max_task_retry_count
    return {
        "job_id": job.row.id,
        "id": task.id,
        "task_type": "JobManager" if rules is not None and rules.job_manager is not None else "User",
        "system_task_version": task.attempt,
        "required_slots": task.required_slots,
        "node_info": log.NodeInfo(pool_id=job.row.pool_id, node_id=task.node_id or _NO_NODE),
        "multi_instance_settings": log.MultiInstanceSettings(
            number_of_instances=max(1, rules.instances if rules is not None else 1)
        ),
        "constraints": log.Constraints(max_task_retry_count=retries),
    }


def _error(failure: FailureInfo | None) -> log.SchedulingError | None:
    if failure is None:
        return None
    category = "UserError" if failure.category is ErrorCategory.USER_ERROR else "ServerError"
    return log.SchedulingError(
        category=category, code=failure.code, message=failure.message, details=_pairs(failure.details)
    )


def _run(task: Task, *, failed: bool = False) -> log.RunInfo:
    return log.RunInfo(
        start_time=None if task.start_time is None else format_timestamp(task.start_time),
        end_time=None if task.end_time is None else format_timestamp(task.end_time),
        exit_code=task.exit_code,
        retry_count=task.retry_count,
        requeue_count=task.requeue_count,
        result="Failure" if failed else None,
        scheduling_error=_error(task.failure) if failed else None,
    )


def task_started(job: JobMemory, task: Task) -> Effect:
    return Publish(log.TaskStartEvent(**_who(job, task), execution_info=log.StartInfo(retry_count=task.retry_count)))


def task_completed(job: JobMemory, task: Task) -> list[Effect]:
    who = _who(job, task)
    published: list[Effect] = [Publish(log.TaskCompleteEvent(**who, execution_info=_run(task)))]
    if task.failure is not None:
        published.append(Publish(log.TaskFailEvent(**who, execution_info=_run(task, failed=True))))
    return published


def task_requeued(job: JobMemory, task: Task) -> Effect:
    """Called before the task forgets its node."""
    return Publish(log.TaskRequeueEvent(**_who(job, task), execution_info=_run(task)))
