"""The account itself."""

from typing import Any, Final

from millpond.api.context import Context
from millpond.api.http import Request, Response
from millpond.api.management.resources import account_id, page_reply, resource_reply

_NO_LIMIT: Final = 2**31 - 1
LOCATION: Final = "local"


async def list_accounts(context: Context, request: Request) -> Response:
    return page_reply(request, [_object(context, request)], None)


async def list_accounts_of_group(context: Context, request: Request) -> Response:
    return page_reply(request, [_object(context, request)], None)


async def get_account(context: Context, request: Request) -> Response:
    return resource_reply(_object(context, request))


def _object(context: Context, request: Request) -> dict[str, Any]:
    name = context.control.account_name
    # Without a scheme, as the service has it.
    endpoint = request.base_url.partition("://")[2]
    properties: dict[str, Any] = {
        "accountEndpoint": endpoint,
        "nodeManagementEndpoint": endpoint,
        "provisioningState": "Succeeded",
        "poolAllocationMode": "BatchService",
        "publicNetworkAccess": "Enabled",
        "privateEndpointConnections": [],
        "encryption": {"keySource": "Microsoft.Batch"},
        "dedicatedCoreQuota": _NO_LIMIT,
        "lowPriorityCoreQuota": _NO_LIMIT,
        "dedicatedCoreQuotaPerVMFamily": [],
        "dedicatedCoreQuotaPerVMFamilyEnforced": False,
        "poolQuota": _NO_LIMIT,
        "activeJobAndJobScheduleQuota": _NO_LIMIT,
        "allowedAuthenticationModes": ["SharedKey", "TaskAuthenticationToken"],
    }
    resource_id = account_id(request, name)
    if context.control.storage is not None:
        group = resource_id.partition("/providers/")[0]
        properties["autoStorage"] = {
            "storageAccountId": f"{group}/providers/Microsoft.Storage/storageAccounts/{name}",
            "authenticationMode": "StorageKeys",
        }
    return {
        "id": resource_id,
        "name": name,
        "type": "Microsoft.Batch/batchAccounts",
        "location": LOCATION,
        "identity": {"type": "None"},
        "tags": {},
        "properties": properties,
    }
