"""The management plane on the in-process app: its forms, its errors, who may call."""

import io
import zipfile
from typing import Any

import pytest

from millpond.api.asgi import create_app
from millpond.api.auth import AccountKeys
from millpond.api.gate import SignIn
from millpond.api.management.operations import API_VERSIONS
from millpond.control.applications import CONTAINER
from millpond.identity.base import MANAGEMENT_AUDIENCES, TokenRefused
from millpond.identity.management_token import make_token
from millpond.staging.account_storage import StorageError
from tests.api.client import ACCOUNT, KEY, NOW, SECONDARY, Answer, send
from tests.api.conftest import MACHINE, World

GROUP = f"/subscriptions/s1/resourceGroups/g1/providers/Microsoft.Batch/batchAccounts/{ACCOUNT}"
ZIP = io.BytesIO()
with zipfile.ZipFile(ZIP, "w") as _archive:
    _archive.writestr("tool", "#!/bin/sh\n")


async def call(world: World, method: str, path: str, body: bytes = b"", **more: Any) -> Answer:
    token = more.get("token", make_token(ACCOUNT, KEY, world.now))
    version = more.get("version", API_VERSIONS[0])
    query = "&".join([*([f"api-version={version}"] if version else []), *more.get("query", ())])
    headers = {"authorization": f"Bearer {token}"} if token else {}
    whole = path if path.startswith("/") else f"{GROUP}/{path}".rstrip("/")
    return await send(more.get("app", world.app), method, f"{whole}?{query}", headers, body)


def error_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json()["error"]["code"]


async def add(world: World, app: str, version: str = "1", content: bytes = ZIP.getvalue()) -> None:
    assert (await call(world, "PUT", f"applications/{app}")).status == 200
    answer = await call(world, "PUT", f"applications/{app}/versions/{version}")
    url: str = answer.json()["properties"]["storageUrl"]
    blob = url.partition("?")[0].rpartition("/")[2]
    assert "sp=rw" in url
    await world.control.storage.put(CONTAINER, blob, content)
    answer = await call(world, "POST", f"applications/{app}/versions/{version}/activate", b'{"format":"zip"}')
    assert answer.status == 200, answer.body


async def test_paths_are_compared_without_case_and_errors_have_resource_managers_form(world: World) -> None:
    path = GROUP.replace("resourceGroups", "resourcegroups").replace("batchAccounts", "BATCHACCOUNTS")
    answer = await call(world, "GET", path)
    assert answer.json()["name"] == ACCOUNT
    answer = await call(world, "GET", "applications/nothing")
    assert error_of(answer) == (404, "ApplicationNotFound")
    assert "RequestId:" in answer.json()["error"]["message"]
    assert answer.headers["x-ms-request-id"]
    assert error_of(await call(world, "GET", "puddles")) == (404, "InvalidResourceType")
    assert error_of(await call(world, "POST", "applications/a")) == (405, "MethodNotAllowed")
    assert error_of(await call(world, "GET", GROUP.replace(ACCOUNT, "another"))) == (404, "ResourceNotFound")


@pytest.mark.parametrize(
    ("version", "code"), [("", "MissingApiVersionParameter"), ("2099-01-01", "InvalidApiVersionParameter")]
)
async def test_the_version_has_to_be_one_that_is_known(world: World, version: str, code: str) -> None:
    assert error_of(await call(world, "GET", "", version=version)) == (400, code)


@pytest.mark.parametrize("version", API_VERSIONS)
async def test_every_version_answers(world: World, version: str) -> None:
    assert (await call(world, "GET", "", version=version)).status == 200


async def test_who_may_call(world: World) -> None:
    good = make_token(ACCOUNT, KEY, NOW)
    header, claims, signature = good.split(".")
    for token, code in (
        ("", "AuthenticationFailed"),
        (make_token(ACCOUNT, b"another key", NOW), "InvalidAuthenticationToken"),
        (make_token("another", KEY, NOW), "InvalidAuthenticationToken"),
        (make_token(ACCOUNT, KEY, NOW - 86401), "InvalidAuthenticationToken"),
        (f"{header}.{claims}x.{signature}", "InvalidAuthenticationToken"),
        (f"{header}.{claims}.", "InvalidAuthenticationToken"),
        ("no-token", "AuthenticationFailed"),
        ("good", "InsufficientAccountPermissions"),  # of a task
    ):
        answer = await call(world, "GET", "", token=token)
        assert answer.json()["error"]["code"] == code, token
        assert answer.status == (403 if token == "good" else 401)
    assert (await call(world, "GET", "", token=make_token(ACCOUNT, SECONDARY, NOW))).status == 200
    # It is good for nothing else.
    answer = await send(world.app, "GET", "/pools?api-version=2025-06-01", {"authorization": f"Bearer {good}"})
    assert answer.status == 401


