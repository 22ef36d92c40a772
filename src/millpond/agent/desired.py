"""The files by which a host is told what to be: one directory, written by the provider, read by the host.

    DIR/endpoint                  URL of the service
    DIR/ca-bundle.pem             certificates to trust, where the machine's own do not do; may be missing
    DIR/settings.json             how tasks are kept apart (`agent.isolation.node.IsolationSettings`), and what is cached
                                  (`agent.content_cache.CacheSettings`); may be missing
    DIR/nodes/<node id>/node.json what node to be (`DesiredNode`)
    DIR/nodes/<node id>/journal   the node's journal (the host's own)
    DIR/nodes/<node id>/root/     the node's root directory
    DIR/nodes/<node id>/users.json, home/   with isolation: the node's users, and their home directories
    DIR/host.json                 the host's process (`HostProcess`), written by the host
    DIR/host.lock                 held by the host
    DIR/host.log                  standard output and error of the host
    DIR/cache/                    inputs of tasks, for tasks to come (`agent.content_cache`)
    DIR/switch/                   with isolation: the program through which processes become other users'
    DIR/trash/                    directories of removed nodes on their way out

`providers/local` writes the same files; the two meet in `tests/process/test_host.py`.
"""

import os
from typing import Final

import msgspec

ENDPOINT_FILE: Final = "endpoint"
CA_BUNDLE_FILE: Final = "ca-bundle.pem"
SETTINGS_FILE: Final = "settings.json"
NODES_DIRECTORY: Final = "nodes"
NODE_FILE: Final = "node.json"
JOURNAL_FILE: Final = "journal"
ROOT_DIRECTORY: Final = "root"
HOST_FILE: Final = "host.json"
LOCK_FILE: Final = "host.lock"
TRASH_DIRECTORY: Final = "trash"
CACHE_DIRECTORY: Final = "cache"

PRESENT: Final = "present"
REMOVED: Final = "removed"


class DesiredNode(msgspec.Struct, frozen=True):
    """`node.json`"""

    node_id: str
    pool_id: str
    token: str
    is_dedicated: bool
    task_slots: int
    state: str
    """`present` or `removed`"""
    memory_mib: int = 0
    """Of the VM size: what its tasks may use together, where the machine can see to it; 0 is no limit."""
    ip_address: str = "127.0.0.1"
    """A loopback address of the node's own: where other nodes find what its tasks listen on."""


class HostProcess(msgspec.Struct, frozen=True):
    """`host.json`: the process, and when it began (field 22 of /proc/<pid>/stat), so that its number used again by
    another process is not taken for it."""

    pid: int
    start_time: int
    version: str


_node_decoder: Final = msgspec.json.Decoder(DesiredNode)


def read_node(directory: str) -> DesiredNode | None:
    """The wish in a node's directory; None while there is none. Raises OSError, msgspec.DecodeError."""
    try:
        with open(os.path.join(directory, NODE_FILE), "rb") as file:
            return _node_decoder.decode(file.read())
    except FileNotFoundError:
        return None


def process_start_time(pid: int) -> int:
    """Raises OSError when there is no such process."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The command name (in parentheses) may hold anything.
        return int(file.read().rpartition(b")")[2].split()[19])
