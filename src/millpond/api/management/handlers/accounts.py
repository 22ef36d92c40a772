"""The account itself."""

import base64
from typing import Any, Final

from millpond.api.decode import body_decoder, drain, read_management_json
from millpond.api.http import Request, Response
from millpond.api.intake.common import within
from millpond.api.management.account import Account
from millpond.api.management.context import ManagementContext
from millpond.api.management.errors import ArmError
from millpond.api.management.resources import account_id, page_reply, quoted_etag, resource_reply
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

_NO_LIMIT: Final = 2**31 - 1
_MAX_TAGS: Final = 50
_MAX_TAG_NAME: Final = 512
_MAX_TAG_VALUE: Final = 256

_create_decoder = body_decoder(AccountCreateBody)
_update_decoder = body_decoder(AccountBody)
_key_decoder = body_decoder(RegenerateKeyBody)


async def list_accounts(context: ManagementContext, request: Request) -> Response:
    return page_reply(request, [account_object(context, request)], None)


async def list_accounts_of_group(context: ManagementContext, request: Request) -> Response:
    return page_reply(request, [account_object(context, request)], None)


async def get_account(context: ManagementContext, request: Request) -> Response:
    return _shown(context, request)


async def create_account(context: ManagementContext, request: Request) -> Response:
    """There is the account already: what is given is set, what is not goes back to what it was at first."""
    body = await read_management_json(request, _create_decoder)
    if not body.location.strip():
        raise invalid_property("location", body.location, "it is empty")
    changes = _changes(context, body)
    await context.account.change(
        **{"tags": {}, "identity": {}, "modes": None, **changes, "location": body.location.strip().lower()}
    )
    return _shown(context, request)


async def update_account(context: ManagementContext, request: Request) -> Response:
    body = await read_management_json(request, _update_decoder)
    if body.location is not None and body.location.lower() != context.account.settings.location:
        raise invalid_property("location", body.location, "it cannot be changed by an update")
    await context.account.change(**_changes(context, body))
    return _shown(context, request)


async def delete_account(context: ManagementContext, request: Request) -> Response:
    await drain(request)
    raise ArmError(
        409,
        "AccountCannotBeDeleted",
        "This service is the account: stop the service and remove its data directory to delete it.",
    )


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
    name = context.control.account_name
    settings, quotas = context.account.settings, context.account.quotas
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
        "poolQuota": quotas.pools or _NO_LIMIT,
        "activeJobAndJobScheduleQuota": quotas.active_jobs or _NO_LIMIT,
        "allowedAuthenticationModes": list(context.account.modes),
    }
    resource_id = account_id(request, name)
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


def _changes(context: ManagementContext, body: AccountBody) -> dict[str, Any]:
    """The settings that a body gives. Raises BatchError, ArmError for what this service cannot be made to do."""
    changes: dict[str, Any] = {}
    if body.tags is not None:
        check_tags(body.tags)
        changes["tags"] = body.tags
    if body.identity is not None:
        changes["identity"] = _identity_of(body.identity)
    properties = body.properties
    if properties is not None:
        with within("properties"):
            _check_properties(context, properties)
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


def _check_properties(context: ManagementContext, properties: AccountProperties) -> None:
    if properties.auto_storage is not None:
        _check_storage(context, properties.auto_storage)
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


def _check_storage(context: ManagementContext, given: AutoStorageBody) -> None:
    """The storage is chosen in the configuration; to name what is there is no change."""
    if context.control.storage is None:
        raise invalid_property("autoStorage", given.storage_account_id, "the account has no auto-storage")
    own = context.control.account_name
    if given.storage_account_id.rstrip("/").rpartition("/")[2].lower() != own.lower():
        raise invalid_property(
            "autoStorage.storageAccountId",
            given.storage_account_id,
            f"the auto-storage is chosen by [storage] of the service's configuration; the one it has is called '{own}'",
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
