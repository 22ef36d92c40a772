"""What becomes of a task's specification on its way to a node."""

from collections.abc import Callable

import msgspec


def sign_auto_storage(spec: bytes, sign: Callable[[str], str]) -> bytes:
    """The specification with each resource file's autoStorageContainerName turned into a storageContainerUrl the node
    can read. `sign` gives a container's URL with its authority. Others pass as they are."""
    if b'"autoStorageContainerName"' not in spec:
        return spec
    decoded = msgspec.json.decode(spec)
    for resource_file in decoded.get("resourceFiles") or ():
        container = resource_file.pop("autoStorageContainerName", None)
        if container is not None:
            resource_file["storageContainerUrl"] = sign(container)
    return msgspec.json.encode(decoded)
