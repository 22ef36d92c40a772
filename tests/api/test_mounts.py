"""Mounts of pools: what is refused, and what is shown."""

from typing import Any

import pytest

from tests.api.conftest import World
from tests.api.test_pools import POOL

BLOB = {"accountName": "store", "containerName": "data", "accountKey": "a2V5", "relativeMountPath": "blobs"}
NFS = {"source": "10.0.0.4:/export", "relativeMountPath": "nfs"}
CIFS = {"source": "//server/share", "relativeMountPath": "cifs", "username": "u", "password": "geheim"}
SHARE = {
    "accountName": "store",
    "accountKey": "a2V5",
    "azureFileUrl": "https://store.file.core.windows.net/share",
    "relativeMountPath": "share",
}


def blob(**change: Any) -> dict[str, Any]:
    return {"azureBlobFileSystemConfiguration": {**BLOB, **change}}


def nfs(**change: Any) -> dict[str, Any]:
    return {"nfsMountConfiguration": {**NFS, **change}}


def cifs(**change: Any) -> dict[str, Any]:
    return {"cifsMountConfiguration": {**CIFS, **change}}


def share(**change: Any) -> dict[str, Any]:
    return {"azureFileShareConfiguration": {**SHARE, **change}}


async def test_all_kinds_are_taken_and_no_secret_is_shown(world: World) -> None:
    mounts = [
        blob(),
        blob(accountKey=None, sasKey="?sv=1&sig=x", relativeMountPath="a/sas"),
        blob(accountKey=None, identityReference={"resourceId": "/x/me"}, relativeMountPath="a/id"),
        nfs(mountOptions="-o vers=4"),
        nfs(source="file:///data", relativeMountPath="host"),
        cifs(),
        cifs(source=r"\\server\share", relativeMountPath="other"),
        share(mountOptions="-o vers=3.0"),
    ]
    answer = await world.call("POST", "/pools", {**POOL, "id": "mounts", "mountConfiguration": mounts})
    assert answer.status == 201
    text = (await world.call("GET", "/pools/mounts")).body.decode()
    for secret in ("a2V5", "sig=x", "geheim"):
        assert secret not in text
    shown = (await world.call("GET", "/pools/mounts")).json()["mountConfiguration"]
    assert len(shown) == len(mounts)
    assert shown[3] == {"nfsMountConfiguration": {**NFS, "mountOptions": "-o vers=4"}}


_B, _N = "mountConfiguration[0].azureBlobFileSystemConfiguration", "mountConfiguration[0].nfsMountConfiguration"


@pytest.mark.parametrize(
    ("mounts", "code", "named"),
    [
        ([nfs(relativeMountPath=str(n)) for n in range(11)], "InvalidPropertyValue", "mountConfiguration"),
        ([{}], "InvalidPropertyValue", "mountConfiguration[0]"),
        ([{**nfs(), **cifs()}], "InvalidPropertyValue", "mountConfiguration[0]"),
        ([nfs(relativeMountPath="../x")], "InvalidPropertyValue", f"{_N}.relativeMountPath"),
        ([nfs(relativeMountPath="/x")], "InvalidPropertyValue", f"{_N}.relativeMountPath"),
        ([nfs(relativeMountPath="")], "InvalidPropertyValue", f"{_N}.relativeMountPath"),
        ([nfs(), nfs()], "InvalidPropertyValue", "mountConfiguration[1].nfsMountConfiguration.relativeMountPath"),
        (
            [nfs(), cifs(relativeMountPath="nfs/below")],
            "InvalidPropertyValue",
            "mountConfiguration[1].cifsMountConfiguration.relativeMountPath",
        ),
        ([nfs(source="nowhere")], "InvalidPropertyValue", f"{_N}.source"),
        ([nfs(source="file://host/x")], "InvalidPropertyValue", f"{_N}.source"),
        ([nfs(mountOptions="-o a\nb")], "InvalidPropertyValue", f"{_N}.mountOptions"),
        ([{"nfsMountConfiguration": {"source": "h:/x"}}], "MissingRequiredProperty", f"{_N}.relativeMountPath"),
        ([cifs(source="server")], "InvalidPropertyValue", "mountConfiguration[0].cifsMountConfiguration.source"),
        ([cifs(password="a\nb")], "InvalidPropertyValue", "mountConfiguration[0].cifsMountConfiguration.password"),
        ([blob(containerName="Data")], "InvalidPropertyValue", f"{_B}.containerName"),
        ([blob(accountName="no-account")], "InvalidPropertyValue", f"{_B}.accountName"),
        ([blob(sasKey="sig=x")], "InvalidPropertyValue", _B),
        ([blob(accountKey=None)], "InvalidPropertyValue", _B),
        (
            [share(azureFileUrl="https://store.file.core.windows.net/")],
            "InvalidPropertyValue",
            "mountConfiguration[0].azureFileShareConfiguration.azureFileUrl",
        ),
    ],
)
async def test_bad_mounts(world: World, mounts: list[Any], code: str, named: str) -> None:
    answer = await world.call("POST", "/pools", {**POOL, "id": "mounts", "mountConfiguration": mounts})
    assert (answer.status, answer.code, answer.values().get("PropertyName")) == (400, code, named)
    assert "geheim" not in answer.body.decode()
