"""SharedKey, against captures of the SDKs and against what can be wrong with a request."""

from email.utils import parsedate_to_datetime
from urllib.parse import unquote

import pytest

from millpond.api.asgi import create_app
from millpond.api.auth import AccountKeys
from tests.api.captures import CAPTURES, Capture
from tests.api.client import ACCOUNT, KEY, SECONDARY, VERSION, send, sign
from tests.api.conftest import World

DATE = "Sat, 21 Nov 2026 04:30:48 GMT"


def headers_for(method: str, path: str, query: str, **more: str) -> dict[str, str]:
    headers = {"ocp-date": DATE, **{name.replace("_", "-"): value for name, value in more.items()}}
    return {**headers, "authorization": sign(method, path, query, headers, KEY)}


def accepted(status: int) -> bool:
    return status not in (401, 403)


@pytest.mark.parametrize("capture", CAPTURES, ids=[capture.name for capture in CAPTURES])
async def test_captured_requests_are_accepted(world: World, capture: Capture) -> None:
    world.now = parsedate_to_datetime(capture.headers["ocp-date"]).timestamp() + 14 * 60
    answer = await send(world.app, capture.method, capture.target, capture.headers)
    assert accepted(answer.status), answer.body


@pytest.mark.parametrize("capture", CAPTURES, ids=[capture.name for capture in CAPTURES])
async def test_captured_requests_with_another_target_are_not(world: World, capture: Capture) -> None:
    answer = await send(world.app, capture.method, capture.target + "&more=1", capture.headers)
    assert answer.status == 403
    longer = capture.target.replace("?", "x?", 1)
    assert (await send(world.app, capture.method, longer, capture.headers)).status == 403


@pytest.mark.parametrize("key", [KEY, SECONDARY])
async def test_both_keys_are_valid(world: World, key: bytes) -> None:
    assert (await world.call("GET", "/pools", key=key)).status == 200


async def test_another_key_is_not(world: World) -> None:
    answer = await world.call("GET", "/pools", key=b"x" * 64)
    assert answer.status == 403
    assert answer.code == "AuthenticationFailed"


@pytest.mark.parametrize("off_s", [-901, 901, 86400])
async def test_clock_skew(world: World, off_s: float) -> None:
    world.control._clock = lambda: world.now + off_s
    answer = await world.call("GET", "/pools")
    assert answer.status == 403
    detail = answer.values()["AuthenticationErrorDetail"]
    assert "15 minutes" in detail
    assert "and the server has " in detail
    assert "GMT" in detail


async def test_no_credentials(world: World) -> None:
    answer = await send(world.app, "GET", f"/pools?api-version={VERSION}", {})
    assert answer.status == 401
    assert answer.code == "AuthenticationFailed"
    assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("token", ["abc", "", "good.", "\xe9"])
async def test_a_bearer_token_of_nobody(world: World, token: str) -> None:
    answer = await send(world.app, "GET", f"/jobs/j1?api-version={VERSION}", {"Authorization": f"Bearer {token}"})
    assert answer.status == 401
    assert answer.code == "AuthenticationFailed"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/jobs/j1", True),
        ("GET", "/jobs/J1/tasks", True),
        ("POST", "/jobs/j1/terminate", True),
        ("GET", "/jobs", False),
        ("GET", "/jobs/j2", False),
        ("POST", "/jobs", False),
        ("GET", "/pools/p1", False),
        ("GET", "/jobs/%6a1", True),
        ("GET", "/jobs/j1%2f..%2fj2", False),
    ],
)
async def test_a_tasks_token_is_good_for_its_own_job_only(
    busy: World, method: str, path: str, *, allowed: bool
) -> None:
    await busy.add_job("j2")
    answer = await send(busy.app, method, f"{path}?api-version={VERSION}", {"Authorization": "bearer good"})
    assert (answer.status < 300) is allowed, answer.body
    if not allowed:
        assert answer.status == 403
        assert answer.code == "InsufficientAccountPermissions"


@pytest.mark.parametrize(
    "authorization",
    ["SharedKey", "SharedKey labacct", "SharedKey labacct:", "SharedKey labacct:%%%", "SharedKey labacct:abc"],
)
async def test_malformed_credentials(world: World, authorization: str) -> None:
    headers = {"ocp-date": DATE, "Authorization": authorization}
    answer = await send(world.app, "GET", f"/pools?api-version={VERSION}", headers)
    assert answer.status == 400
    assert answer.code == "InvalidAuthenticationInfo"


