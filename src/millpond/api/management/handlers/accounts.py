"""The account itself."""

import base64
import re
from typing import Any, Final

import msgspec

from millpond.api.accounts import ACCOUNT_NAME, PATH, AccountState, LiveAccount, StartFailed, location_key
from millpond.api.decode import body_decoder, drain, read_management_json
from millpond.api.http import Request, Response
from millpond.api.intake.common import within
from millpond.api.management.account import NO_LIMIT, Account, AccountSettings
from millpond.api.management.context import ManagementContext
from millpond.api.management.errors import ArmError, no_group
from millpond.api.management.resources import accepted, account_id, page_reply, quoted_etag, resource_reply
from millpond.api.management.schema import (
    AccountBody,
    AccountCreateBody,
    AccountKeyType,
    AccountProperties,
    AutoStorageBody,
    AutoStorageMode,
    IdentityBody,
    IdentityType,
    KeySource,
    PoolAllocationMode,
    PublicNetworkAccess,
    RegenerateKeyBody,
)
from millpond.domain.durations import format_timestamp
from millpond.domain.errors import BatchError, ErrorCode, invalid_property

_OWN_PATH: Final = re.compile(rf"{PATH}[A-Za-z0-9]+\Z")
_MAX_TAGS: Final = 50
_MAX_TAG_NAME: Final = 512
_MAX_TAG_VALUE: Final = 256

_create_decoder = body_decoder(AccountCreateBody)
_update_decoder = body_decoder(AccountBody)
_key_decoder = body_decoder(RegenerateKeyBody)


async def list_accounts(context: ManagementContext, request: Request) -> Response:
    found = context.seen(request.params["subscriptionId"])
    return page_reply(request, [account_object(context.about(live), request) for live in found], None)


async def list_accounts_of_group(context: ManagementContext, request: Request) -> Response:
    found = context.seen(request.params["subscriptionId"], request.params["resourceGroupName"])
    return page_reply(request, [account_object(context.about(live), request) for live in found], None)


async def get_account(context: ManagementContext, request: Request) -> Response:
    return _shown(context, request)


async def create_account(context: ManagementContext, request: Request) -> Response:
    """One that is there is set: what is given, and what is not goes back to what it was at first."""
    body = await read_management_json(request, _create_decoder)
    location = body.location.strip().lower()
    if not location:
        raise invalid_property("location", body.location, "it is empty")
    name, account = request.params["accountName"], context.account
    if name.lower() != account.keys.name:
        return await _create(context, request, body, location)
    _require_undeleted(context)
    if context.live is context.accounts.first:
        await _put_into_group(context, request)
    else:
        _require_location(account, location)
        location = account.settings.location
    changes = _changes(context, body, account.keys.name)
    await account.change(**{"tags": {}, "identity": {}, "modes": None, **changes, "location": location})
    return _shown(context, request)


async def _create(context: ManagementContext, request: Request, body: AccountCreateBody, location: str) -> Response:
    """202 until it takes requests: see `get_account_operation`."""
    name, group = request.params["accountName"], request.params["resourceGroupName"]
    subscription = request.params["subscriptionId"]
    if context.only is not None:
        raise ArmError(
            403,
            "AuthorizationFailed",
            f"To make accounts needs a token of the service's first account: this one is of '{context.only.name}'.",
        )
    if ACCOUNT_NAME.match(name) is None:
        raise invalid_property("accountName", name, "an account's name has 3 to 24 lower-case letters and digits")
    if not context.groups.is_there(subscription, group):
        raise no_group(group)
    changes = _changes(context, body, name)
    made = context.groups.get(subscription, group)
    at = context.control.now()
    settings = AccountSettings(
        location=location_key(location),
        subscription=subscription,
        group=made.name if made is not None else group,
        last_modified=at,
        last_key_sync=at,
        **changes,
    )
    try:
        live = await context.accounts.create(name, settings)
    except StartFailed as error:
        raise ArmError(500, "AccountNotMade", f"The account '{name}' cannot be made: {error}") from None
    return _goes_on(request, live, "create")


async def get_account_operation(context: ManagementContext, request: Request) -> Response:
    """How far a creation or a deletion is. What is known of it is the account itself."""
    kind = request.params["operationId"].partition("-")[0]
    live = context.live
    is_there = live is not context.accounts.first
    if is_there and live.state is AccountState.FAILED:
        raise ArmError(
            500, "AccountFailed", f"What was to be done with '{live.name}' has failed: see the service's log."
        )
    if kind == "delete":
        if is_there and live.state is AccountState.DELETING:
            return _goes_on(request, live, kind)
        return Response(200)
    if not is_there:
        raise ArmError(404, "ResourceNotFound", f"There is no account '{request.params['accountName'][:64]}'.")
    return _goes_on(request, live, kind) if live.state is AccountState.CREATING else _shown(context, request)


def _goes_on(request: Request, live: LiveAccount, kind: str) -> Response:
    operation = request.params.get("operationId") or f"{kind}-{request.request_id}"
    return accepted(request, f"{account_id(request, live.account)}/operationResults/{operation}")


