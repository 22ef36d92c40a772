"""Airflow's operator, as a task of a DAG runs it but without Airflow's database. Prints each step it has done."""

import asyncio
import sys
import warnings

warnings.simplefilter("ignore")

from airflow.providers.microsoft.azure.operators.batch import AzureBatchOperator  # noqa: E402
from airflow.sdk.exceptions import TaskDeferred  # noqa: E402


def operator(name, command_line, **more):
    return AzureBatchOperator(
        task_id=name,
        batch_pool_id="airflow",
        batch_pool_vm_size="standard_d2s_v3",
        vm_publisher="canonical",
        vm_offer="ubuntu-24_04-lts",
        vm_sku="server",
        sku_starts_with="server",
        vm_node_agent_sku_id="batch.node.ubuntu 24.04",
        target_dedicated_nodes=1,
        batch_job_id=name,
        batch_task_id="task",
        batch_task_command_line=command_line,
        should_delete_job=True,
        **more,
    )


def did(step):
    print(step, file=sys.__stdout__, flush=True)


# It waits itself, and looks for its image among the verified ones.
operator("waits", "/bin/sh -c 'echo from airflow'", use_latest_verified_vm_image_and_sku=True).execute({})
did("waits")

# It hands the waiting to a trigger. Its pool is there already; at the end it goes.
defers = operator("defers", "/bin/sh -c 'exit 3'", deferrable=True, poll_interval=1, should_delete_pool=True)
try:
    defers.execute({})
except TaskDeferred as deferral:
    trigger = deferral.trigger
else:
    raise AssertionError("it did not defer")
did("defers")


async def first_event():
    async for event in trigger.run():
        return event.payload
    raise AssertionError("no event")


event = asyncio.run(first_event())
assert (event["status"], event["failed_tasks"]) == ("error", ["task"]), event
said = ""
try:
    defers.execute_complete({}, event)
except RuntimeError as error:
    said = str(error)
assert "Failed tasks: ['task']" in said, said
did("fails")

jobs = [job.id for job in defers.hook.connection.list_jobs()]
pools = [pool.id for pool in defers.hook.connection.list_pools()]
assert "defers" not in jobs, jobs
assert "airflow" not in pools, pools
did("end")
