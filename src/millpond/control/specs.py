"""What becomes of a task's specification on its way to a node."""

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
