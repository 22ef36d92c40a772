"""Request bodies of the management plane. Clients send back what they have read: what is read-only is taken and not
looked at."""

import msgspec

from millpond.api.gate import AuthenticationMode
from millpond.api.schema.base import JsonObject, Wire, WireEnum


class _Resource(Wire):
    id: str | None = None
    name: str | None = None
    type: str | None = None
    etag: str | None = None
    system_data: JsonObject | None = None
    tags: dict[str, str] | None = None


class ApplicationProperties(Wire):
    display_name: str | None = None
    allow_updates: bool | None = None
    default_version: str | None = None


class ApplicationBody(_Resource):
    """Azure Batch management: Application."""

    properties: ApplicationProperties | None = None


class PackageBody(_Resource):
    """Azure Batch management: ApplicationPackage; all its properties are read-only."""

    properties: JsonObject | None = None


class ActivateBody(Wire):
    """Azure Batch management: ActivateApplicationPackageParameters."""

    format: str


class AccountKeyType(WireEnum):
    PRIMARY = "Primary"
    SECONDARY = "Secondary"


class RegenerateKeyBody(Wire):
    """Azure Batch management: BatchAccountRegenerateKeyParameters."""

    key_name: AccountKeyType


class PoolAllocationMode(WireEnum):
    BATCH_SERVICE = "BatchService"
    USER_SUBSCRIPTION = "UserSubscription"


class PublicNetworkAccess(WireEnum):
    ENABLED = "Enabled"
    DISABLED = "Disabled"
    SECURED_BY_PERIMETER = "SecuredByPerimeter"


class KeySource(WireEnum):
    BATCH = "Microsoft.Batch"
    KEY_VAULT = "Microsoft.KeyVault"


class Encryption(Wire):
    key_source: KeySource | None = None
    key_vault_properties: JsonObject | None = None


class AutoStorageMode(WireEnum):
    STORAGE_KEYS = "StorageKeys"
    IDENTITY = "BatchAccountManagedIdentity"


class AutoStorageBody(Wire, kw_only=True):
    """Azure Batch management: AutoStorageBaseProperties."""

    storage_account_id: str
    authentication_mode: AutoStorageMode | None = None
    node_identity_reference: JsonObject | None = None
    last_key_sync: str | None = None


class IdentityType(WireEnum):
    NONE = "None"
    SYSTEM_ASSIGNED = "SystemAssigned"
    USER_ASSIGNED = "UserAssigned"


class IdentityBody(Wire, kw_only=True):
    """Azure Batch management: BatchAccountIdentity, BatchPoolIdentity."""

    type: IdentityType
    principal_id: str | None = None
    tenant_id: str | None = None
    user_assigned_identities: dict[str, JsonObject | None] | None = None


class AccountProperties(Wire):
    """Azure Batch management: BatchAccountCreateProperties, BatchAccountUpdateProperties, and what is read-only."""

    auto_storage: AutoStorageBody | None = None
    pool_allocation_mode: PoolAllocationMode | None = None
    key_vault_reference: JsonObject | None = None
    public_network_access: PublicNetworkAccess | None = None
    network_profile: JsonObject | None = None
    encryption: Encryption | None = None
    allowed_authentication_modes: list[AuthenticationMode] | None = None
    account_endpoint: str | None = None
    node_management_endpoint: str | None = None
    provisioning_state: str | None = None
    private_endpoint_connections: list[JsonObject] | None = None
    dedicated_core_quota: int | None = None
    low_priority_core_quota: int | None = None
    dedicated_core_quota_per_vm_family: list[JsonObject] | None = msgspec.field(
        name="dedicatedCoreQuotaPerVMFamily", default=None
    )
    dedicated_core_quota_per_vm_family_enforced: bool | None = msgspec.field(
        name="dedicatedCoreQuotaPerVMFamilyEnforced", default=None
    )
    pool_quota: int | None = None
    active_job_and_job_schedule_quota: int | None = None


class AccountBody(_Resource):
    """Azure Batch management: BatchAccountUpdateParameters."""

    location: str | None = None
    properties: AccountProperties | None = None
    identity: IdentityBody | None = None


class AccountCreateBody(AccountBody, kw_only=True):
    """Azure Batch management: BatchAccountCreateParameters."""

    location: str


class NameAvailabilityBody(Wire):
    """Azure Batch management: CheckNameAvailabilityParameters."""

    name: str
    type: str


class ResourceGroupBody(_Resource):
    """Resource Manager: ResourceGroup."""

    location: str | None = None
    managed_by: str | None = None
    properties: JsonObject | None = None
