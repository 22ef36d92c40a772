"""Conditional requests: If-Match and its kin, decided against an entity's tag and modification time."""

import msgspec

from millpond.domain.durations import Timestamp, etag_of
from millpond.domain.errors import BatchError, ErrorCode


class Precondition(msgspec.Struct, frozen=True):
    """The condition headers of one request; tags are without quotes and `W/`, `*` is any."""

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    if_modified_since: Timestamp | None = None
    if_unmodified_since: Timestamp | None = None

    def holds(self, last_modified: Timestamp) -> bool:
        """Whether an entity last modified then meets the condition. HTTP dates have whole seconds.

        Where a tag and a date say the same kind of thing, the tag decides (RFC 9110, 13.2.2): it tells apart what was
        changed twice in one second.
        """
        tag = etag_of(last_modified)
        if self.if_match and "*" not in self.if_match and tag not in self.if_match:
            return False
        if self.if_none_match and ("*" in self.if_none_match or tag in self.if_none_match):
            return False
        if (
            self.if_modified_since is not None
            and not self.if_none_match
            and int(last_modified) <= self.if_modified_since
        ):
            return False
        return self.if_unmodified_since is None or bool(self.if_match) or int(last_modified) <= self.if_unmodified_since

    def require(self, last_modified: Timestamp) -> None:
        """Raises ConditionNotMet (412 on a write) when the condition does not hold."""
        if not self.holds(last_modified):
            raise BatchError(ErrorCode.CONDITION_NOT_MET)
