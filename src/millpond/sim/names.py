"""Nodes and tasks as the story calls them."""


def short(node_id: str) -> str:
    """The first letters of a node's number."""
    return node_id.removeprefix("tvmps_")[:6]


def named(key: int) -> str:
    """Job number and task number of a task key."""
    return f"{key >> 32}.{key & 0xFFFFFFFF}"
