"""What of the Batch service's surface is served: operation by operation, property by property.

The table of operations is made of `operations`, of the handlers there are, and of the few lines here; that of
properties is `support`; that of the management plane is `management.coverage`. `tools/write_coverage.py` writes both into docs/reference/coverage.md, and the tests call every
operation to see that it is as the table says.
"""

from enum import StrEnum
from typing import Final

import msgspec

from millpond.api.management.coverage import section
from millpond.api.operations import OPERATIONS, Operation
from millpond.api.support import QUERY_SUPPORT, SUPPORT
from millpond.api.versions import ALWAYS, API_VERSIONS, PROPERTIES
from millpond.domain.errors import ErrorCode


class Served(StrEnum):
    """How an operation is served."""

    DONE = "done"
    """It does what the service does."""
    ACCEPTED = "accepted"
    """It answers as the service does, and changes nothing."""
    REFUSED = "refused"
    """It answers with an error that says so."""


class Claim(msgspec.Struct, frozen=True):
    """How one operation is served, with a note where that is not all there is to say."""

    operation: Operation
    served: Served
    code: ErrorCode | None = None
    """Of a refusal."""
    note: str = ""


_NO_CERTIFICATES: Final = (Served.REFUSED, ErrorCode.CERTIFICATE_NOT_FOUND, "There are none.")
_NOTES: Final[dict[str, tuple[Served, ErrorCode | None, str]]] = {
    "list_pool_usage_metrics": (
        Served.DONE,
        None,
        "By full hours, of the pools there are, as far back as samples reach.",
    ),
    "get_pool_lifetime_statistics": (Served.DONE, None, "Of the pools there are, as far back as their samples reach."),
    "get_job_lifetime_statistics": (Served.DONE, None, "Of the jobs there are."),
    "create_node_user": (
        Served.DONE,
        None,
        "On nodes whose tasks run as users of their own; `NotImplemented` says why where they do not.",
    ),
    "replace_node_user": (Served.DONE, None, "As create_node_user."),
    "get_node_remote_login_settings": (
        Served.DONE,
        None,
        "The address of the node's machine and port 22: an SSH server there is the machine's own.",
    ),
    "get_node_remote_desktop": (Served.REFUSED, ErrorCode.OPERATION_NOT_VALID_ON_NODE, "Nodes run Linux."),
    "list_node_extensions": (Served.DONE, None, "Always empty: extensions are for Azure's machines."),
    "get_node_extension": (Served.REFUSED, ErrorCode.RESOURCE_NOT_FOUND, "There are none."),
    "create_certificate": (Served.REFUSED, ErrorCode.NOT_IMPLEMENTED, "Withdrawn by Azure Batch."),
    "list_certificates": (Served.DONE, None, "Always empty."),
    "get_certificate": _NO_CERTIFICATES,
    "delete_certificate": _NO_CERTIFICATES,
    "cancel_certificate_deletion": _NO_CERTIFICATES,
}
"""By operation name, where it is not plainly done."""


def claims() -> list[Claim]:
    """One for each operation of the table, in its order."""
    found = []
    for operation in OPERATIONS:
        served, code, note = _NOTES.get(operation.name, (Served.DONE, None, ""))
        found.append(Claim(operation, served, code, note))
    return found


def page() -> str:
    """docs/reference/coverage.md"""
    lines = [
        "# What is served of the Batch service",
        "",
        "Made by `tools/write_coverage.py` from the tables in `millpond.api`; the tests call every operation and send",
        "every property, so that what is said here is so.",
        "",
        "## Versions",
        "",
        f"Accepted: {', '.join(f'`{version}`' for version in API_VERSIONS)}.",
        "",
        "All versions share one set of types. What a version does not have is refused in requests (`UnsupportedProperty`,",
        "`UnsupportedQueryParameter`, `InvalidUri`) and left out of answers. Versions before 2024-02-01.19.0 are treated as",
        "it is, but for the operations below that end earlier.",
        "",
        "| property | from | to |",
        "| --- | --- | --- |",
    ]
    for row in PROPERTIES:
        name = f"{row.parent}.{row.name}" if row.parent else row.name
        lines.append(f"| `{name}` | {_first(row.span.first)} | {_last(row.span.last)} |")
    lines += ["", "## Operations", "", "| operation | request | versions | served |", "| --- | --- | --- | --- |"]
    for claim in claims():
        operation = claim.operation
        versions = "all" if operation.span == ALWAYS else _first(operation.span.first) + _until(operation.span.last)
        if operation.extension:
            versions = "Millpond's own"
        served = claim.served.value + (f" with `{claim.code}`" if claim.code else "")
        served += f": {claim.note}" if claim.note else ""
        lines.append(f"| {operation.name} | `{operation.method} {operation.path}` | {versions} | {served} |")
    lines += [
        "",
        "## Properties",
        "",
        "Of request bodies. What is not listed is done. *accepted*: checked for its form, kept and shown again, and",
        "changes nothing; *dropped*: taken and not kept; *refused*: 501 `NotImplemented` names it.",
        "",
        "| entity | property | | |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {row.entity} | `{row.path}` | {row.level.value} | {row.note} |" for row in SUPPORT]
    if QUERY_SUPPORT:
        lines += ["", "## Query parameters", "", "| parameter | |", "| --- | --- |"]
        lines += [f"| `{name}` | {note} |" for name, note in QUERY_SUPPORT]
    return "\n".join([*lines, *section()]) + "\n"


def _first(version: str) -> str:
    return "" if version == ALWAYS.first else version


def _last(version: str) -> str:
    return "" if version == ALWAYS.last else version


def _until(version: str) -> str:
    return " and later" if version == ALWAYS.last else f" up to {version}"
