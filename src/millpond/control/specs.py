"""What becomes of a task's specification on its way to a node."""

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from millpond.domain.task import JsonObject


def sign_auto_storage(spec: bytes, sign: Callable[[str], str]) -> bytes:
    """The specification with each resource file's autoStorageContainerName turned into a storageContainerUrl the node
    can read. `sign` gives a container's URL with its authority. Others pass as they are."""
    if b'"autoStorageContainerName"' not in spec:
        return spec
    decoded = msgspec.json.decode(spec)
    instances = decoded.get("multiInstanceSettings") or {}
    for resource_file in (*(decoded.get("resourceFiles") or ()), *(instances.get("commonResourceFiles") or ())):
        container = resource_file.pop("autoStorageContainerName", None)
        if container is not None:
            resource_file["storageContainerUrl"] = sign(container)
    return msgspec.json.encode(decoded)


def release_spec(spec: JsonObject) -> JsonObject:
    """A release task's wire form as nodes take every task: its limits, which it has at the top, as constraints."""
    limits = ("maxWallClockTime", "retentionTime")
    rest = {name: value for name, value in spec.items() if name not in limits}
    return {**rest, "constraints": {name: spec[name] for name in limits if name in spec}}


class SpecCache:
    """Specifications between their commit and their hand-over, bounded by their size; the store has them all."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._size = 0
        self._specs: OrderedDict[int, bytes] = OrderedDict()

    def add(self, specs: dict[int, bytes]) -> None:
        for key, spec in specs.items():
            self._size += len(spec) - len(self._specs.pop(key, b""))
            self._specs[key] = spec
        while self._size > self._limit:
            # The newest go: tasks are handed out in order, so the oldest are needed first.
            self._size -= len(self._specs.popitem(last=True)[1])

    def take(self, key: int) -> bytes | None:
        """The specification, which is let go of: most tasks are handed out once."""
        spec = self._specs.pop(key, None)
        if spec is not None:
            self._size -= len(spec)
        return spec
