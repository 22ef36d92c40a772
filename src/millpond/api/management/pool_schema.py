"""Request bodies about pools, as Resource Manager has them. What is inside a property is the data plane's but for some
names, and is checked as that (`pool_forms`)."""

import msgspec

from millpond.api.management.schema import IdentityBody
from millpond.api.schema.base import Int32, JsonObject, Wire, WireEnum
from millpond.api.schema.enums import DeallocationOption


class InterNodeCommunication(WireEnum):
    ENABLED = "Enabled"
    DISABLED = "Disabled"


class DeploymentConfiguration(Wire):
    virtual_machine_configuration: JsonObject | None = None
    cloud_service_configuration: JsonObject | None = None


class FixedScale(Wire):
    """Azure Batch management: FixedScaleSettings."""

    resize_timeout: str | None = None
    target_dedicated_nodes: Int32 | None = None
    target_low_priority_nodes: Int32 | None = None
    node_deallocation_option: DeallocationOption | None = None


class AutoScale(Wire, kw_only=True):
    """Azure Batch management: AutoScaleSettings."""

    formula: str
    evaluation_interval: str | None = None


class ScaleSettings(Wire):
    fixed_scale: FixedScale | None = None
    auto_scale: AutoScale | None = None


class PackageReference(Wire, kw_only=True):
    """Azure Batch management: ApplicationPackageReference."""

    id: str
    version: str | None = None


class PoolProperties(Wire):
    """Azure Batch management: PoolProperties, with what only its older versions have."""

    display_name: str | None = None
    vm_size: str | None = None
    deployment_configuration: DeploymentConfiguration | None = None
    scale_settings: ScaleSettings | None = None
    inter_node_communication: InterNodeCommunication | None = None
    network_configuration: JsonObject | None = None
    task_slots_per_node: Int32 | None = None
    task_scheduling_policy: JsonObject | None = None
    user_accounts: list[JsonObject] | None = None
    metadata: list[JsonObject] | None = None
    start_task: JsonObject | None = None
    application_packages: list[PackageReference] | None = None
    mount_configuration: list[JsonObject] | None = None
    upgrade_policy: JsonObject | None = None
    resource_tags: dict[str, str] | None = None
    target_node_communication_mode: str | None = None
    certificates: list[JsonObject] | None = None
    application_licenses: list[str] | None = None
    # Read-only.
    last_modified: str | None = None
    creation_time: str | None = None
    provisioning_state: str | None = None
    provisioning_state_transition_time: str | None = None
    allocation_state: str | None = None
    allocation_state_transition_time: str | None = None
    current_dedicated_nodes: int | None = None
    current_low_priority_nodes: int | None = None
    current_node_communication_mode: str | None = None
    auto_scale_run: JsonObject | None = None
    resize_operation_status: JsonObject | None = None


class PoolBody(Wire):
    """Azure Batch management: Pool."""

    id: str | None = None
    name: str | None = None
    type: str | None = None
    etag: str | None = None
    system_data: JsonObject | None = None
    tags: dict[str, str] | None = None
    identity: IdentityBody | None = None
    properties: PoolProperties = msgspec.field(default_factory=PoolProperties)
