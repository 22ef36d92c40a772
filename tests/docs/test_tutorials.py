"""Every snippet of the tutorials runs as it stands, one after the other in one directory."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential

from tests.commands import read_aloud, reader
from tests.conftest import MillpondProcess
from tests.waiting import until

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "tutorials" / "autoscale.md"
SNIPPET = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MillpondProcess]:
    """One that has samples of a pool within a second."""
    running = MillpondProcess(tmp_path / "data", environment={"MILLPOND_AUTOSCALE_SAMPLE_S": "0.5"})
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def with_render(service: Any) -> Iterator[Any]:
    """A service with what the tutorial takes for granted: a pool and a job `render`, which has run."""
    credential = AzureNamedKeyCredential(service.account, service.key)
    with BatchClient(endpoint=service.endpoint, credential=credential) as client:
        image = next(i for i in client.list_supported_images() if i.os_type == m.OSType.LINUX)
        machine = m.VirtualMachineConfiguration(
            image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
        )
        client.create_pool(
            m.BatchPoolCreateOptions(
                id="render",
                vm_size="standard_d2s_v3",
                virtual_machine_configuration=machine,
                enable_auto_scale=True,
                auto_scale_formula="$TargetDedicatedNodes = 1;",
            )
        )
        client.create_job(m.BatchJobCreateOptions(id="render", pool_info=m.BatchPoolInfo(pool_id="render")))
        tasks = [m.BatchTaskCreateOptions(id=f"frame{number}", command_line="true") for number in range(3)]
        client.create_tasks("render", tasks)
        until(
            lambda: {task.state for task in client.list_tasks("render")},
            lambda states: states == {m.BatchTaskState.COMPLETED},
        )
        yield service


@pytest.mark.timeout(300)
def test_the_autoscale_tutorial_runs(with_render: Any, tmp_path: Path) -> None:
    snippets = SNIPPET.findall(PAGE.read_text(encoding="utf-8"))
    assert {language for language, _ in snippets} == {"bash", "python"}
    work = tmp_path / "work"
    work.mkdir()
    environment = reader(tmp_path, with_render.data_dir)
    outputs = []
    for language, text in snippets:
        outputs.append(read_aloud(text, environment=environment, cwd=work, language=language))
        if "--pool" in text:
            assert "  target dedicated nodes: " in outputs[-1]
    told = "\n".join(outputs)
    for expected in (
        "[kills-running-work]",
        "samples: $PendingTasks after 2026-01-05T07:56:00Z up to 2026-01-05T08:01:00Z: 3 of 10 (30%)",
        "→ recent = [4] (doubleVec)",
        "  target dedicated nodes: 4 (before: 0)",
        "picture: week.png",
        "$TargetDedicatedNodes = max(least, min(most, nodes));",
        "95% of the tasks start within",
        "render.csv: 3 tasks",
    ):
        assert expected in told, f"{expected!r} is not in:\n{told}"
    assert (work / "week.png").read_bytes().startswith(b"\x89PNG")
    assert (work / "bursts.svg").exists()
