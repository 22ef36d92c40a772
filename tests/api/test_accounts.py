"""Several accounts on the in-process app: how they are made and go, and whose request is whose."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millpond.api.accounts import AccountParts, AccountState, StartFailed
from millpond.api.asgi import ServiceApp
from millpond.api.auth import AccountKeys
from millpond.api.gate import SignIn
from millpond.api.management.account import AccountQuotas, AccountSettings, MemoryKeeper
from millpond.domain.durations import format_http_date
from millpond.identity.base import MANAGEMENT_AUDIENCES
from millpond.identity.management_token import make_token
from millpond.staging.auto_storage import AutoStorage
from tests.api.client import ACCOUNT, KEY, NOW, SECONDARY, VERSION, Answer, send, sign
from tests.api.conftest import MACHINE
from tests.api.fakes import FakeControl

SUBSCRIPTION = "/subscriptions/s1"
ACCOUNTS = "providers/Microsoft.Batch/batchAccounts"
GROUP = f"{SUBSCRIPTION}/resourceGroups/millpond"
POOL = {"id": "p1", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE}


def key_of(name: str) -> bytes:
    return name.encode().ljust(64, b".")


def control_of(name: str) -> FakeControl:
    control = FakeControl(lambda: NOW)
    control.account_name = name
    return control


class Works:
    """Implements `AccountWorks` in memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kept: dict[str, dict[str, Any]] = {}
        self.running: set[str] = set()
        self.done: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure = ""
        self.broken = False

    def names(self) -> list[str]:
        return sorted(self.kept)

    def make(self, name: str, settings: AccountSettings) -> None:
        self.kept[name] = {"settings": settings}

    def parts(self, name: str) -> AccountParts:
        if self.broken:
            raise StartFailed("the keys are damaged")
        kept = self.kept[name]
        keeper = kept.setdefault("keeper", MemoryKeeper())
        if not keeper.settings:
            settings = kept["settings"]
            keeper.settings = {field: getattr(settings, field) for field in settings.__struct_fields__}
        storage = AutoStorage(str(self.directory / name), name, key_of(name), lambda: NOW)
        keys = AccountKeys(name, key_of(name), key_of(name + "2"))
        return AccountParts(control_of(name), keys, storage, keeper, AccountQuotas(7))

    async def start(self, name: str) -> None:
        await self.gate.wait()
        if self.failure:
            raise StartFailed(self.failure)
        self.running.add(name)

    async def stop(self, name: str) -> None:
        self.running.discard(name)
        self.done.append(f"stop {name}")

    async def empty(self, name: str) -> None:
        await self.gate.wait()
        self.done.append(f"empty {name}")

    def remove(self, name: str) -> None:
        self.done.append(f"remove {name}")
        del self.kept[name]


class Service:
    def __init__(self, directory: Path, quota: int | None = None, sign_in: SignIn | None = None) -> None:
        self.works = Works(directory)
        self.directory = directory
        self.app = self.new_app(quota, sign_in)

    def new_app(self, quota: int | None = None, sign_in: SignIn | None = None) -> ServiceApp:
        first = control_of(ACCOUNT)
        storage = AutoStorage(str(self.directory / "first"), ACCOUNT, KEY, lambda: NOW)
        parts = AccountParts(first, AccountKeys(ACCOUNT, KEY, SECONDARY), storage, MemoryKeeper())
        return ServiceApp(parts, sign_in, works=self.works, account_quota=quota)

    async def manage(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        token = more.get("token", make_token(ACCOUNT, KEY, NOW))
        whole = path if path.startswith("/") else f"{GROUP}/{ACCOUNTS}/{path}"
        content = b"" if body is None else json.dumps(body).encode()
        join = "&" if "?" in whole else "?"
        target = whole if "api-version" in whole else f"{whole}{join}api-version={more.get('version', VERSION)}"
        return await send(self.app, method, target, {"authorization": f"Bearer {token}"}, content)

    async def make(self, name: str, **more: Any) -> Answer:
        answer = await self.manage("PUT", name, {"location": "here"}, **more)
        assert answer.status == 202, answer.body
        await self.until(name, AccountState.SUCCEEDED)
        return answer

    async def until(self, name: str, state: AccountState | None) -> None:
        """Wait until the account is in that state, or gone."""
        async with asyncio.timeout(60):
            while (live := self.app.accounts.get(name)) is not None and live.state is not state:
                await asyncio.sleep(0)
        assert (live.state if live is not None else None) is state

    async def batch(
        self, method: str, path: str, body: Any = None, *, account: str, key: bytes | None = None, host: str = ""
    ) -> Answer:
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"ocp-date": format_http_date(NOW)}
        if content or method != "GET":
            headers["content-length"] = str(len(content))
        if content:
            headers["content-type"] = "application/json; odata=minimalmetadata"
        query = f"api-version={VERSION}"
        key = key or (KEY if account == ACCOUNT else key_of(account))
        headers["authorization"] = sign(method, path, query, headers, key, account)
        more = {"host": host} if host else {}
        return await send(self.app, method, f"{path}?{query}", headers, content, **more)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(tmp_path)
    yield service
    await service.app.accounts.stop()


