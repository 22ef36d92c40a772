"""What no GET shows, though it is kept: the secrets inside wire forms."""

from typing import Any, Final

from millpond.api.schema.base import JsonObject

_MOUNT_SECRETS: Final = frozenset({"accountKey", "sasKey", "password"})


def pool_without_secrets(spec: JsonObject) -> JsonObject:
    """A pool's wire form (also the `pool` of an auto pool) without passwords and private keys of its user accounts, and
    without what opens its mounts."""
    accounts, mounts = spec.get("userAccounts"), spec.get("mountConfiguration")
    shown = spec
    if accounts:
        shown = {**shown, "userAccounts": [_account_without_secrets(account) for account in accounts]}
    if mounts:
        shown = {**shown, "mountConfiguration": [_mount_without_secrets(mount) for mount in mounts]}
    return shown


def _mount_without_secrets(mount: dict[str, Any]) -> dict[str, Any]:
    return {
        kind: {name: value for name, value in given.items() if name not in _MOUNT_SECRETS} if given else given
        for kind, given in mount.items()
    }


def job_without_secrets(spec: JsonObject) -> JsonObject:
    """A job's wire form, or a job schedule's `jobSpecification`, without the secrets of its auto pool."""
    info = spec.get("poolInfo") or {}
    auto_pool = info.get("autoPoolSpecification") or {}
    if not auto_pool.get("pool"):
        return spec
    auto_pool = {**auto_pool, "pool": pool_without_secrets(auto_pool["pool"])}
    return {**spec, "poolInfo": {**info, "autoPoolSpecification": auto_pool}}


def _account_without_secrets(account: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in account.items() if name != "password"}
    linux = shown.get("linuxUserConfiguration")
    if linux:
        shown["linuxUserConfiguration"] = {name: value for name, value in linux.items() if name != "sshPrivateKey"}
    return shown
