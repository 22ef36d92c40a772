"""Request bodies about nodes. All but the list of nodes to remove may be left out altogether."""

from millpond.api.schema.base import Wire
from millpond.api.schema.enums import DeallocationOption, DisableSchedulingOption


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