async def _put_into_group(context: ManagementContext, request: Request) -> None:
    group = context.groups.get(request.params["subscriptionId"], request.params["resourceGroupName"])
    if group is not None and not group.has_first_account:
        await context.groups.put(msgspec.structs.replace(group, has_first_account=True))


def _require_undeleted(context: ManagementContext) -> None:
    if context.live.settings.deleting:
        raise ArmError(409, "AccountBeingDeleted", f"The account '{context.live.name}' is being deleted; try later.")


def _require_location(account: Account, location: str) -> None:
    own = account.settings.location
    if location_key(location) != location_key(own):
        raise ArmError(
            409,
            "InvalidResourceLocation",
            f"The resource '{account.keys.name}' already exists in location '{own}'. A resource with the same name "
            f"cannot be created in location '{location}'.",
        )


async def update_account(context: ManagementContext, request: Request) -> Response:
    body = await read_management_json(request, _update_decoder)
    _require_undeleted(context)
    if body.location is not None and location_key(body.location) != location_key(context.account.settings.location):
        raise invalid_property("location", body.location, "it cannot be changed by an update")
    await context.account.change(**_changes(context, body, context.account.keys.name))
    return _shown(context, request)


async def delete_account(context: ManagementContext, request: Request) -> Response:
    """202 until nothing of it is left: see `get_account_operation`."""
    await drain(request)
    if request.params["accountName"].lower() != context.account.keys.name:
        return Response(204)
    if context.live is context.accounts.first:
        raise ArmError(
            409,
            "AccountCannotBeDeleted",
            "This is the service's first account: stop the service and remove its data directory to delete it.",
        )
    await context.accounts.delete(context.live)
    return _goes_on(request, context.live, "delete")


async def list_account_keys(context: ManagementContext, request: Request) -> Response:
    await drain(request)
    context.account.require_shared_key()
    return resource_reply(_keys_object(context.account))


async def regenerate_account_key(context: ManagementContext, request: Request) -> Response:
    body = await read_management_json(request, _key_decoder)
    await context.account.regenerate(primary=body.key_name is AccountKeyType.PRIMARY)
    return resource_reply(_keys_object(context.account))


async def synchronize_auto_storage_keys(context: ManagementContext, request: Request) -> Response:
    """The keys of the storage are those of the configuration: there is nothing to fetch anew."""
    await drain(request)
    if context.control.storage is None:
        raise BatchError(ErrorCode.CONFLICT, "The account has no auto-storage.")
    await context.account.note_key_sync()
    return Response(204)


async def list_outbound_network_dependencies(context: ManagementContext, request: Request) -> Response:
    """What nodes must reach: the service, for all they have to say and, with a directory for storage, for their files."""
    scheme, _, host = request.base_url.partition("://")
    name, _, port = host.partition("/")[0].rpartition(":")
    number = int(port) if name and port.isdecimal() else 443 if scheme == "https" else 80
    endpoint = {
        "domainName": name or port,
        "description": "The service itself; with it nodes reach all but what their tasks' own URLs name.",
        "endpointDetails": [{"port": number}],
    }
    return page_reply(request, [{"category": "Azure Batch", "endpoints": [endpoint]}], None)


async def list_nothing(context: ManagementContext, request: Request) -> Response:
    """Of a kind of resource of which the account has none."""
    return page_reply(request, [], None)


async def get_nothing(context: ManagementContext, request: Request) -> Response:
    """Raises ArmError 404."""
    raise ArmError(404, "ResourceNotFound", "The account has no resource of this kind.")


def account_object(context: ManagementContext, request: Request) -> dict[str, Any]:
    live = context.live
    name, settings, quotas = live.name, live.settings, context.account.quotas
    # Without a scheme, as the service has it. The request itself may have come by way of an account.
    service = _OWN_PATH.sub("", request.base_url.partition("://")[2])
    endpoint = service if live is context.accounts.first else f"{service}{PATH}{name}"
    properties: dict[str, Any] = {
        "accountEndpoint": endpoint,
        "nodeManagementEndpoint": endpoint,
        "provisioningState": live.state.value,
        "poolAllocationMode": "BatchService",
        "publicNetworkAccess": "Enabled",
        "privateEndpointConnections": [],
        "encryption": {"keySource": "Microsoft.Batch"},
        "dedicatedCoreQuota": quotas.dedicated_cores or NO_LIMIT,
        "lowPriorityCoreQuota": quotas.low_priority_cores or NO_LIMIT,
        "dedicatedCoreQuotaPerVMFamily": [],
        "dedicatedCoreQuotaPerVMFamilyEnforced": False,
        "poolQuota": quotas.pools or NO_LIMIT,
        "activeJobAndJobScheduleQuota": quotas.active_jobs or NO_LIMIT,
        "allowedAuthenticationModes": list(context.account.modes),
    }
    resource_id = account_id(request, context.account)
    if context.control.storage is not None:
        group = resource_id.partition("/providers/")[0]
        properties["autoStorage"] = {
            "storageAccountId": f"{group}/providers/Microsoft.Storage/storageAccounts/{name}",
            "authenticationMode": "StorageKeys",
            "lastKeySync": format_timestamp(settings.last_key_sync),
        }
    return {
        "id": resource_id,
        "name": name,
        "type": "Microsoft.Batch/batchAccounts",
        "location": settings.location,
        "identity": settings.identity or {"type": "None"},
        "tags": settings.tags,
        "properties": properties,
    }


