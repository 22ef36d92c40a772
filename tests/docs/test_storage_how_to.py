"""Every snippet of the page on storage runs as it stands, one after the other, with each kind of storage."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential

from tests.commands import REPOSITORY, read_aloud, reader, said_by
from tests.conftest import MillpondProcess
from tests.waiting import until

PAGE = REPOSITORY / "docs" / "how-to" / "storage.md"
SNIPPET = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(params=["directory", "account"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MillpondProcess]:
    arguments: tuple[str, ...] = ()
    environment = {}
    if request.param == "account":
        environment["STRING"] = request.getfixturevalue("azurite").connection_string
        arguments = ("--blob-connection-string-env", "STRING")
    running = MillpondProcess(tmp_path / "data", *arguments, environment=environment)
    try:
        yield running.start()
    finally:
        running.stop()


def test_the_page_on_storage_runs(service: MillpondProcess, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    environment = reader(tmp_path, service.data_dir) | service.client_environment()
    with BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, service.key)) as client:
        image = next(i for i in client.list_supported_images() if i.os_type == m.OSType.LINUX)
        machine = m.VirtualMachineConfiguration(
            image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
        )
        client.create_pool(
            m.BatchPoolCreateOptions(
                id="files",
                vm_size="standard_d2s_v3",
                virtual_machine_configuration=machine,
                target_dedicated_nodes=1,
            )
        )
        client.create_job(m.BatchJobCreateOptions(id="files", pool_info=m.BatchPoolInfo(pool_id="files")))
        outputs = []
        for language, text in SNIPPET.findall(PAGE.read_text(encoding="utf-8")):
            outputs.append(read_aloud(text, environment=environment, cwd=work, language=language))
        assert "one\ntwo\n" in outputs[0]
        assert outputs[1].count("sig=") == 2
        task = until(lambda: client.get_task("files", "sum"), lambda task: task.state == m.BatchTaskState.COMPLETED)
    assert task.execution_info is not None
    assert task.execution_info.failure_info is None
    assert said_by("storage", "get", "data/out/all.txt", "-", data_dir=service.data_dir) == "one\ntwo\n"
