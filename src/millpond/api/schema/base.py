"""What all wire types share."""

from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import msgspec

JsonObject: TypeAlias = dict[str, Any]

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class Wire(msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A JSON object of a request body. `None` is "not given": null and absence mean the same on the wire, and neither
    is written back. Fields are written in the order they are declared."""


class RoundTrip(Wire):
    """A body that clients make of what they read: the SDKs send its `odata.metadata` back. It says
    nothing and is cleared before the rest is kept."""

    odata_metadata: str | None = msgspec.field(name="odata.metadata", default=None)


class WireEnum(StrEnum):
    """An enumeration read in any case and written as the specification spells it."""

    @classmethod
    def _missing_(cls, value: object) -> "WireEnum | None":
        if isinstance(value, str):
            lowered = value.lower()
            for member in cls:
                if member.value.lower() == lowered:
                    return member
        return None


class NameValueItem(Wire):
    """A metadata item, or an HTTP header of an upload."""

    name: str
    value: str
