"""What no GET shows, though it is kept: the secrets inside wire forms."""

from typing import Any

from millpond.api.schema.base import JsonObject


def pool_without_secrets(spec: JsonObject) -> JsonObject:
    """A pool's wire form (also the `pool` of an auto pool) without passwords and private keys of its user accounts."""
    accounts = spec.get("userAccounts")
    if not accounts:
        return spec
    return {**spec, "userAccounts": [_account_without_secrets(account) for account in accounts]}


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
