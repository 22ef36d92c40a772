"""What Azure Batch took out of service: honest answers in the versions that still have it."""

import pytest

from tests.api.conftest import NODE, World

OLD = "2024-02-01.19.0"
CERTIFICATE = "/certificates(thumbprintAlgorithm=sha1,thumbprint=ab12)"


async def test_certificates(world: World) -> None:
    assert (await world.call("GET", "/certificates", version=OLD)).json()["value"] == []
    for method, path in (("GET", CERTIFICATE), ("DELETE", CERTIFICATE), ("POST", f"{CERTIFICATE}/canceldelete")):
        answer = await world.call(method, path, version=OLD)
        assert (answer.status, answer.code) == (404, "CertificateNotFound")
    answer = await world.call("POST", "/certificates", {"thumbprint": "ab12"}, version=OLD)
    assert (answer.status, answer.code) == (501, "NotImplemented")
    assert "withdrawn" in answer.json()["message"]["value"]


@pytest.mark.parametrize("path", ["/certificates", CERTIFICATE, f"/pools/p1/nodes/{NODE}/rdp"])
async def test_newer_versions_have_none_of_it(busy: World, path: str) -> None:
    answer = await busy.call("GET", path)
    assert (answer.status, answer.code) == (400, "InvalidUri")
    assert "2025-06-01" in answer.json()["message"]["value"]


async def test_remote_desktop_and_extensions(busy: World) -> None:
    answer = await busy.call("GET", f"/pools/p1/nodes/{NODE}/rdp", version=OLD)
    assert (answer.status, answer.code) == (409, "OperationNotValidOnNode")
    assert (await busy.call("GET", f"/pools/p1/nodes/{NODE}/extensions")).json()["value"] == []
    answer = await busy.call("GET", f"/pools/p1/nodes/{NODE}/extensions/x")
    assert (answer.status, answer.code) == (404, "ResourceNotFound")
    for path in ("rdp", "extensions", "extensions/x"):
        assert (await busy.call("GET", f"/pools/p1/nodes/none/{path}", version=OLD)).code == "NodeNotFound"
