"""What Terraform's provider azurerm sends for Batch, played by plain HTTP: there is no Terraform here to run.

The calls, their bodies with empty texts and nulls, and what is looked for in the answers are as in its source
(hashicorp/terraform-provider-azurerm, internal/services/batch; hashicorp/go-azure-sdk, sdk/client/resourcemanager).
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import REPOSITORY
from tests.conftest import MillpondProcess

VERSION = "2024-07-01"
DEADLINE_S = 120.0


class Answer:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class Provider:
    """Signs in as the provider does, and polls as its SDK does."""

    def __init__(self, service: MillpondProcess, sign_in: dict[str, str]) -> None:
        cloud = self.send("GET", f"{service.endpoint}/metadata/endpoints?api-version=2022-09-01").json()
        self.resource_manager = cloud["resourceManager"].rstrip("/")
        authentication = cloud["authentication"]
        assert authentication["identityProvider"] == "AAD"
        form = {
            "client_id": sign_in["AZURE_CLIENT_ID"],
            "client_secret": sign_in["AZURE_CLIENT_SECRET"],
            "grant_type": "client_credentials",
            "scope": f"{authentication['audiences'][0]}/.default",
        }
        url = f"{authentication['loginEndpoint'].rstrip('/')}/{sign_in['AZURE_TENANT_ID']}/oauth2/v2.0/token"
        answer = self.send("POST", url, urllib.parse.urlencode(form).encode(), "application/x-www-form-urlencoded")
        self.token = answer.json()["access_token"]
        self.subscription = f"/subscriptions/{sign_in['AZURE_SUBSCRIPTION_ID']}"

    token = ""

    def send(self, method: str, url: str, body: bytes | None = None, kind: str = "application/json") -> Answer:
        headers = {"Accept": "application/json", "Content-Type": f"{kind}; charset=utf-8"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(url, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def call(self, method: str, path: str, body: Any = None, version: str = VERSION, query: str = "") -> Answer:
        url = f"{self.resource_manager}{self.subscription}{path}?{query}api-version={version}"
        return self.send(method, url, None if body is None else json.dumps(body).encode())

    def wait(self, started: Answer) -> Answer:
        """The end of a long-running operation, by its Location."""
        if started.status != 202:
            return started
        url = started.headers["Location"]
        assert url.startswith("http")
        assert int(started.headers["Retry-After"]) >= 0

        def poll() -> Answer:
            answer = self.send("GET", url)
            assert answer.status in (200, 201, 202, 204), answer.body
            return answer

        ended = self.until(poll, lambda answer: answer.status != 202)
        if ended.status == 200 and ended.body:
            assert "application/json" in ended.headers["Content-Type"]
            assert ended.json()["properties"]["provisioningState"] == "Succeeded"
        else:
            # A deletion: 200 of no length at all.
            assert ended.headers["Content-Length"] == "0"
        return ended

    @staticmethod
    def until(look: Callable[[], Answer], wanted: Callable[[Answer], bool]) -> Answer:
        deadline = time.monotonic() + DEADLINE_S
        while not wanted(answer := look()):
            assert time.monotonic() < deadline, answer.body
            time.sleep(0.1)
        return answer

    def delete(self, path: str, version: str = VERSION) -> None:
        """Also an answer without a Location is followed: until the resource is not there any more."""
        ended = self.wait(self.call("DELETE", path, version=version))
        assert ended.status in (200, 204)
        self.until(lambda: self.call("GET", path, version=version), lambda answer: answer.status == 404)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    data_dir: Path = tmp_path_factory.mktemp("terraform") / "data"
    service = MillpondProcess(data_dir, "--development-issuer")
    try:
        service.start()
        shown = subprocess.run(
            [*(sys.executable, "-m", "millpond", "env", "--entra", "admin", "--arm", "--json"), "--data-dir", data_dir],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={"PYTHONPATH": str(REPOSITORY / "src")},
        )
        yield Provider(service, json.loads(shown.stdout))
    finally:
        service.stop()


@pytest.mark.timeout(300)
def test_group_account_application_and_pool_come_change_and_go(provider: Provider) -> None:
    group = "/resourceGroups/films"
    account = f"{group}/providers/Microsoft.Batch/batchAccounts/films"
    storage = f"{provider.subscription}{group}/providers/Microsoft.Storage/storageAccounts/films"
    call = provider.call

    # azurerm_resource_group: what is there already would have to be imported.
    assert call("GET", group, version="2020-06-01").status == 404
    body = {"location": "westeurope", "tags": {}}
    assert call("PUT", group, body, version="2020-06-01").status in (200, 201)
    shown = call("GET", group, version="2020-06-01").json()
    assert (shown["name"], shown["location"], shown["tags"]) == ("films", "westeurope", {})

    # azurerm_batch_account
    missing = call("GET", account)
    assert (missing.status, missing.json()["error"]["code"]) == (404, "ResourceNotFound")
    properties = {
        "poolAllocationMode": "BatchService",
        "publicNetworkAccess": "Enabled",
        "encryption": {"keySource": "Microsoft.Batch"},
        "autoStorage": {"storageAccountId": storage, "authenticationMode": "StorageKeys"},
    }
    body = {"location": "westeurope", "properties": properties, "identity": {"type": "None"}, "tags": {"a": "b"}}
    started = call("PUT", account, body)
    assert started.status == 202
    assert provider.wait(started).status == 200
    read = call("GET", account).json()
    # What a plan compares with what was asked for.
    assert (read["name"], read["location"], read["tags"]) == ("films", "westeurope", {"a": "b"})
    assert read["identity"]["type"] == "None"
    own = read["properties"]
    assert own["accountEndpoint"]
    assert own["autoStorage"]["storageAccountId"] == storage
    assert own["autoStorage"]["authenticationMode"] == "StorageKeys"
    assert "networkProfile" not in own
    assert {key: own[key] for key in ("poolAllocationMode", "publicNetworkAccess", "encryption")} == {
        key: properties[key] for key in ("poolAllocationMode", "publicNetworkAccess", "encryption")
    }
    assert "SharedKey" in own["allowedAuthenticationModes"]
    keys = call("POST", f"{account}/listKeys").json()
    assert len(keys["primary"]) == len(keys["secondary"]) == 88
    change = {
        "properties": {
            "encryption": {"keySource": "Microsoft.Batch"},
            "allowedAuthenticationModes": ["SharedKey", "TaskAuthenticationToken"],
            "networkProfile": {},
            "autoStorage": {"storageAccountId": storage, "authenticationMode": "StorageKeys"},
        },
        "identity": {"type": "None"},
        "tags": {},
    }
    assert call("PATCH", account, change).status == 200
    read = call("GET", account).json()
    assert (read["tags"], read["properties"]["allowedAuthenticationModes"]) == (
        {},
        ["SharedKey", "TaskAuthenticationToken"],
    )

    # azurerm_batch_application: what is not set is an empty text.
    application = f"{account}/applications/tool"
    assert call("GET", application).status == 404
    body = {"properties": {"allowUpdates": True, "defaultVersion": "", "displayName": ""}}
    assert call("PUT", application, body).status == 200
    assert call("GET", application).json()["properties"]["allowUpdates"] is True
    body = {"properties": {"allowUpdates": False, "defaultVersion": "", "displayName": "Tool"}}
    assert call("PATCH", application, body).status == 200
    read = call("GET", application).json()["properties"]
    assert (read["displayName"], read["allowUpdates"], read.get("defaultVersion", "")) == ("Tool", False, "")

    # azurerm_batch_pool: lists that are not set are null.
    pool = f"{account}/pools/frames"
    assert call("GET", pool).status == 404
    scale = {
        "nodeDeallocationOption": "",
        "resizeTimeout": "PT15M",
        "targetDedicatedNodes": 1,
        "targetLowPriorityNodes": 0,
    }
    image = {"offer": "ubuntu-24_04-lts", "publisher": "canonical", "sku": "server", "version": "latest"}
    machine = {"imageReference": image, "nodeAgentSkuId": "batch.node.ubuntu 24.04"}
    body = {
        "identity": {"type": "None", "userAssignedIdentities": None},
        "properties": {
            "deploymentConfiguration": {"virtualMachineConfiguration": machine},
            "displayName": "",
            "interNodeCommunication": "Disabled",
            "metadata": [],
            "mountConfiguration": None,
            "scaleSettings": {"fixedScale": {name: value for name, value in scale.items() if value != ""}},
            "taskSlotsPerNode": 1,
            "userAccounts": None,
            "vmSize": "STANDARD_D2S_V3",
        },
    }
    created = call("PUT", pool, body)
    assert created.status == 200, created.body
    steady = provider.until(
        lambda: call("GET", pool), lambda answer: answer.json()["properties"]["allocationState"] == "Steady"
    )
    read = steady.json()["properties"]
    assert read.get("displayName", "") == ""
    assert read["vmSize"].lower() == "standard_d2s_v3"
    assert (read["interNodeCommunication"], read["taskSlotsPerNode"]) == ("Disabled", 1)
    assert read["taskSchedulingPolicy"]["nodeFillType"] == "Spread"
    fixed = read["scaleSettings"]["fixedScale"]
    assert {name: fixed[name] for name in ("resizeTimeout", "targetDedicatedNodes", "targetLowPriorityNodes")} == {
        name: scale[name] for name in ("resizeTimeout", "targetDedicatedNodes", "targetLowPriorityNodes")
    }
    shown_machine = read["deploymentConfiguration"]["virtualMachineConfiguration"]
    assert shown_machine["imageReference"] == image
    assert shown_machine["nodeAgentSkuId"] == machine["nodeAgentSkuId"]
    change = {
        "identity": {"type": "None", "userAssignedIdentities": None},
        "properties": {
            "certificates": None,
            "metadata": [{"name": "team", "value": "render"}],
            "mountConfiguration": None,
            "scaleSettings": {"fixedScale": {"targetDedicatedNodes": 2, "targetLowPriorityNodes": 0}},
            "taskSchedulingPolicy": {"nodeFillType": "Spread"},
            "userAccounts": None,
        },
    }
    changed = call("PATCH", pool, change)
    assert changed.status == 200, changed.body
    provider.until(lambda: call("GET", pool), lambda answer: answer.json()["properties"]["allocationState"] == "Steady")
    assert call("GET", pool).json()["properties"]["metadata"] == [{"name": "team", "value": "render"}]

    # And all of it goes: the group only when nothing is in it.
    provider.delete(pool)
    assert call("DELETE", application).status in (200, 204)
    listed = call("GET", f"{group}/resources", version="2020-06-01", query="%24expand=provisioningState&%24top=500&")
    assert [one["name"] for one in listed.json()["value"]] == ["films"]
    provider.delete(account)
    listed = call("GET", f"{group}/resources", version="2020-06-01", query="%24expand=provisioningState&%24top=500&")
    assert listed.json()["value"] == []
    provider.delete(group, version="2020-06-01")
