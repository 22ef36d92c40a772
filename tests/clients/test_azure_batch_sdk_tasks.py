"""The official azure-batch SDK 15.1, unmodified, against a running service: tasks, their files and their storage."""

import base64
import itertools
import stat
import time
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from millpond.staging.auto_storage import sign_url
from tests.waiting import PATIENCE_S


def code_of(caught: "pytest.ExceptionInfo[HttpResponseError]") -> str:
    assert caught.value.error is not None
    assert caught.value.error.code is not None
    return caught.value.error.code


# --- one task ---


def test_a_task_runs_and_tells_all_about_it(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "Hello", "echo hello; echo problem >&2", display_name="a task")
    task = batch.completed(job_id, "hello")
    assert (task.id, task.display_name) == ("Hello", "a task")
    assert task.command_line == '/bin/sh -c "echo hello; echo problem >&2"'
    assert task.previous_state == m.BatchTaskState.RUNNING
    info = task.execution_info
    assert (info.exit_code, info.result, info.failure_info) == (0, m.BatchTaskExecutionResult.SUCCESS, None)
    assert (info.retry_count, info.requeue_count) == (0, 0)
    assert task.creation_time <= info.start_time <= info.end_time
    assert task.node_info.node_id in {node.id for node in batch.nodes()}
    assert task.node_info.pool_id == batch.pool_id
    assert task.node_info.task_root_directory == f"workitems/{job_id}/job-1/Hello"
    assert task.constraints.max_task_retry_count == 0
    assert task.url.endswith(f"/jobs/{job_id}/tasks/Hello")
    assert batch.stdout(job_id, "hello") == "hello\n"
    assert b"".join(batch.client.download_task_file(job_id, "hello", "stderr.txt")) == b"problem\n"


def test_a_failing_command_is_a_failure_with_its_exit_code(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "exit 3")
    info = batch.completed(job_id, "t").execution_info
    assert (info.exit_code, info.result) == (3, m.BatchTaskExecutionResult.FAILURE)
    assert (info.failure_info.category, info.failure_info.code) == (
        m.BatchErrorSourceCategory.USER_ERROR,
        "FailureExitCode",
    )
    counts = batch.client.get_job_task_counts(job_id)
    assert (counts.task_counts.completed, counts.task_counts.failed, counts.task_counts.succeeded) == (1, 1, 0)
    assert counts.task_slot_counts.failed == 1


def test_a_program_that_is_not_there(batch: Any) -> None:
    job_id = batch.create_job()
    batch.add(job_id, "t", "no-such-program --at all")
    info = batch.completed(job_id, "t").execution_info
    assert info.failure_info.code == "CommandProgramNotFound"
    assert info.failure_info.category == m.BatchErrorSourceCategory.USER_ERROR
    assert info.exit_code is None


def test_there_is_no_shell_unless_asked_for(batch: Any) -> None:
    job_id = batch.create_job()
    batch.add(job_id, "t", "/bin/echo $HOME \"a  b\" 'c' > x")
    batch.completed(job_id, "t")
    out = batch.stdout(job_id, "t")
    assert "a  b" in out
    assert "> x" in out


def test_retries_are_counted_and_limited(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "exit 1", constraints=m.BatchTaskConstraints(max_task_retry_count=2))
    info = batch.completed(job_id, "t").execution_info
    assert (info.retry_count, info.exit_code) == (2, 1)
    assert info.last_retry_time is not None


def test_the_jobs_retry_count_is_the_default(batch: Any) -> None:
    job_id = batch.create_job(constraints=m.BatchJobConstraints(max_task_retry_count=1))
    batch.sh(job_id, "t", "exit 1")
    assert batch.completed(job_id, "t").execution_info.retry_count == 1


def test_the_wall_clock_ends_a_task(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "sleep 300", constraints=m.BatchTaskConstraints(max_wall_clock_time=timedelta(seconds=1)))
    info = batch.completed(job_id, "t").execution_info
    assert info.result == m.BatchTaskExecutionResult.FAILURE
    assert info.end_time - info.start_time >= timedelta(seconds=1)