def error_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json()["error"]["code"]


def path_of(location: str) -> str:
    return "/" + location.partition("://")[2].partition("/")[2]


async def test_an_account_is_made_shown_and_removed(service: Service) -> None:
    service.works.gate.clear()
    answer = await service.manage("PUT", "render", {"location": "West Europe", "tags": {"a": "b"}})
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (202, b"", "1")
    poll = path_of(answer.headers["location"])
    assert (await service.manage("GET", poll)).status == 202
    assert (await service.manage("GET", "render")).json()["properties"]["provisioningState"] == "Creating"
    answer = await service.batch("GET", "/pools", account="render")
    assert (answer.status, answer.code) == (503, "ServerBusy")
    service.works.gate.set()
    await service.until("render", AccountState.SUCCEEDED)
    made = (await service.manage("GET", poll)).json()
    assert made == (await service.manage("GET", "render")).json()
    assert (made["name"], made["location"], made["tags"]) == ("render", "westeurope", {"a": "b"})
    assert made["id"] == f"{GROUP}/{ACCOUNTS}/render"
    properties = made["properties"]
    assert (properties["provisioningState"], properties["poolQuota"]) == ("Succeeded", 7)
    assert properties["accountEndpoint"] == "127.0.0.1:10010/accounts/render"

    service.works.gate.clear()
    answer = await service.manage("DELETE", "render")
    assert answer.status == 202
    poll = path_of(answer.headers["location"])
    assert (await service.manage("GET", poll)).status == 202
    assert (await service.manage("DELETE", "render")).status == 202
    assert error_of(await service.manage("PUT", "render", {"location": "westeurope"})) == (409, "AccountBeingDeleted")
    answer = await service.batch("GET", "/pools", account="render")
    assert (answer.status, answer.code) == (403, "AccountIsDisabled")
    service.works.gate.set()
    await service.until("render", None)
    assert (await service.manage("GET", poll)).status == 200
    assert error_of(await service.manage("GET", "render")) == (404, "ResourceNotFound")
    assert (await service.manage("DELETE", "render")).status == 204
    assert service.works.done == ["empty render", "stop render", "remove render"]


async def test_the_same_ids_in_two_accounts_are_two_things(service: Service) -> None:
    await service.make("render")
    for account in (ACCOUNT, "render"):
        assert (await service.batch("POST", "/pools", POOL, account=account)).status == 201
    pool = "/accounts/render/pools/p1"
    assert (await service.batch("DELETE", pool, account="render")).status == 202
    states = [(await service.batch("GET", "/pools/p1", account=name)).json()["state"] for name in (ACCOUNT, "render")]
    assert states == ["active", "deleting"]
    shown = (await service.batch("GET", pool, account="render")).json()
    assert shown["url"] == f"http://127.0.0.1:10010{pool}"


