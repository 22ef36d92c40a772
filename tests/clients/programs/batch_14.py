"""azure-batch 14.2, the generation before: pools, jobs, tasks, files, schedules, autoscale. Prints each step it has done."""

import datetime
import io
import os
import time

from azure.batch import BatchServiceClient
from azure.batch import models as m
from azure.batch.batch_auth import SharedKeyCredentials

DEADLINE_S = 60.0
NOW = datetime.datetime.now(datetime.UTC)

client = BatchServiceClient(
    SharedKeyCredentials(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"]),
    batch_url=os.environ["AZURE_BATCH_ENDPOINT"],
)


def until(look, wanted):
    deadline = time.monotonic() + DEADLINE_S
    while not wanted(seen := look()):
        assert time.monotonic() < deadline, f"not in {DEADLINE_S:g} s: {seen}"
        time.sleep(0.1)
    return seen


def code_of(call, *arguments):
    try:
        call(*arguments)
    except m.BatchErrorException as error:
        return error.error.code
    raise AssertionError("it did not fail")


def did(step):
    print(step, flush=True)


image = next(each for each in client.account.list_supported_images() if each.os_type == m.OSType.linux)
machine = m.VirtualMachineConfiguration(
    image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
)
did("images")

client.pool.add(
    m.PoolAddParameter(
        id="old",
        vm_size="standard_d2s_v3",
        virtual_machine_configuration=machine,
        target_dedicated_nodes=1,
        task_slots_per_node=4,
        start_task=m.StartTask(command_line="/bin/true", wait_for_success=True),
        metadata=[m.MetadataItem(name="made", value="14.2")],
    )
)
assert client.pool.exists("old")
until(
    lambda: [node.state for node in client.compute_node.list("old")],
    lambda states: states == [m.ComputeNodeState.idle],
)
pool = client.pool.get("old")
assert pool.allocation_state == m.AllocationState.steady
assert pool.current_dedicated_nodes == 1
assert pool.metadata[0].value == "14.2"
assert (
    code_of(
        client.pool.add, m.PoolAddParameter(id="old", vm_size="standard_d2s_v3", virtual_machine_configuration=machine)
    )
    == "PoolExists"
)
client.pool.patch("old", m.PoolPatchParameter(metadata=[m.MetadataItem(name="made", value="again")]))
assert client.pool.get("old").metadata[0].value == "again"
assert [each.id for each in client.pool.list(m.PoolListOptions(filter="startswith(id,'ol')", select="id,state"))] == [
    "old"
]
counts = next(iter(client.account.list_pool_node_counts()))
assert (counts.pool_id, counts.dedicated.idle, counts.dedicated.total) == ("old", 1, 1)
did("pool")

client.job.add(
    m.JobAddParameter(
        id="work",
        pool_info=m.PoolInformation(pool_id="old"),
        priority=5,
        uses_task_dependencies=True,
        constraints=m.JobConstraints(max_wall_clock_time=datetime.timedelta(hours=1), max_task_retry_count=1),
        common_environment_settings=[m.EnvironmentSetting(name="GREETING", value="hello")],
    )
)
tasks = [
    m.TaskAddParameter(id=f"t{number}", command_line='/bin/sh -c "echo $GREETING; echo bad >&2"')
    for number in range(250)
]
results = []
for first in range(0, 250, 100):
    results += client.task.add_collection("work", tasks[first : first + 100]).value
assert {result.status for result in results} == {m.TaskAddStatus.success}
again = client.task.add_collection("work", tasks[:1]).value[0]
assert (again.status, again.error.code) == (m.TaskAddStatus.client_error, "TaskExists")
client.task.add(
    "work",
    m.TaskAddParameter(
        id="last", command_line="/bin/sh -c 'exit 3'", depends_on=m.TaskDependencies(task_ids=["t0", "t249"])
    ),
)
until(lambda: client.job.get_task_counts("work").task_counts, lambda counts: counts.completed == 251)
counts = client.job.get_task_counts("work").task_counts
assert (counts.succeeded, counts.failed, counts.active, counts.running) == (250, 1, 0, 0)
assert len(list(client.task.list("work"))) == 251
failed = client.task.get("work", "last")
assert (failed.execution_info.exit_code, failed.execution_info.retry_count) == (3, 1)
assert failed.execution_info.failure_info.category == m.ErrorCategory.user_error
assert [each.id for each in client.task.list("work", m.TaskListOptions(filter="executionInfo/exitCode eq 3"))] == [
    "last"
]
did("tasks")


def text(stream):
    whole = io.BytesIO()
    for chunk in stream:
        whole.write(chunk)
    return whole.getvalue().decode()


assert text(client.file.get_from_task("work", "t0", "stdout.txt")) == "hello\n"
assert (
    text(client.file.get_from_task("work", "t0", "stdout.txt", m.FileGetFromTaskOptions(ocp_range="bytes=1-3")))
    == "ell"
)
names = {each.name for each in client.file.list_from_task("work", "t0", recursive=True)}
assert {"stdout.txt", "stderr.txt", "wd"} <= names
raw = client.file.get_properties_from_task("work", "t0", "stderr.txt", raw=True)
assert int(raw.headers["Content-Length"]) == 4
assert code_of(client.file.get_from_task, "work", "t0", "nothing.txt") == "FileNotFound"
node = client.task.get("work", "t0").node_info
assert any(each.name == "shared" for each in client.file.list_from_compute_node(node.pool_id, node.node_id))
did("files")

client.job.disable("work", m.DisableJobOption.requeue)
until(lambda: client.job.get("work").state, lambda state: state == m.JobState.disabled)
client.job.enable("work")
client.task.reactivate("work", "last")
until(lambda: client.task.get("work", "last").state, lambda state: state == m.TaskState.completed)
client.job.patch("work", m.JobPatchParameter(priority=7))
assert client.job.get("work").priority == 7
client.job.terminate("work", terminate_reason="enough")
ended = until(lambda: client.job.get("work"), lambda job: job.state == m.JobState.completed)
assert ended.execution_info.terminate_reason == "enough"
client.job.delete("work")
until(lambda: [job.id for job in client.job.list()], lambda ids: ids == [])
assert code_of(client.job.get, "work") == "JobNotFound"
did("jobs")

client.job_schedule.add(
    m.JobScheduleAddParameter(
        id="often",
        schedule=m.Schedule(recurrence_interval=datetime.timedelta(hours=1)),
        job_specification=m.JobSpecification(
            pool_info=m.PoolInformation(pool_id="old"),
            job_manager_task=m.JobManagerTask(id="manager", command_line="/bin/true"),
        ),
    )
)
recent = until(
    lambda: client.job_schedule.get("often").execution_info,
    lambda info: info.recent_job is not None,
).recent_job
until(lambda: client.job.get(recent.id).state, lambda state: state == m.JobState.completed)
client.job_schedule.disable("often")
assert client.job_schedule.get("often").state == m.JobScheduleState.disabled
client.job_schedule.delete("often")
until(lambda: client.job_schedule.exists("often"), lambda there: not there)
did("schedules")

formula = "$TargetDedicatedNodes=2;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
client.pool.enable_auto_scale("old", auto_scale_formula=formula)
run = client.pool.evaluate_auto_scale("old", formula)
assert run.error is None
assert "$TargetDedicatedNodes=2" in run.results
client.pool.disable_auto_scale("old")
until(lambda: client.pool.get("old").allocation_state, lambda state: state == m.AllocationState.steady)
client.pool.resize("old", m.PoolResizeParameter(target_dedicated_nodes=2, target_low_priority_nodes=0))
until(lambda: client.pool.get("old").current_dedicated_nodes, lambda nodes: nodes == 2)
did("autoscale")

node_id = next(iter(client.compute_node.list("old"))).id
client.compute_node.disable_scheduling("old", node_id)
until(lambda: client.compute_node.get("old", node_id).scheduling_state, lambda state: state == "disabled")
client.compute_node.enable_scheduling("old", node_id)
client.compute_node.reboot("old", node_id)
until(
    lambda: client.compute_node.get("old", node_id).state,
    lambda state: state in (m.ComputeNodeState.idle, m.ComputeNodeState.running),
)
until(lambda: client.pool.get("old").allocation_state, lambda state: state == m.AllocationState.steady)
client.pool.remove_nodes("old", m.NodeRemoveParameter(node_list=[node_id]))
until(lambda: [node.id for node in client.compute_node.list("old")], lambda ids: len(ids) == 1 and node_id not in ids)
did("nodes")

client.pool.delete("old")
until(lambda: client.pool.exists("old"), lambda there: not there)
did("end")