async def test_another_account(world: World) -> None:
    headers = {"ocp-date": DATE}
    headers["authorization"] = sign("GET", "/pools", f"api-version={VERSION}", headers, KEY, account="other")
    assert (await send(world.app, "GET", f"/pools?api-version={VERSION}", headers)).status == 403


@pytest.mark.parametrize("date", [None, "yesterday", "Sat, 99 Nov 2026 04:30:48 GMT"])
async def test_date_missing_or_unreadable(world: World, date: str | None) -> None:
    headers = {} if date is None else {"ocp-date": date}
    headers["authorization"] = sign("GET", "/pools", f"api-version={VERSION}", headers, KEY)
    assert (await send(world.app, "GET", f"/pools?api-version={VERSION}", headers)).status == 403


async def test_date_header_in_place_of_ocp_date(world: World) -> None:
    headers = {"date": DATE}
    headers["authorization"] = sign("GET", "/pools", f"api-version={VERSION}", headers, KEY)
    assert (await send(world.app, "GET", f"/pools?api-version={VERSION}", headers)).status == 200


@pytest.mark.parametrize(("signed", "sent"), [("0", None), (None, "0"), ("0", "0"), (None, None)])
async def test_content_length_zero_or_absent(world: World, signed: str | None, sent: str | None) -> None:
    query = f"api-version={VERSION}"
    basis = {"ocp-date": DATE} | ({} if signed is None else {"content-length": signed})
    authorization = sign("DELETE", "/jobs/j", query, basis, KEY)
    headers = {"ocp-date": DATE, "authorization": authorization} | ({} if sent is None else {"content-length": sent})
    assert (await send(world.app, "DELETE", f"/jobs/j?{query}", headers)).status == 404


async def test_content_length_of_a_body_must_match(world: World) -> None:
    query = f"api-version={VERSION}"
    headers = {"ocp-date": DATE, "content-length": "0"}
    headers["authorization"] = sign("POST", "/jobs", query, headers, KEY)
    headers["content-length"] = "2"
    assert (await send(world.app, "POST", f"/jobs?{query}", headers, b"{}")).status == 403


async def test_parameter_names_signed_in_lower_case(world: World) -> None:
    """The documentation's form; with mixed case even the order differs."""
    lowered = f"api-version={VERSION}&maxresults=3&timeout=20"
    headers = headers_for("GET", "/pools", lowered)
    answer = await send(world.app, "GET", f"/pools?api-version={VERSION}&timeOut=20&MaxResults=3", headers)
    assert answer.status == 200


async def test_blank_and_repeated_parameters(world: World) -> None:
    """As Python's parse_qs has it: blank values are not signed, of repeated ones the first."""
    query = f"api-version={VERSION}&maxresults=3&maxresults=5&$filter=&$select"
    assert (await send(world.app, "GET", f"/pools?{query}", headers_for("GET", "/pools", query))).status == 200


async def test_prefix_is_signed_and_stripped(world: World) -> None:
    answer = await world.call("GET", "/pools", root_path="/acct/foo")
    assert answer.status == 200
    assert answer.json()["odata.metadata"].startswith("http://127.0.0.1:10010/acct/foo/$metadata")


async def test_encoded_path_is_signed_as_sent(world: World) -> None:
    query = f"api-version={VERSION}"
    encoded = "/jobs/j%201/tasks/t"
    assert (await send(world.app, "GET", f"{encoded}?{query}", headers_for("GET", encoded, query))).status == 404
    decoded = headers_for("GET", unquote(encoded), query)
    assert (await send(world.app, "GET", f"{encoded}?{query}", decoded)).status == 403


async def test_absurdly_many_parameters(world: World) -> None:
    query = "&".join(f"p{index}=1" for index in range(100))
    answer = await send(world.app, "GET", f"/pools?{query}", headers_for("GET", "/pools", query))
    assert answer.status == 400


def test_keys_from_base64(world: World) -> None:
    keys = AccountKeys.from_base64(ACCOUNT, "a2tr", "c3Nz")
    assert (keys.primary, keys.secondary) == (b"kkk", b"sss")
    assert create_app(world.control, keys, world.storage)
    with pytest.raises(ValueError, match="base64"):
        AccountKeys.from_base64(ACCOUNT, "no base64!", "c3Nz")
