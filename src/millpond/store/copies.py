"""Copies of records that share nothing that changes with the original: what a store keeps and gives away."""

import copy

import msgspec

from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.task import JsonObject
from millpond.store.changes import ChangeSet


def copy_pool(pool: Pool) -> Pool:
    """All but the specification is immutable."""
    twin = copy.copy(pool)
    twin.spec = _copy_json(pool.spec)
    return twin


def copy_job(job: Job) -> Job:
    twin = copy.copy(job)
    twin.spec = _copy_json(job.spec)
    twin.counts = copy.copy(job.counts)
    return twin


def copy_node(node: Node) -> Node:
    """All but what is known of setup and start task is immutable."""
    twin = copy.copy(node)
    twin.setup = copy.copy(node.setup)
    twin.start_task = copy.copy(node.start_task)
    return twin


def copy_job_node(job_node: JobNode) -> JobNode:
    twin = copy.copy(job_node)
    twin.preparation = copy.copy(job_node.preparation)
    twin.release = copy.copy(job_node.release)
    return twin


def copy_job_schedule(schedule: JobSchedule) -> JobSchedule:
    twin = copy.copy(schedule)
    twin.spec = _copy_json(schedule.spec)
    return twin


def _copy_json(value: JsonObject) -> JsonObject:
    """Through JSON, as on a disk: what is no JSON fails here too."""
    return msgspec.json.decode(msgspec.json.encode(value), type=JsonObject)


def copy_changes(changes: ChangeSet) -> ChangeSet:
    return ChangeSet(
        pools={no: copy_pool(pool) for no, pool in changes.pools.items()},
        nodes={node_id: copy_node(node) for node_id, node in changes.nodes.items()},
        worked=set(changes.worked),
        jobs={no: copy_job(job) for no, job in changes.jobs.items()},
        tasks={key: copy.copy(task) for key, task in changes.tasks.items()},
        new_tasks=set(changes.new_tasks),
        together=[],
        handed=set(changes.handed),
        specs=dict(changes.specs),
        task_arrays=dict(changes.task_arrays),
        rests=dict(changes.rests),
        satisfied=set(changes.satisfied),
        job_nodes={key: copy_job_node(job_node) for key, job_node in changes.job_nodes.items()},
        subtasks={key: copy.copy(subtask) for key, subtask in changes.subtasks.items()},
        job_schedules={no: copy_job_schedule(schedule) for no, schedule in changes.job_schedules.items()},
        deleted_subtasks=set(changes.deleted_subtasks),
        deleted_job_schedules=set(changes.deleted_job_schedules),
        deleted_pools=set(changes.deleted_pools),
        deleted_nodes=set(changes.deleted_nodes),
        deleted_jobs=set(changes.deleted_jobs),
        deleted_tasks=set(changes.deleted_tasks),
    )