@pytest.mark.parametrize(
    ("path", "host", "account", "key", "status"),
    [
        ("/pools", "", "render", b"", 200),
        ("/pools", "render.localhost:10010", "render", b"", 200),
        ("/pools", "render.westeurope.batch.azure.com", "render", b"", 200),
        ("/pools", f"{ACCOUNT}.local.batch.azure.com", ACCOUNT, b"", 200),
        ("/pools", "other.local.batch.azure.com", ACCOUNT, b"", 200),
        ("/accounts/render/pools", "", "render", b"", 200),
        ("/accounts/RENDER/pools", "", "render", b"", 200),
        (f"/accounts/{ACCOUNT}/pools", "", ACCOUNT, b"", 200),
        # Wrong keys, those of the other account among them.
        ("/pools", "", "render", KEY, 403),
        ("/pools", "", ACCOUNT, key_of("render"), 403),
        ("/pools", "", "render", b"x" * 64, 403),
        ("/pools", "", "nobody", KEY, 403),
        ("/accounts/render/pools", "", ACCOUNT, b"", 403),
        ("/pools", "render.localhost", ACCOUNT, b"", 403),
        (f"/accounts/{ACCOUNT}/pools", "render.localhost", "render", b"", 403),
    ],
)
async def test_whose_request_it_is(
    service: Service, path: str, host: str, account: str, key: bytes, status: int
) -> None:
    await service.make("render")
    answer = await service.batch("GET", path, account=account, key=key or None, host=host)
    assert answer.status == status
    if status == 403:
        assert answer.code == "AuthenticationFailed"


async def test_a_path_of_no_account(service: Service) -> None:
    answer = await service.batch("GET", "/accounts/nobody/pools", account="nobody")
    assert (answer.status, answer.code) == (404, "ResourceNotFound")
    assert "no account 'nobody'" in answer.json()["message"]["value"]
    assert answer.headers["request-id"]
    assert (await service.batch("HEAD", "/accounts/nobody/jobs/j", account="nobody")).body == b""


async def test_everything_of_an_account_is_below_its_path(service: Service) -> None:
    await service.make("render")
    answer = await send(service.app, "GET", "/accounts/render/", {})
    assert (answer.json()["account"], answer.json()["endpoint"]) == ("render", "http://127.0.0.1:10010/accounts/render")
    assert (await send(service.app, "GET", "/accounts/render/healthz", {})).body == b"ok"
    assert (await send(service.app, "POST", "/accounts/render/agent/sync", {})).status == 403
    assert (await send(service.app, "GET", "/accounts/render/storage/abc/x", {})).status == 403
    # The management plane is the service's, by whichever way.
    shown = await service.manage("GET", f"/accounts/render{GROUP}/{ACCOUNTS}/{ACCOUNT}")
    assert shown.json()["properties"]["accountEndpoint"] == "127.0.0.1:10010"


async def test_accounts_are_listed_where_they_are(service: Service) -> None:
    async def names(path: str) -> list[str]:
        return [one["name"] for one in (await service.manage("GET", path)).json()["value"]]

    group = f"{SUBSCRIPTION}/resourceGroups/films"
    assert error_of(await service.manage("PUT", f"{group}/{ACCOUNTS}/render", {"location": "here"})) == (
        404,
        "ResourceGroupNotFound",
    )
    body = {"location": "here"}
    assert (await service.manage("PUT", group, body, version="2024-11-01")).status == 201
    assert (await service.manage("PUT", f"{group.replace('films', 'FILMS')}/{ACCOUNTS}/render", body)).status == 202
    await service.until("render", AccountState.SUCCEEDED)
    await service.make("model")
    assert await names(f"{SUBSCRIPTION}/{ACCOUNTS}") == [ACCOUNT, "model", "render"]
    assert await names(f"/subscriptions/s2/{ACCOUNTS}") == [ACCOUNT]
    assert await names(f"{group}/{ACCOUNTS}") == ["render"]
    assert await names(f"{GROUP}/{ACCOUNTS}") == [ACCOUNT, "model"]
    assert await names(f"{group}/resources") == ["render"]
    assert error_of(await service.manage("GET", "render")) == (404, "ResourceNotFound")
    # A name is one account, wherever it is.
    assert error_of(await service.manage("PUT", "render", body)) == (409, "AccountAlreadyExists")
    # A group goes with what is in it.
    answer = await service.manage("DELETE", group, version="2024-11-01")
    poll = path_of(answer.headers["location"])
    assert answer.status == 202
    await service.until("render", None)
    assert (await service.manage("GET", poll)).status == 200
    assert await names(f"{SUBSCRIPTION}/resourceGroups") == ["millpond"]


@pytest.mark.parametrize(
    ("name", "available", "reason"),
    [
        ("free", True, None),
        ("render", False, "AlreadyExists"),
        (ACCOUNT, False, "AlreadyExists"),
        ("N-O", False, "Invalid"),
    ],
)
async def test_names_that_are_free(service: Service, name: str, available: bool, reason: str | None) -> None:
    await service.make("render")
    path = f"{SUBSCRIPTION}/providers/Microsoft.Batch/locations/here/checkNameAvailability"
    answer = await service.manage("POST", path, {"name": name, "type": "Microsoft.Batch/batchAccounts"})
    assert (answer.json()["nameAvailable"], answer.json().get("reason")) == (available, reason)


