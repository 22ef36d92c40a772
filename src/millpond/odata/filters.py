"""Placeholder types of the `$filter` tree; the room `odata` fills this in."""

import msgspec


class Filter(msgspec.Struct, frozen=True):
    """A parsed `$filter`."""

    text: str