class Issuer:
    async def verify(self, token: str, audiences: Any = ()) -> Any:
        if audiences != MANAGEMENT_AUDIENCES:
            raise TokenRefused("it is for another audience")
        return {"sub": "jane", "roles": [token.rpartition(".")[2]]}

    async def close(self) -> None:
        return


@pytest.mark.parametrize(
    ("role", "reads", "writes"), [("reader", 200, 403), ("operator", 200, 403), ("admin", 200, 200), ("none", 403, 403)]
)
async def test_roles_of_an_issuers_tokens(world: World, role: str, reads: int, writes: int) -> None:
    app = create_app(
        world.control, AccountKeys(ACCOUNT, KEY, SECONDARY), world.storage, SignIn(verifier=Issuer()), management="off"
    )
    token = f"eyJhbGciOiJSUzI1NiJ9.x.{role}"
    assert (await call(world, "GET", "applications", token=token, app=app)).status == reads
    assert (await call(world, "PUT", "applications/a", token=token, app=app)).status == writes
    # Tokens made with the key are off.
    assert error_of(await call(world, "GET", "", app=app)) == (403, "AuthorizationFailed")


@pytest.mark.parametrize(
    ("access", "host", "status"),
    [
        ("loopback", "127.0.0.1", 200),
        ("loopback", "::1", 200),
        ("loopback", "::ffff:127.0.0.1", 200),
        ("loopback", "10.0.0.4", 403),
        ("loopback", "fe80::1%eth0", 403),
        ("anywhere", "10.0.0.4", 200),
        ("off", "127.0.0.1", 403),
    ],
)
async def test_from_where_management_tokens_are_taken(world: World, access: str, host: str, status: int) -> None:
    inner = create_app(world.control, AccountKeys(ACCOUNT, KEY, SECONDARY), world.storage, management=access)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "client": (host, 1234)}, receive, send)

    assert (await call(world, "GET", "", app=app)).status == status


@pytest.mark.parametrize("name", ["a.b", "a b", "%C3%A4", "x" * 65])
async def test_names_that_cannot_be(world: World, name: str) -> None:
    name = name.replace(" ", "%20")
    assert error_of(await call(world, "PUT", f"applications/{name}")) == (400, "InvalidPropertyValue")


@pytest.mark.parametrize("version", ["a%2Fb", "..", "a%20b", "v" * 65])
async def test_versions_that_cannot_be(world: World, version: str) -> None:
    await call(world, "PUT", "applications/a")
    answer = await call(world, "PUT", f"applications/a/versions/{version}")
    assert error_of(answer) == (400, "InvalidPropertyValue")
    assert (await call(world, "GET", "applications/a/versions")).json() == {"value": []}


async def test_limits(world: World) -> None:
    for number in range(3):
        assert (await call(world, "PUT", f"applications/a{number}")).status == 200
        assert (await call(world, "PUT", f"applications/a0/versions/{number}")).status == 200
    assert error_of(await call(world, "PUT", "applications/a3")) == (409, "Conflict")
    assert error_of(await call(world, "PUT", "applications/a0/versions/3")) == (409, "Conflict")
    # What is there may be put again, under any case.
    assert (await call(world, "PUT", "applications/A0")).json()["name"] == "a0"
    assert (await call(world, "PUT", "applications/a0/versions/2")).status == 200


async def test_pages(world: World) -> None:
    for number in range(3):
        await call(world, "PUT", f"applications/a{number}", b'{"tags":{"n":"v"}}')
        await call(world, "PUT", f"applications/a0/versions/{number}")
    for path, names in (("applications", ["a0", "a1", "a2"]), ("applications/a0/versions", ["0", "1", "2"])):
        page = (await call(world, "GET", path, query=["maxresults=2"])).json()
        assert [one["name"] for one in page["value"]] == names[:2]
        rest = page["nextLink"].partition("?")[2].split("&")
        page = (await call(world, "GET", path, version="", query=rest)).json()
        assert ([one["name"] for one in page["value"]], "nextLink" in page) == (names[2:], False)


