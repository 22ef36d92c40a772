"""What clients ask of Resource Manager around accounts: tenants, subscriptions, groups, providers, operations.

Any subscription is there; groups are those that were made, and `millpond`.
"""

import re
from typing import Any, Final

import msgspec

from millpond.api.accounts import AccountState, location_key
from millpond.api.decode import body_decoder, drain, read_management_json
from millpond.api.http import Request, Response
from millpond.api.management.account import DEFAULT_LOCATION
from millpond.api.management.context import ManagementContext
from millpond.api.management.errors import ArmError, no_group
from millpond.api.management.filters import RESOURCES
from millpond.api.management.groups import ResourceGroup
from millpond.api.management.handlers.accounts import account_object, check_tags
from millpond.api.management.operations import API_VERSIONS, listed_operations, resource_types
from millpond.api.management.resources import DEFAULT_GROUP, accepted, page_reply, resource_reply
from millpond.api.management.schema import ResourceGroupBody
from millpond.api.options import filter_of
from millpond.identity.applications import tenant_of
from millpond.identity.management_token import SUBSCRIPTION
from millpond.odata.evaluate import matches

_NAMESPACE: Final = "Microsoft.Batch"
_GROUP_NAME: Final = re.compile(r"[\w().-]{1,90}\Z")
_group_decoder = body_decoder(ResourceGroupBody)


async def list_tenants(context: ManagementContext, request: Request) -> Response:
    tenant = tenant_of(context.accounts.first.name)
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
    """Those in which something was made, and the one that clients are given who need one."""
    used = [*context.groups.subscriptions(), *(live.settings.subscription for live in context.accounts)]
    names = {name.lower(): name for name in (SUBSCRIPTION, *used) if name}
    return page_reply(request, [_subscription(context, name) for name in names.values()], None)


async def get_subscription(context: ManagementContext, request: Request) -> Response:
    return resource_reply(_subscription(context, request.params["subscriptionId"]))


async def list_locations(context: ManagementContext, request: Request) -> Response:
    names = dict.fromkeys((DEFAULT_LOCATION, *(live.settings.location for live in context.accounts)))
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
    subscription = request.params["subscriptionId"]
    groups = context.groups.of(subscription)
    if context.groups.get(subscription, DEFAULT_GROUP) is None:
        groups.insert(0, _given_group(context, subscription))
    return page_reply(request, [_group(group) for group in groups], None)


async def get_resource_group(context: ManagementContext, request: Request) -> Response:
    return resource_reply(_group(_required_group(context, request)))


async def resource_group_exists(context: ManagementContext, request: Request) -> Response:
    there = context.groups.is_there(request.params["subscriptionId"], request.params["resourceGroupName"])
    return Response(204 if there else 404)


async def create_resource_group(context: ManagementContext, request: Request) -> Response:
    body = await read_management_json(request, _group_decoder)
    subscription, name = request.params["subscriptionId"], request.params["resourceGroupName"]
    if _GROUP_NAME.match(name) is None or name.endswith("."):
        raise ArmError(
            400,
            "InvalidResourceGroup",
            f"The provided resource group name '{name[:90]}' has characters that are not allowed, ends with '.', or is "
            "longer than 90.",
        )
    check_tags(body.tags or {})
    location = location_key(body.location or "")
    if not location:
        raise ArmError(400, "LocationRequired", "The location property is required for this definition.")
    there = context.groups.get(subscription, name)
    if there is None:
        group = ResourceGroup(subscription, name, location, body.tags or {})
    elif there.location != location:
        raise ArmError(
            409,
            "InvalidResourceGroupLocation",
            f"Invalid resource group location '{location}'. The resource group already exists in location "
            f"'{there.location}'.",
        )
    else:
        group = msgspec.structs.replace(there, tags=body.tags or {})
    await context.groups.put(group)
    return resource_reply(_group(group), 201 if there is None else 200)


async def update_resource_group(context: ManagementContext, request: Request) -> Response:
    body = await read_management_json(request, _group_decoder)
    group = _required_group(context, request)
    if body.tags is not None:
        check_tags(body.tags)
        group = msgspec.structs.replace(group, tags=body.tags)
        await context.groups.put(group)
    return resource_reply(_group(group))


async def delete_resource_group(context: ManagementContext, request: Request) -> Response:
    """With the accounts in it: 202 until these are gone."""
    await drain(request)
    subscription, name = request.params["subscriptionId"], request.params["resourceGroupName"]
    group = _required_group(context, request)
    if context.groups.has_first_account(subscription, name):
        raise ArmError(
            409,
            "ResourceGroupDeletionBlocked",
            f"The service's first account, '{context.accounts.first.name}', is in this group, and cannot be deleted.",
        )
    for live in context.seen(subscription, name):
        await context.accounts.delete(live)
    await context.groups.remove(group)
    return _group_deletion(context, request, subscription, name)


async def get_group_deletion(context: ManagementContext, request: Request) -> Response:
    subscription, name = request.params["subscriptionId"], request.params["operationId"]
    return _group_deletion(context, request, subscription, name)


def _group_deletion(context: ManagementContext, request: Request, subscription: str, name: str) -> Response:
    going = [live for live in context.seen(subscription, name) if live.state is AccountState.DELETING]
    return accepted(request, f"/subscriptions/{subscription}/operationresults/{name}") if going else Response(200)


async def list_resources(context: ManagementContext, request: Request) -> Response:
    where = filter_of(request, RESOURCES)
    found = []
    for live in context.seen(request.params["subscriptionId"], request.params.get("resourceGroupName")):
        account = account_object(context.about(live), request)
        values = {
            "resourceType": account["type"],
            "name": account["name"],
            "location": account["location"],
            "resourceGroup": account["id"].split("/")[4],
        }
        if where is None or matches(where, values):
            found.append({name: value for name, value in account.items() if name != "properties"})
    return page_reply(request, found, None)


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
        "tenantId": tenant_of(context.accounts.first.name),
        "displayName": f"Millpond {context.accounts.first.name}",
        "state": "Enabled",
        "subscriptionPolicies": {"locationPlacementId": "Public_2014-09-01", "quotaId": "none", "spendingLimit": "Off"},
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
    }


def _given_group(context: ManagementContext, subscription: str) -> ResourceGroup:
    """The group that is there without being made."""
    return ResourceGroup(subscription, DEFAULT_GROUP, context.accounts.first.settings.location)


def _required_group(context: ManagementContext, request: Request) -> ResourceGroup:
    """Raises ArmError 404."""
    subscription, name = request.params["subscriptionId"], request.params["resourceGroupName"]
    group = context.groups.get(subscription, name)
    if group is None and name.lower() == DEFAULT_GROUP:
        group = _given_group(context, subscription)
    if group is None:
        raise no_group(name)
    return group


def _group(group: ResourceGroup) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{group.subscription}/resourceGroups/{group.name}",
        "name": group.name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": group.location,
        "tags": group.tags,
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
