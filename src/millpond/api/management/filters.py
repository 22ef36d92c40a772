"""What listings of the management plane can be filtered by."""

from typing import Final

from millpond.odata.filters import Operator
from millpond.odata.properties import Properties, Property, PropertyType

_TEXT: Final = Property(PropertyType.STRING, frozenset({Operator.EQ, Operator.NE}), starts_with=True)

SKUS: Final[Properties] = {"familyName": _TEXT, "name": _TEXT}
RESOURCES: Final[Properties] = {"resourceType": _TEXT, "name": _TEXT, "location": _TEXT, "resourceGroup": _TEXT}
POOLS: Final[Properties] = dict.fromkeys(
    (
        "name",
        "properties/vmSize",
        "properties/allocationState",
        "properties/provisioningState",
        "properties/displayName",
    ),
    _TEXT,
)
