"""Request bodies about nodes. Those that only choose an option may be left out altogether."""

from millpond.api.schema.base import Wire
from millpond.api.schema.enums import DeallocationOption, DisableSchedulingOption
from millpond.api.schema.vm import ResourceReference


class NodeRemove(Wire, kw_only=True):
    """POST /pools/{poolId}/removenodes (BatchNodeRemoveOptions)."""

    node_list: list[str]
    resize_timeout: str | None = None
    node_deallocation_option: DeallocationOption | None = None


class NodeReboot(Wire):
    """POST /pools/{poolId}/nodes/{nodeId}/reboot (BatchNodeRebootOptions)."""

    node_reboot_option: DeallocationOption | None = None


class NodeReimage(Wire):
    """POST /pools/{poolId}/nodes/{nodeId}/reimage (BatchNodeReimageOptions)."""

    node_reimage_option: DeallocationOption | None = None


class NodeDeallocate(Wire):
    """POST /pools/{poolId}/nodes/{nodeId}/deallocate (BatchNodeDeallocateOptions)."""

    node_deallocate_option: DeallocationOption | None = None


class NodeDisableScheduling(Wire):
    """POST /pools/{poolId}/nodes/{nodeId}/disablescheduling (BatchNodeDisableSchedulingOptions)."""

    node_disable_scheduling_option: DisableSchedulingOption | None = None


class NodeUserCreate(Wire, kw_only=True):
    """POST /pools/{poolId}/nodes/{nodeId}/users (BatchNodeUserCreateOptions)."""

    name: str
    is_admin: bool | None = None
    expiry_time: str | None = None
    password: str | None = None
    ssh_public_key: str | None = None


class NodeUserReplace(Wire):
    """PUT /pools/{poolId}/nodes/{nodeId}/users/{userName} (BatchNodeUserReplaceOptions)."""

    password: str | None = None
    expiry_time: str | None = None
    ssh_public_key: str | None = None


class UploadLogs(Wire, kw_only=True):
    """POST /pools/{poolId}/nodes/{nodeId}/uploadbatchservicelogs (UploadBatchServiceLogsOptions)."""

    container_url: str
    start_time: str
    end_time: str | None = None
    identity_reference: ResourceReference | None = None