def _shown(context: ManagementContext, request: Request) -> Response:
    response = resource_reply(account_object(context, request))
    response.headers.append((b"etag", quoted_etag(context.account.settings.last_modified).encode()))
    return response


def _keys_object(account: Account) -> dict[str, Any]:
    keys = account.keys
    return {
        "accountName": keys.name,
        "primary": base64.b64encode(keys.primary).decode(),
        "secondary": base64.b64encode(keys.secondary).decode(),
    }


def _changes(context: ManagementContext, body: AccountBody, account: str) -> dict[str, Any]:
    """The settings that a body gives for an account. Raises BatchError, ArmError for what this service cannot be made
    to do."""
    changes: dict[str, Any] = {}
    if body.tags is not None:
        check_tags(body.tags)
        changes["tags"] = body.tags
    if body.identity is not None:
        changes["identity"] = _identity_of(body.identity)
    properties = body.properties
    if properties is not None:
        with within("properties"):
            _check_properties(context, properties, account)
        if properties.allowed_authentication_modes is not None:
            modes = tuple(dict.fromkeys(mode.value for mode in properties.allowed_authentication_modes))
            context.account.check_modes(modes)
            changes["modes"] = modes
    return changes


def _identity_of(identity: IdentityBody) -> dict[str, Any]:
    if identity.type is IdentityType.NONE:
        return {}
    if identity.type is IdentityType.SYSTEM_ASSIGNED:
        raise invalid_property("identity.type", identity.type.value, "there is no directory to make an identity in")
    # To be shown again; what identities may do is said in the configuration, by their resource ids.
    return {
        "type": "UserAssigned",
        "userAssignedIdentities": {name: {} for name in identity.user_assigned_identities or ()},
    }


def _check_properties(context: ManagementContext, properties: AccountProperties, account: str) -> None:
    if properties.auto_storage is not None:
        _check_storage(context, properties.auto_storage, account)
    if properties.pool_allocation_mode is PoolAllocationMode.USER_SUBSCRIPTION:
        raise invalid_property("poolAllocationMode", "UserSubscription", "there is BatchService only")
    if properties.key_vault_reference is not None:
        raise invalid_property("keyVaultReference", "", "there is no key vault here")
    if properties.public_network_access not in (None, PublicNetworkAccess.ENABLED):
        raise invalid_property(
            "publicNetworkAccess",
            properties.public_network_access,
            "who may reach the service is said by server.host of its configuration, and by the network around it",
        )
    for name, access in (properties.network_profile or {}).items():
        if access and (access.get("defaultAction") != "Allow" or access.get("ipRules")):
            raise invalid_property(
                f"networkProfile.{name}", access, "addresses are not told apart: there is defaultAction Allow only"
            )
    encryption = properties.encryption
    if encryption is not None and (encryption.key_source is KeySource.KEY_VAULT or encryption.key_vault_properties):
        raise invalid_property("encryption", "Microsoft.KeyVault", "there is no key vault here")


def _check_storage(context: ManagementContext, given: AutoStorageBody, own: str) -> None:
    """The storage is chosen in the configuration; to name what is there is no change."""
    if context.control.storage is None:
        raise invalid_property("autoStorage", given.storage_account_id, "the account has no auto-storage")
    if given.storage_account_id.rstrip("/").rpartition("/")[2].lower() != own.lower():
        raise invalid_property(
            "autoStorage.storageAccountId",
            given.storage_account_id,
            "the auto-storage is chosen by the service's configuration ([storage], and [accounts.NAME] for further "
            f"accounts); the one it has is called '{own}'",
        )
    if given.authentication_mode is AutoStorageMode.IDENTITY or given.node_identity_reference:
        raise invalid_property(
            "autoStorage.authenticationMode", given.authentication_mode, "the auto-storage is used by its keys"
        )


def check_tags(tags: dict[str, str]) -> None:
    """Resource Manager's limits. Raises BatchError."""
    if len(tags) > _MAX_TAGS:
        raise invalid_property("tags", len(tags), f"there are more than {_MAX_TAGS}")
    for name, value in tags.items():
        if not 1 <= len(name) <= _MAX_TAG_NAME or len(value) > _MAX_TAG_VALUE:
            raise invalid_property(
                "tags", name, f"a name has 1 to {_MAX_TAG_NAME} characters, a value at most {_MAX_TAG_VALUE}"
            )