def test_terminate_and_reactivate(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "sleep 300")
    batch.running(job_id, "t")
    batch.client.terminate_task(job_id, "t")
    task = batch.client.get_task(job_id, "t")
    assert task.state == m.BatchTaskState.COMPLETED
    assert (task.execution_info.failure_info.code, task.execution_info.failure_info.category) == (
        "TaskEnded",
        m.BatchErrorSourceCategory.USER_ERROR,
    )
    with pytest.raises(ResourceExistsError) as again:
        batch.client.terminate_task(job_id, "t")
    assert code_of(again) == "TaskCompleted"

    batch.client.reactivate_task(job_id, "t")
    task = batch.running(job_id, "t")
    assert task.execution_info.retry_count == 0
    assert task.execution_info.failure_info is None
    with pytest.raises(ResourceExistsError) as running:
        batch.client.reactivate_task(job_id, "t")
    assert code_of(running) == "TaskNotCompleted"
    batch.client.delete_task(job_id, "t")
    with pytest.raises(ResourceNotFoundError) as gone:
        batch.client.get_task(job_id, "t")
    assert code_of(gone) == "TaskNotFound"

    batch.sh(job_id, "good", "true")
    batch.completed(job_id, "good")
    with pytest.raises(ResourceExistsError) as succeeded:
        batch.client.reactivate_task(job_id, "good")
    assert code_of(succeeded) == "TaskSucceeded"


def test_constraints_of_a_waiting_task_can_be_replaced(batch: Any) -> None:
    job_id = batch.create_job(pool_info=m.BatchPoolInfo(pool_id="not-there-yet"))
    batch.sh(job_id, "t", "true")
    task = batch.client.get_task(job_id, "t")
    task.constraints = m.BatchTaskConstraints(max_task_retry_count=3)
    batch.client.replace_task(job_id, "t", task)
    assert batch.client.get_task(job_id, "t").constraints.max_task_retry_count == 3


def test_the_environment_of_a_task(batch: Any) -> None:
    job_id = batch.create_job(
        common_environment_settings=[
            m.EnvironmentSetting(name="COMMON", value="of the job"),
            m.EnvironmentSetting(name="BOTH", value="of the job"),
        ]
    )
    batch.add(
        job_id,
        "t",
        "/usr/bin/env",
        environment_settings=[
            m.EnvironmentSetting(name="BOTH", value="of the task"),
            m.EnvironmentSetting(name="OWN", value="ü=1"),
        ],
    )
    task = batch.completed(job_id, "t")
    lines = dict(line.partition("=")[::2] for line in batch.stdout(job_id, "t").splitlines())
    assert (lines["COMMON"], lines["BOTH"], lines["OWN"]) == ("of the job", "of the task", "ü=1")
    assert lines["AZ_BATCH_POOL_ID"] == batch.pool_id
    assert lines["AZ_BATCH_JOB_ID"] == job_id
    assert lines["AZ_BATCH_TASK_ID"] == "t"
    assert lines["AZ_BATCH_NODE_ID"] == task.node_info.node_id
    assert lines["AZ_BATCH_TASK_WORKING_DIR"] == lines["AZ_BATCH_TASK_DIR"] + "/wd"
    assert lines["AZ_BATCH_TASK_DIR"].endswith(f"/workitems/{job_id}/job-1/t")
    assert lines["AZ_BATCH_TASK_WORKING_DIR"] == lines["PWD"] if "PWD" in lines else True


def test_required_slots_fill_a_node(batch: Any) -> None:
    job_id = batch.create_job()
    for number in range(3):
        batch.sh(job_id, f"wide-{number}", "sleep 1", required_slots=4)
    tasks = [batch.completed(job_id, f"wide-{number}") for number in range(3)]
    by_node: dict[str, list[Any]] = {}
    for task in tasks:
        by_node.setdefault(task.node_info.node_id, []).append(task.execution_info)
    # Two nodes of four slots: two of them ran one after the other.
    for runs in by_node.values():
        runs.sort(key=lambda info: info.start_time)
        assert all(first.end_time <= second.start_time for first, second in itertools.pairwise(runs))
    assert len(by_node) <= 2


# --- many tasks ---