async def test_the_quota_is_of_a_subscription_and_a_location(tmp_path: Path) -> None:
    service = Service(tmp_path, quota=2)
    local = {"location": "local"}
    assert (await service.manage("PUT", "one", local)).status == 202
    answer = await service.manage("PUT", "two", local)
    assert error_of(answer) == (409, "SubscriptionQuotaExceeded")
    assert (await service.manage("PUT", "two", {"location": "elsewhere"})).status == 202
    other = f"/subscriptions/s2/resourceGroups/millpond/{ACCOUNTS}/three"
    assert (await service.manage("PUT", other, local)).status == 202
    quotas = f"{SUBSCRIPTION}/providers/Microsoft.Batch/locations/local/quotas"
    assert (await service.manage("GET", quotas)).json() == {"accountQuota": 2}
    # What is there can be changed all the same.
    assert (await service.manage("PUT", "one", {**local, "tags": {"a": "b"}})).json()["tags"] == {"a": "b"}
    await service.app.accounts.stop()


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("UP", {"location": "x"}, (400, "InvalidPropertyValue")),
        ("fine", {}, (400, "MissingRequiredProperty")),
        (
            "fine",
            {"location": "x", "properties": {"poolAllocationMode": "UserSubscription"}},
            (400, "InvalidPropertyValue"),
        ),
        (
            "fine",
            {"location": "x", "properties": {"autoStorage": {"storageAccountId": "/storageAccounts/other"}}},
            (400, "InvalidPropertyValue"),
        ),
        (
            "fine",
            {"location": "x", "properties": {"allowedAuthenticationModes": ["AAD"]}},
            (400, "InvalidPropertyValue"),
        ),
    ],
)
async def test_accounts_that_cannot_be_made(service: Service, name: str, body: Any, error: tuple[int, str]) -> None:
    assert error_of(await service.manage("PUT", name, body)) == error
    assert service.works.kept == {}


async def test_settings_of_one_are_its_own(service: Service) -> None:
    await service.make("render")
    modes = {"properties": {"allowedAuthenticationModes": ["SharedKey"]}, "tags": {"a": "b"}}
    assert (await service.manage("PATCH", "render", modes)).status == 200
    assert error_of(await service.manage("PATCH", "render", {"location": "there"})) == (400, "InvalidPropertyValue")
    assert error_of(await service.manage("PUT", "render", {"location": "there"})) == (409, "InvalidResourceLocation")
    first = (await service.manage("GET", ACCOUNT)).json()
    assert first["tags"] == {}
    assert first["properties"]["allowedAuthenticationModes"] == ["SharedKey", "TaskAuthenticationToken"]
    before = (await service.manage("POST", "render/listKeys")).json()
    after = (await service.manage("POST", "render/regenerateKeys", {"keyName": "Secondary"})).json()
    assert (after["accountName"], after["primary"]) == ("render", before["primary"])
    assert after["secondary"] != before["secondary"]
    assert (await service.manage("POST", f"{ACCOUNT}/listKeys")).status == 200
    assert (await service.batch("GET", "/pools", account="render", key=key_of("render2"))).status == 403
    assert (await service.batch("GET", "/pools", account=ACCOUNT, key=SECONDARY)).status == 200


async def test_what_a_token_of_one_accounts_key_is_good_for(service: Service) -> None:
    await service.make("render")
    await service.make("model")
    own = make_token("render", key_of("render"), NOW)

    async def status(method: str, path: str, body: Any = None, **more: Any) -> int:
        return (await service.manage(method, path, body, token=own, **more)).status

    assert await status("GET", "render") == 200
    assert await status("POST", "render/listKeys") == 200
    assert await status("PUT", "render/applications/tool") == 200
    listed = await service.manage("GET", f"{SUBSCRIPTION}/{ACCOUNTS}", token=own)
    assert [one["name"] for one in listed.json()["value"]] == ["render"]
    for other in (ACCOUNT, "model"):
        assert await status("GET", other) == 404
        assert await status("POST", f"{other}/listKeys") == 404
        assert await status("DELETE", other) == 403
    assert await status("PUT", "more", {"location": "here"}) == 403
    assert await status("DELETE", "render") == 403
    assert await status("PUT", f"{SUBSCRIPTION}/resourceGroups/g", {"location": "x"}, version="2024-11-01") == 403
    # Made with another account's key it is good for nothing.
    wrong = make_token("render", KEY, NOW)
    assert error_of(await service.manage("GET", "render", token=wrong)) == (401, "InvalidAuthenticationToken")


