"""Which properties of request bodies the service takes without acting on them, and which it refuses.

One table: the checks refuse by it, and the documentation of what is supported is made from it. Whatever is in a wire
type and not in the table works.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

import msgspec

from millpond.domain.errors import BatchError, ErrorCode


class Level(StrEnum):
    """What happens to a property."""

    REFUSED = "refused"
    """501 NotImplemented names it."""
    ACCEPTED = "accepted"
    """Checked for its form, kept and shown again; changes nothing."""
    DROPPED = "dropped"
    """Taken and not kept: a secret nothing uses."""


class Support(msgspec.Struct, frozen=True):
    """The treatment of one property of one kind of entity; `path` is in wire names."""

    entity: str
    path: str
    level: Level
    note: str


def _rows() -> Iterator[Support]:
    refused, accepted, dropped = Level.REFUSED, Level.ACCEPTED, Level.DROPPED
    # pools
    yield Support(
        "pool",
        "mountConfiguration.azureBlobFileSystemConfiguration.blobfuseOptions",
        accepted,
        "Of its options, ro and attr_timeout count; the mount's log names the others.",
    )
    yield Support(
        "pool",
        "mountConfiguration.azureFileShareConfiguration.mountOptions",
        accepted,
        "Of its options, ro counts; the mount's log names the others.",
    )
    yield Support("pool", "userAccounts.windowsUserConfiguration", accepted, "Nodes run Linux.")
    yield Support("pool", "certificateReferences", refused, "Certificates were withdrawn by Azure Batch.")
    yield Support("pool", "cloudServiceConfiguration", refused, "Cloud services were withdrawn by Azure Batch.")
    yield Support(
        "pool", "virtualMachineConfiguration.containerConfiguration", refused, "Containers are not built yet."
    )
    yield Support("pool", "virtualMachineConfiguration.windowsConfiguration", refused, "Nodes run Linux.")
    yield Support("pool", "virtualMachineConfiguration.imageReference", accepted, "Nodes run what their host runs.")
    yield Support(
        "pool", "virtualMachineConfiguration.nodeAgentSKUId", accepted, "Nodes run what their host runs; Linux only."
    )
    for name in (
        "dataDisks",
        "diskEncryptionConfiguration",
        "extensions",
        "licenseType",
        "nodePlacementConfiguration",
        "osDisk",
        "securityProfile",
        "serviceArtifactReference",
    ):
        yield Support("pool", f"virtualMachineConfiguration.{name}", accepted, "Describes Azure virtual machines.")
    yield Support(
        "pool", "virtualMachineConfiguration.extensions.protectedSettings", dropped, "Secrets are not kept unused."
    )
    yield Support("pool", "networkConfiguration", accepted, "Nodes have the network of their host.")
    yield Support("pool", "upgradePolicy", accepted, "The host upgrades itself.")
    yield Support("pool", "applicationLicenses", accepted, "Withdrawn by Azure Batch.")
    yield Support("pool", "targetNodeCommunicationMode", accepted, "Nodes call out only.")
    yield Support("pool", "resourceTags", accepted, "There are no Azure resources to tag.")
    # nodes
    yield Support("nodeUser", "isAdmin", refused, "Nobody is given root on the machine of the service.")
    yield Support("uploadLogs", "identityReference", accepted, "There are no managed identities.")
    # jobs
    yield Support("job", "networkConfiguration", accepted, "Nodes have the network of their host.")
    # tasks
    yield Support("task", "containerSettings", refused, "Containers are not built yet.")


SUPPORT: Final[tuple[Support, ...]] = tuple(_rows())

QUERY_SUPPORT: Final[tuple[tuple[str, str], ...]] = (
    (
        "$expand=stats",
        "Reads and writes of tasks are 0; those of pools reach back as far as samples, those of schedules are of their jobs.",
    ),
    ("force", "Accepted on delete and terminate; nodes are never waited for without a limit."),
)
"""(query parameter, note) of those that are taken without effect."""

_REFUSED: Final[dict[str, dict[str, str]]] = {}
for _row in SUPPORT:
    if _row.level is Level.REFUSED:
        _REFUSED.setdefault(_row.entity, {})[_row.path] = _row.note


def refuse_if_used(entity: str, path: str, value: Any) -> None:
    """Raises BatchError NotImplemented when a refused property is used: given, and not false or empty."""
    if value is None or value is False or value == []:
        return
    raise BatchError(
        ErrorCode.NOT_IMPLEMENTED,
        f"The property '{path}' is not supported: {_REFUSED[entity][path]}",
        PropertyName=path,
    )
