"""Request bodies about pools."""

import msgspec

from millpond.api.schema.base import Int32, JsonObject, NameValueItem, RoundTrip, Wire
from millpond.api.schema.enums import (
    DeallocationOption,
    DynamicVNetAssignmentScope,
    ElevationLevel,
    FillType,
    InboundEndpointProtocol,
    IpAddressProvisioning,
    IpFamily,
    JobDefaultOrder,
    LoginMode,
    NodeCommunicationMode,
    PoolIdentityType,
    SecurityRuleAccess,
    UpgradeMode,
)
from millpond.api.schema.mounts import MountConfiguration
from millpond.api.schema.special_task import StartTask
from millpond.api.schema.task import ApplicationPackageReference
from millpond.api.schema.vm import VirtualMachineConfiguration


class SecurityRule(Wire):
    """Azure Batch: NetworkSecurityGroupRule."""

    priority: Int32
    access: SecurityRuleAccess
    source_address_prefix: str
    source_port_ranges: list[str] | None = None


class InboundNatPool(Wire):
    name: str
    protocol: InboundEndpointProtocol
    backend_port: Int32
    frontend_port_range_start: Int32
    frontend_port_range_end: Int32
    network_security_group_rules: list[SecurityRule] | None = None


class PoolEndpointConfiguration(Wire):
    inbound_nat_pools: list[InboundNatPool] = msgspec.field(name="inboundNATPools")


class IpTag(Wire):
    ip_tag_type: str | None = None
    tag: str | None = None


class PublicIpAddressConfiguration(Wire):
    provision: IpAddressProvisioning | None = None
    ip_families: list[IpFamily] | None = None
    ip_address_ids: list[str] | None = None
    ip_tags: list[IpTag] | None = None


class NetworkConfiguration(Wire):
    subnet_id: str | None = None
    dynamic_vnet_assignment_scope: DynamicVNetAssignmentScope | None = msgspec.field(
        name="dynamicVNetAssignmentScope", default=None
    )
    endpoint_configuration: PoolEndpointConfiguration | None = None
    public_ip_address_configuration: PublicIpAddressConfiguration | None = msgspec.field(
        name="publicIPAddressConfiguration", default=None
    )
    enable_accelerated_networking: bool | None = None


class TaskSchedulingPolicy(Wire, kw_only=True):
    job_default_order: JobDefaultOrder | None = None
    node_fill_type: FillType


class AutomaticOsUpgradePolicy(Wire):
    disable_automatic_rollback: bool | None = None
    enable_automatic_os_upgrade: bool | None = msgspec.field(name="enableAutomaticOSUpgrade", default=None)
    use_rolling_upgrade_policy: bool | None = None
    os_rolling_upgrade_deferral: bool | None = None


class RollingUpgradePolicy(Wire):
    enable_cross_zone_upgrade: bool | None = None
    max_batch_instance_percent: Int32 | None = None
    max_unhealthy_instance_percent: Int32 | None = None
    max_unhealthy_upgraded_instance_percent: Int32 | None = None
    pause_time_between_batches: str | None = None
    prioritize_unhealthy_instances: bool | None = None
    rollback_failed_instances_on_policy_breach: bool | None = None


class UpgradePolicy(Wire):
    mode: UpgradeMode
    automatic_os_upgrade_policy: AutomaticOsUpgradePolicy | None = msgspec.field(
        name="automaticOSUpgradePolicy", default=None
    )
    rolling_upgrade_policy: RollingUpgradePolicy | None = None


class UserAssignedIdentity(Wire):
    resource_id: str


class PoolIdentity(Wire):
    type: PoolIdentityType
    user_assigned_identities: list[UserAssignedIdentity] | None = None


class LinuxUserConfiguration(Wire):
    uid: Int32 | None = None
    gid: Int32 | None = None
    ssh_private_key: str | None = None


class WindowsUserConfiguration(Wire):
    login_mode: LoginMode | None = None