async def test_a_package_made_anew_is_used_once_it_is_activated_and_not_before(world: World) -> None:
    await add(world, "a")
    applications = world.control.applications
    _, before = applications.find_package("a", "1")
    answer = await call(world, "PUT", "applications/a/versions/1")
    assert answer.json()["properties"]["state"] == "Active"
    assert applications.find_package("a", "1")[1].blob == before.blob
    await add(world, "a", content=ZIP.getvalue() + b"")
    _, after = applications.find_package("a", "1")
    assert (after.blob != before.blob, after.replaced_blobs) == (True, (before.blob,))
    # A GET leads to what is active, for reading only.
    url = (await call(world, "GET", "applications/a/versions/1")).json()["properties"]["storageUrl"]
    assert after.blob in url
    assert "sp=r&" in url
    assert (await call(world, "DELETE", "applications/a/versions/1")).status == 200
    assert world.control.storage.blobs == {}


async def test_a_package_that_a_pool_needs_is_not_deleted(world: World) -> None:
    await add(world, "a")
    body = {
        "id": "p9",
        "vmSize": "standard_d2s_v3",
        "virtualMachineConfiguration": MACHINE,
        "applicationPackageReferences": [{"applicationId": f"{GROUP}/applications/A", "version": "1"}],
    }
    answer = await world.call("POST", "/pools", body)
    assert answer.status == 201, answer.body
    answer = await call(world, "DELETE", "applications/a/versions/1")
    assert error_of(answer) == (409, "Conflict")
    assert "p9" in answer.json()["error"]["message"]
    await world.call("POST", "/pools/p9/updateproperties", {"applicationPackageReferences": [], "metadata": []})
    assert (await call(world, "DELETE", "applications/a/versions/1")).status == 200
    assert (await call(world, "DELETE", "applications/a/versions/1")).status == 204


async def test_more_references_than_a_pool_may_have(world: World) -> None:
    body = {"applicationPackageReferences": [{"applicationId": f"a{number}"} for number in range(11)]}
    machine = {"id": "p9", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE}
    answer = await world.call("POST", "/pools", {**machine, **body})
    assert (answer.status, answer.code) == (400, "InvalidPropertyValue")


async def test_storage_that_is_away(world: World) -> None:
    await call(world, "PUT", "applications/a")
    await call(world, "PUT", "applications/a/versions/1")
    world.control.storage.error = StorageError(503, "ServerBusy", "away")
    answer = await call(world, "POST", "applications/a/versions/1/activate", b'{"format":"zip"}')
    assert error_of(answer) == (503, "ServerBusy")
    assert answer.headers["retry-after"] == "1"
    answer = await call(world, "POST", "applications/a/versions/1/activate", b'{"format":"tar"}')
    assert error_of(answer) == (400, "InvalidPropertyValue")


async def test_the_data_plane_lists_what_is_active_page_by_page(world: World) -> None:
    for app in ("b", "a"):
        await add(world, app)
    await call(world, "PUT", "applications/c")
    await call(world, "PATCH", "applications/a", b'{"properties":{"displayName":"An A"}}')
    page = (await world.call("GET", "/applications", query="maxresults=1")).json()
    assert page["value"] == [{"id": "a", "displayName": "An A", "versions": ["1"]}]
    assert "odata.nextLink" in page
    answer = await world.call("GET", "/applications/B")
    assert answer.json()["versions"] == ["1"]
    assert answer.headers["etag"]
    answer = await world.call("GET", "/applications/c")
    assert (answer.status, answer.code) == (404, "ApplicationNotFound")


async def test_an_upload_in_blocks_is_refused_and_not_taken_for_the_whole(world: World) -> None:
    url = world.storage.sign("http://h", "packages", "b", "rw", NOW + 60).removeprefix("http://h")
    assert (await send(world.app, "PUT", url, {}, b"whole")).status == 201
    for comp in ("block&blockid=AAAA", "blocklist"):
        answer = await send(world.app, "PUT", f"{url}&comp={comp}", {}, b"part")
        assert (answer.status, answer.json()["code"]) == (501, "NotImplemented")
    assert (await send(world.app, "GET", url, {})).body == b"whole"


async def test_a_version_that_is_not_there(world: World) -> None:
    assert error_of(await call(world, "GET", "applications/a")) == (404, "ApplicationNotFound")
    assert (await call(world, "PUT", "applications/a")).status == 200
    assert error_of(await call(world, "GET", "applications/a/versions/9")) == (404, "ApplicationPackageNotFound")
