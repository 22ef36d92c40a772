"""Users of nodes, how to reach a node, its logs: what the node is asked, and what is answered."""

from typing import Any

import pytest

from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.states import NodeState
from millpond.protocol.messages import PutUser, RemoveUser, UploadLogs
from tests.api.client import NOW
from tests.api.conftest import NODE, World

URL = f"/pools/p1/nodes/{NODE}"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 somebody"


async def test_users(busy: World) -> None:
    body = {"name": "bob", "password": "x", "expiryTime": "2026-12-01T00:00:00Z", "isAdmin": False}
    answer = await busy.call("POST", f"{URL}/users", body)
    assert answer.status == 201
    assert answer.headers["location"].endswith(f"{URL}/users/bob")
    assert (await busy.call("PUT", f"{URL}/users/bob", {"sshPublicKey": KEY})).status == 200
    assert (await busy.call("DELETE", f"{URL}/users/bob")).status == 200
    assert busy.control.files.orders == [
        PutUser("bob", exists=False, expires=1796083200.0, password="x"),
        PutUser("bob", exists=True, expires=NOW + 86400, public_key=KEY),
        RemoveUser("bob"),
    ]


@pytest.mark.parametrize(
    ("body", "status", "code", "name"),
    [
        ({"name": "Bob Smith", "password": "x"}, 400, "InvalidPropertyValue", "name"),
        ({"name": "x" * 33, "password": "x"}, 400, "InvalidPropertyValue", "name"),
        ({"name": "bob"}, 400, "MissingRequiredProperty", "password"),
        ({"password": "x"}, 400, "MissingRequiredProperty", "name"),
        ({"name": "bob", "password": "a\nb"}, 400, "InvalidPropertyValue", "password"),
        ({"name": "bob", "password": "a" * 200}, 400, "InvalidPropertyValue", "password"),
        ({"name": "bob", "sshPublicKey": f"{KEY}\nssh-rsa AAAA"}, 400, "InvalidPropertyValue", "sshPublicKey"),
        (
            {"name": "bob", "password": "x", "expiryTime": "2020-01-01T00:00:00Z"},
            400,
            "InvalidPropertyValue",
            "expiryTime",
        ),
        ({"name": "bob", "password": "x", "isAdmin": True}, 501, "NotImplemented", "isAdmin"),
    ],
)
async def test_bad_users(busy: World, body: Any, status: int, code: str, name: str) -> None:
    answer = await busy.call("POST", f"{URL}/users", body)
    assert (answer.status, answer.code) == (status, code)
    assert answer.values()["PropertyName"] == name
    assert busy.control.files.orders == []


async def test_what_the_node_says_is_passed_on(busy: World) -> None:
    busy.control.files.error = BatchError(ErrorCode.NODE_USER_EXISTS)
    answer = await busy.call("POST", f"{URL}/users", {"name": "bob", "password": "x"})
    assert (answer.status, answer.code) == (409, "NodeUserExists")
    busy.control.files.error = BatchError(ErrorCode.NODE_USER_NOT_FOUND)
    assert (await busy.call("DELETE", f"{URL}/users/bob")).code == "NodeUserNotFound"


async def test_a_node_that_is_not_up_has_no_users(busy: World) -> None:
    busy.control.store.nodes[NODE][1].state = NodeState.STARTING
    answer = await busy.call("POST", f"{URL}/users", {"name": "bob", "password": "x"})
    assert (answer.status, answer.code) == (409, "OperationInvalidForCurrentState")
    answer = await busy.call("GET", f"{URL}/remoteloginsettings")
    assert (answer.status, answer.code) == (409, "OperationInvalidForCurrentState")


@pytest.mark.parametrize("address", ["10.1.2.3", "fd00::1"])
async def test_where_to_log_in(busy: World, address: str) -> None:
    busy.control.store.nodes[NODE][1].ip_address = address
    body = (await busy.call("GET", f"{URL}/remoteloginsettings")).json()
    assert (body["remoteLoginIPAddress"], body["remoteLoginPort"]) == (address, 22)
    assert ("ipv6RemoteLoginIPAddress" in body) is (":" in address)
    old = (await busy.call("GET", f"{URL}/remoteloginsettings", version="2024-02-01.19.0")).json()
    assert "ipv6RemoteLoginIPAddress" not in old


async def test_logs(busy: World) -> None:
    body = {"containerUrl": "http://h/c?sig=x", "startTime": "2026-11-21T00:00:00Z", "endTime": "2026-11-22T00:00:00Z"}
    answer = await busy.call("POST", f"{URL}/uploadbatchservicelogs", body)
    assert answer.status == 200
    order = busy.control.files.orders[0]
    assert isinstance(order, UploadLogs)
    assert (order.container_url, order.start, order.end) == ("http://h/c?sig=x", 1795219200.0, 1795305600.0)
    assert answer.json()["virtualDirectoryName"] == order.directory
    assert order.directory.startswith(f"p1/{NODE}/")
    assert answer.json()["numberOfFilesUploaded"] == 2
    answer = await busy.call("POST", f"{URL}/uploadbatchservicelogs", {**body, "endTime": "2026-11-20T00:00:00Z"})
    assert answer.values()["PropertyName"] == "endTime"
    answer = await busy.call("POST", f"{URL}/uploadbatchservicelogs", {**body, "containerUrl": "ftp://h/c"})
    assert answer.values()["PropertyName"] == "containerUrl"
