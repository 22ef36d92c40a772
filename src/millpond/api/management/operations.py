"""The route table of the management plane. Paths are compared without case, as Resource Manager does; their parameters
keep theirs."""

from collections.abc import Iterator
from typing import Final

from millpond.api.management.errors import ArmError
from millpond.api.operations import Operation
from millpond.api.percent import decode_component

API_VERSIONS: Final = ("2025-06-01", "2024-07-01", "2024-02-01", "2023-11-01", "2023-05-01", "2022-10-01")
"""Newest first. Properties are those of the newest; an answer does not depend on the version asked for."""

_SUBSCRIPTION: Final = "/subscriptions/{subscriptionId}"
_GROUP: Final = _SUBSCRIPTION + "/resourceGroups/{resourceGroupName}"
_BATCH: Final = "/providers/Microsoft.Batch"
_ACCOUNT: Final = _GROUP + _BATCH + "/batchAccounts/{accountName}"
_APPLICATIONS: Final = _ACCOUNT + "/applications"
_APPLICATION: Final = _APPLICATIONS + "/{applicationName}"
_VERSIONS: Final = _APPLICATION + "/versions"
_VERSION: Final = _VERSIONS + "/{versionName}"

_TABLE: Final[tuple[tuple[str, str, str], ...]] = (
    ("list_accounts", "GET", _SUBSCRIPTION + _BATCH + "/batchAccounts"),
    ("list_accounts_of_group", "GET", _GROUP + _BATCH + "/batchAccounts"),
    ("get_account", "GET", _ACCOUNT),
    ("list_account_applications", "GET", _APPLICATIONS),
    ("create_account_application", "PUT", _APPLICATION),
    ("get_account_application", "GET", _APPLICATION),
    ("update_account_application", "PATCH", _APPLICATION),
    ("delete_account_application", "DELETE", _APPLICATION),
    ("list_application_packages", "GET", _VERSIONS),
    ("create_application_package", "PUT", _VERSION),
    ("get_application_package", "GET", _VERSION),
    ("delete_application_package", "DELETE", _VERSION),
    ("activate_application_package", "POST", _VERSION + "/activate"),
)

PREFIXES: Final = (b"/subscriptions/", b"/providers/")


def is_management(path: bytes) -> bool:
    """Whether a path is one of this plane."""
    return path[: max(map(len, PREFIXES))].lower().startswith(PREFIXES)


class ManagementRouter:
    """Finds the operation of a request."""

    def __init__(self) -> None:
        self._routes = [(template, dict(routes)) for template, routes in _by_path()]

    def find(self, method: str, path: bytes) -> tuple[Operation, dict[str, str]]:
        """The operation and its path parameters, decoded. Raises ArmError 404, 405."""
        parts = path.split(b"/")
        for template, operations in self._routes:
            params = _match(template, parts)
            if params is not None:
                operation = operations.get(method)
                if operation is None:
                    raise ArmError(405, "MethodNotAllowed", f"There is {', '.join(sorted(operations))} here.")
                return operation, params
        raise ArmError(
            404,
            "InvalidResourceType",
            "There is no such resource here: the management plane has batchAccounts, and applications in them.",
        )


def _by_path() -> Iterator[tuple[tuple[str, ...], dict[str, Operation]]]:
    paths: dict[str, dict[str, Operation]] = {}
    for name, method, path in _TABLE:
        paths.setdefault(path, {})[method] = Operation(name, method, path, 200)
    for path, operations in paths.items():
        yield tuple(path.split("/")), operations


def _match(template: tuple[str, ...], parts: list[bytes]) -> dict[str, str] | None:
    if len(parts) != len(template):
        return None
    params: dict[str, str] = {}
    for expected, part in zip(template, parts, strict=True):
        if expected.startswith("{"):
            text = decode_component(part).decode("utf-8", "replace")
            if not text:
                return None
            params[expected[1:-1]] = text
        elif part.lower() != expected.lower().encode():
            return None
    return params
