"""The images pools may name, and the check of `account.strict_images`."""

from typing import Any, Final

from millpond.api.intake.auto_pools import PATH as AUTO_POOL
from millpond.api.intake.common import within
from millpond.api.schema.job import PoolInfo
from millpond.api.schema.vm import ImageReference, VirtualMachineConfiguration
from millpond.domain.errors import invalid_property

_LINUX: Final = (
    ("canonical", "ubuntu-24_04-lts", "server", "batch.node.ubuntu 24.04"),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "batch.node.ubuntu 22.04"),
    ("microsoft-dsvm", "ubuntu-hpc", "2204", "batch.node.ubuntu 22.04"),
    ("debian", "debian-12", "12", "batch.node.debian 12"),
    ("almalinux", "almalinux-x86_64", "9-gen2", "batch.node.el 9"),
)
SUPPORTED_IMAGES: Final[tuple[dict[str, Any], ...]] = tuple(
    {
        "nodeAgentSKUId": sku_id,
        "imageReference": {"publisher": publisher, "offer": offer, "sku": sku, "version": "latest"},
        "osType": "linux",
        "verificationType": "verified",
    }
    for publisher, offer, sku, sku_id in _LINUX
)
"""Images clients may ask for. Nodes run what their host runs; the list lets clients that choose from it work."""

_SKU_IDS: Final = frozenset(sku_id for *_, sku_id in _LINUX)
_OF_IMAGE: Final[dict[tuple[str, str, str], str]] = {(image[0], image[1], image[2]): image[3] for image in _LINUX}
_SEE: Final = "see GET /supportedimages, or turn account.strict_images off in the configuration"


def check_supported(machine: VirtualMachineConfiguration | None) -> None:
    """Raises BatchError InvalidPropertyValue for an image that is not in the list, or not with that node agent.

    Any version of an image will do. An image of somebody's own, named by its id, is in no list; its node agent must be.
    """
    if machine is None:
        return
    with within("virtualMachineConfiguration"):
        sku_id = machine.node_agent_sku_id.lower()
        if sku_id not in _SKU_IDS:
            raise invalid_property("nodeAgentSKUId", machine.node_agent_sku_id, f"no supported image has it: {_SEE}")
        image = machine.image_reference
        if image.virtual_machine_image_id or image.shared_gallery_image_id or image.community_gallery_image_id:
            return
        wanted = _OF_IMAGE.get(_key(image))
        if wanted is None:
            raise invalid_property("imageReference", _text(image), f"it is not a supported image: {_SEE}")
        if wanted != sku_id:
            raise invalid_property("nodeAgentSKUId", machine.node_agent_sku_id, f"{_text(image)} goes with {wanted!r}")


def check_supported_of_job(pool_info: PoolInfo | None) -> None:
    """The same of a job's auto pool, if it has one."""
    specification = None if pool_info is None else pool_info.auto_pool_specification
    if specification is not None and specification.pool is not None:
        with within(AUTO_POOL), within("pool"):
            check_supported(specification.pool.virtual_machine_configuration)


def _key(image: ImageReference) -> tuple[str, str, str]:
    return (image.publisher or "").lower(), (image.offer or "").lower(), (image.sku or "").lower()


def _text(image: ImageReference) -> str:
    return ":".join((image.publisher or "", image.offer or "", image.sku or "", image.version or "latest"))