class UserAccount(Wire, kw_only=True):
    """A named user on every node. Password and private key are never shown (`secrets`), so that what a client read of
    an auto pool and sends back has none; where a pool is made the password is required."""

    name: str
    password: str | None = None
    elevation_level: ElevationLevel | None = None
    linux_user_configuration: LinuxUserConfiguration | None = None
    windows_user_configuration: WindowsUserConfiguration | None = None


class PoolSpecification(Wire, kw_only=True):
    """What a pool is like: the pool of an auto pool (BatchPoolSpecification)."""

    display_name: str | None = None
    vm_size: str
    virtual_machine_configuration: VirtualMachineConfiguration | None = None
    resize_timeout: str | None = None
    target_dedicated_nodes: Int32 | None = None
    target_low_priority_nodes: Int32 | None = None
    enable_auto_scale: bool | None = None
    auto_scale_formula: str | None = None
    auto_scale_evaluation_interval: str | None = None
    enable_inter_node_communication: bool | None = None
    network_configuration: NetworkConfiguration | None = None
    start_task: StartTask | None = None
    application_package_references: list[ApplicationPackageReference] | None = None
    task_slots_per_node: Int32 | None = None
    task_scheduling_policy: TaskSchedulingPolicy | None = None
    user_accounts: list[UserAccount] | None = None
    metadata: list[NameValueItem] | None = None
    mount_configuration: list[MountConfiguration] | None = None
    upgrade_policy: UpgradePolicy | None = None
    cloud_service_configuration: JsonObject | None = None
    certificate_references: list[JsonObject] | None = None
    application_licenses: list[str] | None = None
    target_node_communication_mode: NodeCommunicationMode | None = None
    resource_tags: dict[str, str] | None = None


class PoolCreate(PoolSpecification, kw_only=True):
    """POST /pools (BatchPoolCreateOptions; PoolAddParameter in 2024-02-01.19.0). What the service does not act on is
    listed in `api/support.py`."""

    id: str
    identity: PoolIdentity | None = None


class PoolEnableAutoScale(Wire):
    """POST /pools/{poolId}/enableautoscale (BatchPoolEnableAutoScaleOptions)."""

    auto_scale_formula: str | None = None
    auto_scale_evaluation_interval: str | None = None


class PoolEvaluateAutoScale(Wire):
    """POST /pools/{poolId}/evaluateautoscale (BatchPoolEvaluateAutoScaleOptions)."""

    auto_scale_formula: str


class PoolResize(Wire):
    """POST /pools/{poolId}/resize (BatchPoolResizeOptions)."""

    target_dedicated_nodes: Int32 | None = None
    target_low_priority_nodes: Int32 | None = None
    resize_timeout: str | None = None
    node_deallocation_option: DeallocationOption | None = None


class PoolPatch(RoundTrip):
    """PATCH /pools/{poolId} (BatchPoolUpdateOptions; PoolPatchParameter in 2024-02-01.19.0)."""

    display_name: str | None = None
    vm_size: str | None = None
    virtual_machine_configuration: VirtualMachineConfiguration | None = None
    enable_inter_node_communication: bool | None = None
    network_configuration: NetworkConfiguration | None = None
    start_task: StartTask | None = None
    application_package_references: list[ApplicationPackageReference] | None = None
    task_slots_per_node: Int32 | None = None
    task_scheduling_policy: TaskSchedulingPolicy | None = None
    user_accounts: list[UserAccount] | None = None
    metadata: list[NameValueItem] | None = None
    mount_configuration: list[MountConfiguration] | None = None
    upgrade_policy: UpgradePolicy | None = None
    certificate_references: list[JsonObject] | None = None
    target_node_communication_mode: NodeCommunicationMode | None = None
    resource_tags: dict[str, str] | None = None


class PoolReplace(RoundTrip, kw_only=True):
    """POST /pools/{poolId}/updateproperties (BatchPoolReplaceOptions): what is not given is taken away."""

    start_task: StartTask | None = None
    application_package_references: list[ApplicationPackageReference]
    metadata: list[NameValueItem]
    certificate_references: list[JsonObject] | None = None
    target_node_communication_mode: NodeCommunicationMode | None = None