def test_many_tasks_are_added_listed_and_counted(batch: Any) -> None:
    job_id = batch.create_job(pool_info=m.BatchPoolInfo(pool_id="not-there-yet"))
    tasks = [m.BatchTaskCreateOptions(id=f"t{number:03}", command_line="/bin/true") for number in range(250)]
    result = batch.client.create_tasks(job_id, list(tasks))
    assert len(result.result_values) == 250
    assert {item.status for item in result.result_values} == {m.BatchTaskAddStatus.SUCCESS}

    pages = [list(page) for page in batch.client.list_tasks(job_id, max_results=100).by_page()]
    assert [len(page) for page in pages] == [100, 100, 50]
    assert sorted(task.id for page in pages for task in page) == [task.id for task in tasks]
    some = list(batch.client.list_tasks(job_id, filter="startswith(id,'t24') and state eq 'active'", select=["id"]))
    assert sorted(task.id for task in some) == [f"t24{digit}" for digit in range(10)]
    assert some[0].command_line is None
    # The SDK takes links apart and puts them together again: their filter, and so their token, must survive that.
    last = max(task.creation_time for page in pages for task in page).isoformat()
    assert last.endswith("+00:00")
    text = f"creationTime le DateTime'{last}' AND (startswith(id,'t2') or id eq 'it''s, 50%+\u00e4 & more') and state ne null"
    found = [list(page) for page in batch.client.list_tasks(job_id, filter=text, max_results=20).by_page()]
    assert [len(page) for page in found] == [20, 20, 10]
    assert sorted(task.id for page in found for task in page) == [f"t{number}" for number in range(200, 250)]
    counts = batch.client.get_job_task_counts(job_id).task_counts
    assert (counts.active, counts.running, counts.completed) == (250, 0, 0)


def test_each_task_of_a_collection_has_its_own_status(batch: Any) -> None:
    job_id = batch.create_job(pool_info=m.BatchPoolInfo(pool_id="not-there-yet"))
    batch.sh(job_id, "there", "true")
    group = m.BatchTaskGroup(
        task_values=[
            m.BatchTaskCreateOptions(id="THERE", command_line="/bin/true"),
            m.BatchTaskCreateOptions(id="new", command_line="/bin/true"),
        ]
    )
    result = {item.task_id: item for item in batch.client.create_task_collection(job_id, group).result_values}
    assert result["THERE"].status == m.BatchTaskAddStatus.CLIENT_ERROR
    assert result["THERE"].error.code == "TaskExists"
    assert result["new"].status == m.BatchTaskAddStatus.SUCCESS
    assert result["new"].etag == batch.client.get_task(job_id, "new").etag


def test_a_collection_of_more_than_100_is_refused(batch: Any) -> None:
    job_id = batch.create_job()
    tasks = [m.BatchTaskCreateOptions(id=str(number), command_line="/bin/true") for number in range(101)]
    with pytest.raises(HttpResponseError) as caught:
        batch.client.create_task_collection(job_id, m.BatchTaskGroup(task_values=tasks))
    assert caught.value.status_code == 400
    assert list(batch.client.list_tasks(job_id)) == []


def test_the_helper_halves_chunks_that_are_too_large(batch: Any) -> None:
    job_id = batch.create_job(pool_info=m.BatchPoolInfo(pool_id="not-there-yet"))
    # Some 3 MB in the first chunk of 100.
    tasks = [
        m.BatchTaskCreateOptions(
            id=str(number),
            command_line="/bin/true",
            environment_settings=[m.EnvironmentSetting(name="LONG", value="x" * 30_000)],
        )
        for number in range(100)
    ]
    assert len(batch.client.create_tasks(job_id, tasks).result_values) == 100
    assert batch.client.get_job_task_counts(job_id).task_counts.active == 100


# --- dependencies ---


def test_dependents_wait_for_ids_and_ranges(batch: Any) -> None:
    job_id = batch.create_job(uses_task_dependencies=True)
    batch.sh(
        job_id,
        "last",
        "true",
        depends_on=m.BatchTaskDependencies(task_ids=["First"], task_id_ranges=[m.BatchTaskIdRange(start=1, end=3)]),
    )
    for task_id in ("first", "1", "2", "3"):
        batch.sh(job_id, task_id, "sleep 0.3")
    begun = batch.completed(job_id, "last").execution_info.start_time
    parents = [batch.client.get_task(job_id, task_id) for task_id in ("first", "1", "2", "3")]
    assert all(parent.execution_info.end_time <= begun for parent in parents)


def test_a_failed_parent_blocks_its_dependents(batch: Any) -> None:
    job_id = batch.create_job(uses_task_dependencies=True)
    batch.sh(job_id, "parent", "exit 1")
    batch.sh(job_id, "child", "true", depends_on=m.BatchTaskDependencies(task_ids=["parent"]))
    batch.completed(job_id, "parent")
    # A task added later ran through the same scheduler and the same nodes: the child had its chance.
    batch.sh(job_id, "witness", "true")
    batch.completed(job_id, "witness")
    assert batch.client.get_task(job_id, "child").state == m.BatchTaskState.ACTIVE


