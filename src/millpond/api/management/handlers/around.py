"""What clients ask of Resource Manager around the account: tenants, subscriptions, groups, providers, operations.

There are no subscriptions and groups: whatever a client calls them, the account is in them.
"""

from typing import Any, Final

from millpond.api.decode import body_decoder, drain, read_management_json
from millpond.api.http import Request, Response
from millpond.api.management.account import DEFAULT_LOCATION
from millpond.api.management.context import ManagementContext
from millpond.api.management.errors import ArmError
from millpond.api.management.filters import RESOURCES
from millpond.api.management.handlers.accounts import account_object
from millpond.api.management.operations import API_VERSIONS, listed_operations, resource_types
from millpond.api.management.resources import DEFAULT_GROUP, page_reply, resource_reply
from millpond.api.management.schema import ResourceGroupBody
from millpond.api.options import filter_of
from millpond.identity.applications import tenant_of
from millpond.identity.management_token import SUBSCRIPTION
from millpond.odata.evaluate import matches

_NAMESPACE: Final = "Microsoft.Batch"
_group_decoder = body_decoder(ResourceGroupBody)


async def list_tenants(context: ManagementContext, request: Request) -> Response:
    tenant = tenant_of(context.control.account_name)
    item = {
        "id": f"/tenants/{tenant}",
        "tenantId": tenant,
        "displayName": "Millpond",
        "defaultDomain": "millpond.local",
        "tenantCategory": "Home",
        "tenantType": "AAD",
    }
    return page_reply(request, [item], None)


async def list_subscriptions(context: ManagementContext, request: Request) -> Response:
    return page_reply(request, [_subscription(context, SUBSCRIPTION)], None)


async def get_subscription(context: ManagementContext, request: Request) -> Response:
    return resource_reply(_subscription(context, request.params["subscriptionId"]))


async def list_locations(context: ManagementContext, request: Request) -> Response:
    names = dict.fromkeys((DEFAULT_LOCATION, context.account.settings.location))
    subscription = f"/subscriptions/{request.params['subscriptionId']}"
    items = [
        {
            "id": f"{subscription}/locations/{name}",
            "name": name,
            "type": "Region",
            "displayName": name,
            "regionalDisplayName": name,
            "metadata": {"regionType": "Physical", "regionCategory": "Other"},
        }
        for name in names
    ]
    return page_reply(request, items, None)


async def list_resource_groups(context: ManagementContext, request: Request) -> Response:
    return page_reply(request, [_group(context, request, DEFAULT_GROUP)], None)


async def get_resource_group(context: ManagementContext, request: Request) -> Response:
    return resource_reply(_group(context, request, request.params["resourceGroupName"]))


async def resource_group_exists(context: ManagementContext, request: Request) -> Response:
    return Response(204)


async def create_resource_group(context: ManagementContext, request: Request) -> Response:
    """Every group is there, so this changes nothing; what it would have to remember is refused."""
    body = await read_management_json(request, _group_decoder)
    if body.tags:
        raise ArmError(400, "InvalidTags", "Groups keep no tags here; the account does.")
    return resource_reply(_group(context, request, request.params["resourceGroupName"]))


async def delete_resource_group(context: ManagementContext, request: Request) -> Response:
    await drain(request)
    raise ArmError(
        409,
        "ResourceGroupDeletionBlocked",
        "The account is in this group, as it is in every group, and cannot be deleted while the service runs.",
    )


async def list_resources(context: ManagementContext, request: Request) -> Response:
    where = filter_of(request, RESOURCES)
    account = account_object(context, request)
    values = {
        "resourceType": account["type"],
        "name": account["name"],
        "location": account["location"],
        "resourceGroup": request.params.get("resourceGroupName", DEFAULT_GROUP),
    }
    shown = {name: value for name, value in account.items() if name != "properties"}
    return page_reply(request, [shown] if where is None or matches(where, values) else [], None)


async def list_providers(context: ManagementContext, request: Request) -> Response:
    return page_reply(request, [_provider(request)], None)


async def get_provider(context: ManagementContext, request: Request) -> Response:
    _require_batch(request)
    return resource_reply(_provider(request))


async def register_provider(context: ManagementContext, request: Request) -> Response:
    await drain(request)
    _require_batch(request)
    return resource_reply(_provider(request))


async def list_batch_operations(context: ManagementContext, request: Request) -> Response:
    return page_reply(request, listed_operations(), None)


def _require_batch(request: Request) -> None:
    name = request.params["namespace"]
    if name.lower() != _NAMESPACE.lower():
        raise ArmError(
            404,
            "InvalidResourceNamespace",
            f"The resource namespace '{name[:64]}' is invalid: there is {_NAMESPACE} here.",
        )


def _subscription(context: ManagementContext, name: str) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{name}",
        "subscriptionId": name,
        "tenantId": tenant_of(context.control.account_name),
        "displayName": f"Millpond {context.control.account_name}",
        "state": "Enabled",
        "subscriptionPolicies": {"locationPlacementId": "Public_2014-09-01", "quotaId": "none", "spendingLimit": "Off"},
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
    }


def _group(context: ManagementContext, request: Request, name: str) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{request.params['subscriptionId']}/resourceGroups/{name}",
        "name": name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": context.account.settings.location,
        "tags": {},
        "properties": {"provisioningState": "Succeeded"},
    }


def _provider(request: Request) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{request.params['subscriptionId']}/providers/{_NAMESPACE}",
        "namespace": _NAMESPACE,
        "registrationState": "Registered",
        "registrationPolicy": "RegistrationFree",
        "resourceTypes": [
            {"resourceType": kind, "locations": [DEFAULT_LOCATION], "apiVersions": list(API_VERSIONS)}
            for kind in resource_types()
        ],
    }
