"""How many cores the nodes of the account have, and how many they may have (Azure Batch: dedicatedCoreQuota,
lowPriorityCoreQuota)."""

from typing import Final

from millpond.control.settings import ControlSettings

DEDICATED_REACHED: Final = "AccountCoreQuotaReached"
LOW_PRIORITY_REACHED: Final = "AccountLowPriorityCoreQuotaReached"


class CoreQuotas:
    """What nodes take of the two quotas, from their being wished for until they are gone from their pool."""

    def __init__(self, settings: ControlSettings) -> None:
        self._quotas = {True: settings.dedicated_core_quota, False: settings.low_priority_core_quota}
        self._taken = {True: 0, False: 0}
        self._nodes: dict[str, tuple[bool, int]] = {}

    def take(self, node_id: str, cores: int, *, is_dedicated: bool, force: bool = False) -> tuple[str, str] | None:
        """Count a node, once. Where that is above the quota it is not counted, unless by force: the code and the message
        of the resize error."""
        if node_id in self._nodes:
            return None
        quota = self._quotas[is_dedicated]
        if quota is None:
            return None
        if not force and self._taken[is_dedicated] + cores > quota:
            # The same text for every node, so that the pool has the error once.
            if is_dedicated:
                return DEDICATED_REACHED, f"The account's quota of {quota} cores of dedicated nodes has been reached"
            return LOW_PRIORITY_REACHED, f"The account's quota of {quota} cores of low-priority nodes has been reached"
        self._nodes[node_id] = (is_dedicated, cores)
        self._taken[is_dedicated] += cores
        return None

    def give_back(self, node_id: str) -> None:
        """The node is gone, or was never made."""
        is_dedicated, cores = self._nodes.pop(node_id, (True, 0))
        self._taken[is_dedicated] -= cores
