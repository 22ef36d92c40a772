"""`virtualMachineConfiguration` of a pool: description only, kept and shown again."""

import msgspec

from millpond.api.schema.base import Int32, JsonObject, Wire
from millpond.api.schema.enums import (
    CachingType,
    DiffDiskPlacement,
    DiskEncryptionTarget,
    HostEndpointMode,
    NodePlacementPolicy,
    SecurityEncryptionType,
    SecurityType,
    StorageAccountType,
)


class ImageReference(Wire):
    publisher: str | None = None
    offer: str | None = None
    sku: str | None = None
    version: str | None = None
    virtual_machine_image_id: str | None = None
    shared_gallery_image_id: str | None = None
    community_gallery_image_id: str | None = None


class WindowsConfiguration(Wire):
    enable_automatic_updates: bool | None = None


class ResourceReference(Wire):
    """`{"resourceId": …}`: an identity."""

    resource_id: str | None = None


class DiskEncryptionSetParameters(Wire):
    id: str | None = None


class DiskSecurityProfile(Wire):
    security_encryption_type: SecurityEncryptionType | None = None


class ManagedDisk(Wire):
    disk_encryption_set: DiskEncryptionSetParameters | None = None
    storage_account_type: StorageAccountType | None = None
    security_profile: DiskSecurityProfile | None = None


class DataDisk(Wire, kw_only=True):
    lun: Int32
    caching: CachingType | None = None
    disk_size_gb: Int32 = msgspec.field(name="diskSizeGB")
    managed_disk: ManagedDisk | None = None
    storage_account_type: StorageAccountType | None = None


class DiskCustomerManagedKey(Wire):
    identity_reference: ResourceReference | None = None
    key_url: str | None = None
    rotation_to_latest_key_version_enabled: bool | None = None


class DiskEncryptionConfiguration(Wire):
    customer_managed_key: DiskCustomerManagedKey | None = None
    targets: list[DiskEncryptionTarget] | None = None


class NodePlacementConfiguration(Wire):
    policy: NodePlacementPolicy | None = None


class VmExtension(Wire):
    name: str
    publisher: str
    type: str
    type_handler_version: str | None = None
    auto_upgrade_minor_version: bool | None = None
    enable_automatic_upgrade: bool | None = None
    settings: JsonObject | None = None
    protected_settings: JsonObject | None = None
    """Secrets: write-only, never kept."""
    provision_after_extensions: list[str] | None = None


class DiffDiskSettings(Wire):
    placement: DiffDiskPlacement | None = None


class OsDisk(Wire):
    ephemeral_os_disk_settings: DiffDiskSettings | None = msgspec.field(name="ephemeralOSDiskSettings", default=None)
    caching: CachingType | None = None
    disk_size_gb: Int32 | None = msgspec.field(name="diskSizeGB", default=None)
    managed_disk: ManagedDisk | None = None
    write_accelerator_enabled: bool | None = None


class HostEndpointSettings(Wire):
    in_vm_access_control_profile_reference_id: str | None = msgspec.field(
        name="inVMAccessControlProfileReferenceId", default=None
    )
    mode: HostEndpointMode | None = None


class ProxyAgentSettings(Wire):
    enabled: bool | None = None
    imds: HostEndpointSettings | None = None
    wire_server: HostEndpointSettings | None = None


class UefiSettings(Wire):
    secure_boot_enabled: bool | None = None
    v_tpm_enabled: bool | None = None


class SecurityProfile(Wire):
    encryption_at_host: bool | None = None
    proxy_agent_settings: ProxyAgentSettings | None = None
    security_type: SecurityType | None = None
    uefi_settings: UefiSettings | None = None


class ServiceArtifactReference(Wire):
    id: str


class VirtualMachineConfiguration(Wire):
    image_reference: ImageReference
    node_agent_sku_id: str = msgspec.field(name="nodeAgentSKUId")
    windows_configuration: WindowsConfiguration | None = None
    data_disks: list[DataDisk] | None = None
    license_type: str | None = None
    container_configuration: JsonObject | None = None
    disk_encryption_configuration: DiskEncryptionConfiguration | None = None
    node_placement_configuration: NodePlacementConfiguration | None = None
    extensions: list[VmExtension] | None = None
    os_disk: OsDisk | None = None
    security_profile: SecurityProfile | None = None
    service_artifact_reference: ServiceArtifactReference | None = None