def test_dependencies_need_a_job_that_uses_them(batch: Any) -> None:
    job_id = batch.create_job()
    with pytest.raises(HttpResponseError) as caught:
        batch.sh(job_id, "t", "true", depends_on=m.BatchTaskDependencies(task_ids=["x"]))
    assert caught.value.status_code == 400
    assert code_of(caught) == "TaskDependenciesNotSpecifiedOnJob"


# --- files ---


def test_files_of_a_task(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "mkdir 'my dir'; printf 0123456789 > 'my dir/ä b.txt'; echo x > top.txt")
    batch.completed(job_id, "t")

    names = {file.name: file for file in batch.client.list_task_files(job_id, "t", recursive=True)}
    assert {"stdout.txt", "stderr.txt", "wd", "wd/top.txt", "wd/my dir", "wd/my dir/ä b.txt"} <= set(names)
    assert names["wd"].is_directory
    assert names["wd"].properties is None
    assert names["wd/my dir/ä b.txt"].properties.content_length == 10
    flat = {file.name for file in batch.client.list_task_files(job_id, "t")}
    assert "wd" in flat
    assert "wd/top.txt" not in flat

    path = "wd/my dir/ä b.txt"
    assert b"".join(batch.client.download_task_file(job_id, "t", path)) == b"0123456789"
    assert b"".join(batch.client.download_task_file(job_id, "t", path, ocp_range="bytes=2-4")) == b"234"
    assert b"".join(batch.client.download_task_file(job_id, "t", path, ocp_range="bytes=8-99")) == b"89"
    properties = batch.client.get_task_file_properties(job_id, "t", path)
    assert properties.content_length == 10
    assert not properties.is_directory
    assert stat.S_ISREG(int(properties.file_mode, 8))

    batch.client.delete_task_file(job_id, "t", path)
    with pytest.raises(ResourceNotFoundError):
        batch.client.get_task_file_properties(job_id, "t", path)


@pytest.mark.parametrize("path", ["none.txt", "../../../../../etc/passwd", "wd/../../../../x", "/etc/passwd"])
def test_files_that_are_not_there_or_not_the_tasks(batch: Any, path: str) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "true")
    batch.completed(job_id, "t")
    with pytest.raises(HttpResponseError) as caught:
        batch.client.get_task_file_properties(job_id, "t", path)
    assert caught.value.status_code in (400, 404)


def test_a_link_out_of_the_node_is_not_followed(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "ln -s /etc/passwd link")
    batch.completed(job_id, "t")
    with pytest.raises(HttpResponseError):
        b"".join(batch.client.download_task_file(job_id, "t", "wd/link"))


def test_files_of_a_node(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "echo from the node")
    node_id = batch.completed(job_id, "t").node_info.node_id
    root = {file.name for file in batch.client.list_node_files(batch.pool_id, node_id)}
    assert {"shared", "workitems"} <= root
    path = f"workitems/{job_id}/job-1/t/stdout.txt"
    assert b"".join(batch.client.download_node_file(batch.pool_id, node_id, path)) == b"from the node\n"
    assert batch.client.get_node_file_properties(batch.pool_id, node_id, path).content_length == 14
    batch.client.delete_node_file(batch.pool_id, node_id, path)
    with pytest.raises(ResourceNotFoundError):
        batch.client.get_node_file_properties(batch.pool_id, node_id, path)


def test_output_can_be_read_while_the_task_runs(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "echo begun; sleep 300")
    batch.running(job_id, "t")
    batch.until(lambda: batch.stdout(job_id, "t"), lambda text: text == "begun\n")
    batch.client.terminate_task(job_id, "t")


# --- the account's own storage ---


class Storage:
    """A container of the auto-storage, by signed URLs."""

    def __init__(self, service: Any, container: str) -> None:
        self.service = service
        self.container = container

    def url(self, blob: str | None, permissions: str, lives_s: float = 600) -> str:
        service = self.service
        expires = time.time() + lives_s
        key = base64.b64decode(service.key)
        return sign_url(service.endpoint, service.account, key, self.container, blob, permissions, expires)

    def put(self, blob: str, content: bytes) -> None:
        request = urllib.request.Request(self.url(blob, "w"), content, {"x-ms-blob-type": "BlockBlob"}, method="PUT")
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()

    def get(self, blob: str) -> bytes:
        with urllib.request.urlopen(self.url(blob, "r"), timeout=PATIENCE_S) as answer:
            return bytes(answer.read())