class Issuer:
    async def verify(self, token: str, audiences: Any = ()) -> Any:
        return {"sub": "jane", "roles": ["admin" if audiences == MANAGEMENT_AUDIENCES else "reader"]}

    async def close(self) -> None:
        return


async def test_tokens_of_an_issuer_are_for_the_account_of_the_path(tmp_path: Path) -> None:
    service = Service(tmp_path, sign_in=SignIn(verifier=Issuer()))
    token = "eyJhbGciOiJSUzI1NiJ9.x.y"
    assert (await service.manage("PUT", "render", {"location": "x"}, token=token)).status == 202
    await service.until("render", AccountState.SUCCEEDED)
    await service.batch("POST", "/pools", POOL, account="render")
    counts = []
    for path in ("/pools", "/accounts/render/pools"):
        answer = await send(service.app, "GET", f"{path}?api-version={VERSION}", {"authorization": f"Bearer {token}"})
        counts.append(len(answer.json()["value"]))
    assert counts == [0, 1]
    await service.app.accounts.stop()


async def test_applications_and_pools_are_the_accounts_own(service: Service) -> None:
    await service.make("render")
    assert (await service.manage("PUT", "render/applications/tool")).json()["id"].endswith("/render/applications/tool")
    assert (await service.manage("GET", f"{ACCOUNT}/applications")).json()["value"] == []
    await service.batch("POST", "/pools", POOL, account="render")
    (pool,) = (await service.manage("GET", "render/pools")).json()["value"]
    assert pool["id"] == f"{GROUP}/{ACCOUNTS}/render/pools/p1"
    assert (await service.manage("GET", f"{ACCOUNT}/pools")).json()["value"] == []


async def test_an_account_that_does_not_start_is_said_so_and_can_be_deleted(service: Service) -> None:
    service.works.failure = "the disk is full"
    answer = await service.manage("PUT", "render", {"location": "x"})
    await service.until("render", AccountState.FAILED)
    assert error_of(await service.manage("GET", path_of(answer.headers["location"]))) == (500, "AccountFailed")
    assert (await service.manage("GET", "render")).json()["properties"]["provisioningState"] == "Failed"
    assert (await service.batch("GET", "/pools", account="render")).code == "AccountIsDisabled"
    assert (await service.manage("DELETE", "render")).status == 202
    await service.until("render", None)


async def test_an_account_that_cannot_be_put_together_leaves_nothing(service: Service) -> None:
    service.works.broken = True
    assert error_of(await service.manage("PUT", "render", {"location": "x"})) == (500, "AccountNotMade")
    assert service.works.kept == {}
    service.works.broken = False
    await service.make("render")


async def test_nothing_is_begun_while_the_service_stops(service: Service) -> None:
    await service.make("render")
    await service.app.accounts.stop()
    assert error_of(await service.manage("PUT", "model", {"location": "x"})) == (503, "ServerBusy")
    assert error_of(await service.manage("DELETE", "render")) == (503, "ServerBusy")
    assert sorted(service.works.kept) == ["render"]


async def test_a_restart_brings_all_back_and_goes_on_deleting(service: Service) -> None:
    await service.make("render")
    await service.make("model")
    service.works.gate.clear()
    await service.manage("DELETE", "model")
    await service.app.accounts.stop()
    assert service.works.running == set()
    again = service.app = service.new_app()
    loading = asyncio.create_task(again.accounts.load())
    service.works.gate.set()
    await loading
    assert (await service.batch("GET", "/pools", account="render")).status == 200
    await service.until("model", None)
    assert sorted(service.works.kept) == ["render"]


async def test_one_that_cannot_be_read_stops_nobody(service: Service) -> None:
    await service.make("render")
    await service.make("model")
    service.works.kept["model"]["keeper"].settings = {"tags": 7}
    again = service.app = service.new_app()
    await again.accounts.load()
    assert [live.name for live in again.accounts] == [ACCOUNT, "render"]
