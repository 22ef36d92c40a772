"""`millpond up --tls`: clients, nodes, tasks and the commands over https."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential

from tests.commands import millpond, said_by
from tests.conftest import MillpondProcess, ServiceFactory
from tests.process.test_up import make_pool, state_of
from tests.waiting import PATIENCE_S, until

CALL_BACK = """
import json, os, sys, urllib.request
request = urllib.request.Request(os.environ["AZ_BATCH_ACCOUNT_URL"] + "/healthz")
with urllib.request.urlopen(request, timeout=60) as answer:
    print(answer.url, answer.status)
"""


def facts_of(service: MillpondProcess) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((service.data_dir / "endpoint.json").read_text())
    return facts


def client_of(service: MillpondProcess) -> BatchClient:
    credential = AzureNamedKeyCredential(service.account, service.key)
    return BatchClient(service.endpoint, credential, connection_verify=facts_of(service)["bundle"])


def run(client: BatchClient, task_id: str, command_line: str, **more: Any) -> str:
    client.create_task("j", m.BatchTaskCreateOptions(id=task_id, command_line=command_line, **more))
    until(lambda: state_of(client, task_id), lambda state: state == m.BatchTaskState.COMPLETED)
    task = client.get_task("j", task_id)
    assert task.execution_info is not None
    assert task.execution_info.exit_code == 0, task.execution_info.failure_info
    return b"".join(client.download_task_file("j", task_id, "stdout.txt")).decode()


def test_everything_over_https(new_service: ServiceFactory, tmp_path: Path) -> None:
    service = new_service("data", "--tls").start()
    assert service.endpoint.startswith("https://127.0.0.1:")
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(service.endpoint + "/healthz", timeout=PATIENCE_S)

    (tmp_path / "in.txt").write_text("by https\n")
    said_by("storage", "put", str(tmp_path / "in.txt"), "inputs", data_dir=service.data_dir)
    assert service.endpoint in said_by("status", data_dir=service.data_dir)
    environment = json.loads(said_by("env", "--json", data_dir=service.data_dir))
    assert environment["REQUESTS_CA_BUNDLE"] == facts_of(service)["bundle"]
    log = service.log()
    assert "Clients must trust its certificate" in log
    assert "update-ca-certificates" in log

    client = client_of(service)
    make_pool(client, 1)
    inputs = [m.ResourceFile(auto_storage_container_name="inputs")]
    assert run(client, "reads", "cat in.txt", resource_files=inputs) == "by https\n"
    # A task that calls the service trusts it as well.
    more = {"PYTHON": sys.executable, "SCRIPT": CALL_BACK}
    settings = [m.EnvironmentSetting(name=name, value=value) for name, value in more.items()]
    said = run(client, "calls", """/bin/sh -c '"$PYTHON" -c "$SCRIPT"'""", environment_settings=settings)
    assert said == f"{service.endpoint}/healthz 200\n"
    # Also the next page is asked for by https.
    listed = client.list_tasks("j", max_results=1)
    assert sorted(str(task.id) for task in listed) == ["calls", "reads"]


def test_nodes_follow_when_tls_is_turned_on_after_a_crash(new_service: ServiceFactory) -> None:
    service = new_service("data").start()
    make_pool(client_of_http(service), 1)
    service.kill()
    # The same service from here on: nothing is left of the first to be stopped.
    service.arguments = ("--tls",)
    secure = service.start()
    client = client_of(secure)
    assert run(client, "t", "echo still here") == "still here\n"


def client_of_http(service: MillpondProcess) -> BatchClient:
    return BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, service.key))


def test_plain_http_is_for_this_machine_only(new_service: ServiceFactory) -> None:
    service = new_service("data", "--host", "0.0.0.0")
    assert service.spawn().wait(PATIENCE_S) == 1
    assert "add --tls, or --insecure-http if that is what you want" in service.log()
    new_service("data", "--host", "0.0.0.0", "--insecure-http").start()


def test_half_a_certificate(new_service: ServiceFactory) -> None:
    service = new_service("data", "--tls-cert", "/none.pem")
    assert service.spawn().wait(PATIENCE_S) == 2
    assert "--tls-cert: server.tls_certificate needs server.tls_key beside it" in service.log()


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(new_service: ServiceFactory, tmp_path: Path) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    service = new_service("data", environment=proxy).start()
    (tmp_path / "in.txt").write_text("not by the proxy\n")
    for command in (("storage", "put", str(tmp_path / "in.txt"), "inputs"), ("status",)):
        done = millpond(*command, data_dir=service.data_dir, environment=proxy)
        assert done.returncode == 0, done.stderr
    client = BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, service.key))
    make_pool(client, 1)
    inputs = [m.ResourceFile(auto_storage_container_name="inputs")]
    assert run(client, "reads", "cat in.txt", resource_files=inputs) == "not by the proxy\n"
