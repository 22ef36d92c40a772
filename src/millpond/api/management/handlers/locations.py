"""Locations, which are labels: their quota, its sizes of machines, and the names that are free in it."""

import re
from typing import Any, Final

from millpond.api.accounts import ACCOUNT_NAME
from millpond.api.decode import body_decoder, read_management_json
from millpond.api.http import Request, Response
from millpond.api.management.account import NO_LIMIT
from millpond.api.management.context import ManagementContext
from millpond.api.management.filters import SKUS
from millpond.api.management.resources import page_reply, resource_reply
from millpond.api.management.schema import NameAvailabilityBody
from millpond.api.options import filter_of
from millpond.api.paging import page_size, page_start
from millpond.domain.errors import invalid_property
from millpond.odata.evaluate import matches

_SIZE_NAME: Final = re.compile(r"Standard_([A-Z]+)\d+([a-z]*)(?:_(v\d+))?\Z", re.IGNORECASE)
_ACCOUNT_TYPE: Final = "Microsoft.Batch/batchAccounts"

_name_decoder = body_decoder(NameAvailabilityBody)


async def get_location_quotas(context: ManagementContext, request: Request) -> Response:
    accounts = context.accounts
    return resource_reply({"accountQuota": (accounts.quota or NO_LIMIT) if accounts.can_create else 1})


async def list_virtual_machine_skus(context: ManagementContext, request: Request) -> Response:
    where = filter_of(request, SKUS)
    limit = page_size(request)
    after = page_start(request) or ""
    found: list[tuple[str, dict[str, Any]]] = []
    for key, size in sorted(context.control.vm_sizes.items()):
        family = family_of(size.name)
        if key > after and (where is None or matches(where, {"familyName": family, "name": size.name})):
            capabilities = [("vCPUs", str(size.cores)), ("MemoryGB", f"{size.memory_mib / 1024:g}")]
            found.append(
                (
                    key,
                    {
                        "name": size.name,
                        "familyName": family,
                        "capabilities": [{"name": name, "value": value} for name, value in capabilities],
                    },
                )
            )
    page = found[:limit]
    return page_reply(request, [item for _, item in page], page[-1][0] if len(found) > limit else None)


async def check_name_availability(context: ManagementContext, request: Request) -> Response:
    body = await read_management_json(request, _name_decoder)
    if body.type.lower() != _ACCOUNT_TYPE.lower():
        raise invalid_property("type", body.type, f"it must be {_ACCOUNT_TYPE}")
    if context.accounts.get(body.name) is not None:
        return resource_reply(_taken("AlreadyExists", f"An account named '{body.name}' is already in use."))
    if ACCOUNT_NAME.match(body.name) is None:
        return resource_reply(_taken("Invalid", "An account's name has 3 to 24 lower-case letters and digits."))
    return resource_reply({"nameAvailable": True})


def _taken(reason: str, message: str) -> dict[str, Any]:
    return {"nameAvailable": False, "reason": reason, "message": message}


def family_of(size: str) -> str:
    """The family of a size, as Azure names it: `standardDSv3Family` of `Standard_D2s_v3`; others are their own."""
    match = _SIZE_NAME.match(size)
    if match is None:
        return size
    letters, features, version = match.groups()
    features = re.sub("[imr]", "", features).upper()
    return f"standard{letters.upper()}{features}{version or ''}Family"
