"""Node providers by name: installed packages add theirs by an entry point of the group `millpond.node_providers`.

An entry point names a function from `ProviderContext` to a `NodeProvider`. The built-in ones are registered the same
way, and win over others of their name.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeAlias, cast

import msgspec

from millpond.domain.errors import ProviderError
from millpond.providers.base import NodeProvider

GROUP: Final = "millpond.node_providers"


class ProviderContext(msgspec.Struct, frozen=True):
    """What a provider is made with."""

    directory: str
    """The provider's own directory; it need not exist yet."""
    endpoint: str
    """URL under which nodes reach the service; may be empty until it is known."""
    options: Mapping[str, Any] = {}
    """The provider's own part of the configuration."""


ProviderFactory: TypeAlias = Callable[[ProviderContext], NodeProvider]

_BUILT_IN: Final = (EntryPoint("local", "millpond.providers.local:make_provider", GROUP),)


def provider_names() -> list[str]:
    """The names there are, sorted."""
    return sorted({entry.name for entry in (*_BUILT_IN, *entry_points(group=GROUP))})


def find_provider(name: str) -> ProviderFactory:
    """Raises ProviderError (UnknownProvider, ProviderNotUsable) when there is none, or it cannot be imported."""
    for entry in (*_BUILT_IN, *entry_points(group=GROUP)):
        if entry.name == name:
            try:
                return cast("ProviderFactory", entry.load())
            except (ImportError, AttributeError) as error:
                message = f"The node provider '{name}' ({entry.value}) cannot be loaded: {error}"
                raise ProviderError("ProviderNotUsable", message, retryable=False) from error
    known = ", ".join(provider_names())
    raise ProviderError("UnknownProvider", f"There is no node provider '{name}'; there are: {known}.", retryable=False)