@pytest.fixture
def storage(service: Any, batch: Any) -> Storage:
    return Storage(service, batch.name("files"))


def upload(
    pattern: str, container_url: str, path: str | None = None, condition: str = "taskcompletion"
) -> m.OutputFile:
    return m.OutputFile(
        file_pattern=pattern,
        destination=m.OutputFileDestination(
            container=m.OutputFileBlobContainerDestination(container_url=container_url, path=path)
        ),
        upload_options=m.OutputFileUploadConfiguration(upload_condition=m.OutputFileUploadCondition(condition)),
    )


def test_files_are_staged_in_and_out(batch: Any, storage: Storage) -> None:
    storage.put("in/one.txt", b"one\n")
    storage.put("in/deep/two.txt", b"two\n")
    job_id = batch.create_job()
    batch.sh(
        job_id,
        "t",
        "cat script.txt in/one.txt in/deep/two.txt > all.txt; echo said",
        resource_files=[
            m.ResourceFile(http_url=storage.url("in/one.txt", "r"), file_path="script.txt", file_mode="0640"),
            m.ResourceFile(storage_container_url=storage.url(None, "rl"), blob_prefix="in/"),
        ],
        output_files=[
            upload("all.txt", storage.url(None, "w"), "out/result.txt", "tasksuccess"),
            upload("../std*.txt", storage.url(None, "w"), "logs"),
            upload("all.txt", storage.url(None, "w"), "never.txt", "taskfailure"),
        ],
    )
    assert batch.completed(job_id, "t").execution_info.exit_code == 0
    assert storage.get("out/result.txt") == b"one\none\ntwo\n"
    assert storage.get("logs/stdout.txt") == b"said\n"
    with pytest.raises(urllib.error.HTTPError) as caught:
        storage.get("never.txt")
    with caught.value as error:
        assert error.code == 404


def test_a_resource_file_that_is_not_there(batch: Any, storage: Storage) -> None:
    storage.put("other.txt", b"")
    job_id = batch.create_job()
    missing = m.ResourceFile(http_url=storage.url("missing.txt", "r"), file_path="missing.txt")
    batch.sh(job_id, "t", "true", resource_files=[missing], constraints=m.BatchTaskConstraints(max_task_retry_count=3))
    info = batch.completed(job_id, "t").execution_info
    assert (info.failure_info.code, info.failure_info.category) == (
        "BlobNotFound",
        m.BatchErrorSourceCategory.USER_ERROR,
    )
    assert (info.retry_count, info.exit_code) == (0, None)


def test_a_signature_that_has_expired_or_allows_less(storage: Storage) -> None:
    storage.put("a.txt", b"a")
    for url in (
        storage.url("a.txt", "r", lives_s=-1),
        storage.url("a.txt", "w"),
        storage.url("a.txt", "r")[:-3] + "AAA",
        storage.url("a.txt", "r").replace("a.txt", "b.txt"),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, timeout=PATIENCE_S)
        with caught.value as error:
            assert error.code == 403


def test_statistics_are_of_what_ran(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "busy", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    batch.completed(job_id, "busy")
    stats = batch.client.get_task(job_id, "busy", expand=["stats"]).task_statistics
    assert stats.user_cpu_time > timedelta(0)
    assert stats.wall_clock_time >= stats.user_cpu_time / 4
    assert batch.client.get_task(job_id, "busy").task_statistics is None
    whole = batch.client.get_job(job_id, expand=["stats"]).job_statistics
    assert (whole.succeeded_tasks_count, whole.failed_tasks_count) == (1, 0)
    assert whole.user_cpu_time == stats.user_cpu_time


def test_the_agents_logs_are_uploaded(batch: Any, storage: "Storage") -> None:
    node = batch.nodes()[0]
    start = node.allocation_time - timedelta(minutes=1)
    options = m.UploadBatchServiceLogsOptions(container_url=storage.url(None, "rwl"), start_time=start)
    result = batch.client.upload_node_logs(batch.pool_id, node.id, options)
    assert result.number_of_files_uploaded >= 1
    assert result.virtual_directory_name.startswith(f"{batch.pool_id}/{node.id}/")
    storage.get(f"{result.virtual_directory_name}/host.log")  # there, or this raises
