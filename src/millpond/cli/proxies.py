"""Proxies that the environment names, and what is on this machine."""

from collections.abc import MutableMapping
from typing import Final

_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def spare_loopback(environment: MutableMapping[str, str]) -> None:
    """Have no proxy asked for the service or a storage emulator on this machine: it would look for them on its own.

    For this process, and what it starts: a host of nodes fetches files from the account's own storage. Many programs
    see to it themselves (all in Go, browsers), those in Python do not.
    """
    if not any(value and name.lower() in _PROXIES for name, value in environment.items()):
        return
    spared = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host for host in (part.strip() for part in spared.split(",")) if host]
    if "*" not in hosts:
        hosts += [host for host in _LOOPBACK if host not in hosts]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)
