"""The OData options of a request: `$filter`, `$select`, `$expand`."""

from collections.abc import Set as AbstractSet
from typing import Any, Final

from millpond.api.http import Request
from millpond.api.paging import invalid_parameter
from millpond.odata.errors import QueryOptionError
from millpond.odata.filters import Filter
from millpond.odata.parse import parse_filter
from millpond.odata.properties import Properties
from millpond.odata.select import parse_expand, parse_select


def filter_of(request: Request, properties: Properties) -> Filter | None:
    """The request's `$filter`, or None. Raises BatchError InvalidQueryParameterValue."""
    text = request.query.get("$filter")
    if text is None:
        return None
    try:
        return parse_filter(text, properties)
    except QueryOptionError as error:
        raise invalid_parameter("$filter", text, _reason(error)) from None


def select_of(request: Request, names: AbstractSet[str]) -> frozenset[str] | None:
    """The properties to show, None for all of them. `$expand` is checked too: see `wants_stats`. Raises BatchError
    InvalidQueryParameterValue."""
    expand = request.query.get("$expand")
    if expand is not None:
        try:
            parse_expand(expand)
        except QueryOptionError as error:
            raise invalid_parameter("$expand", expand, _reason(error)) from None
    text = request.query.get("$select")
    if text is None:
        return None
    try:
        return parse_select(text, names)
    except QueryOptionError as error:
        raise invalid_parameter("$select", text, _reason(error)) from None


STATS: Final = "stats"


def wants_stats(request: Request, select: frozenset[str] | None) -> bool:
    """Whether statistics are to be shown: expanded, or selected."""
    return "$expand" in request.query or (select is not None and STATS in select)


def shown(entity: dict[str, Any], select: frozenset[str] | None) -> dict[str, Any]:
    """The entity with the selected properties only; statistics are there only when they are wanted."""
    if select is None:
        return entity
    return {name: value for name, value in entity.items() if name in select or name == STATS}


def _reason(error: QueryOptionError) -> str:
    return f"{error.message.rstrip('.')} (at character {error.position})"
