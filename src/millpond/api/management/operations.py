"""The route table of the management plane. Paths are compared without case, as Resource Manager does; their parameters
keep theirs."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from millpond.api.management.errors import ArmError
from millpond.api.operations import Operation
from millpond.api.percent import decode_component
from millpond.identity.roles import Role

API_VERSIONS: Final = ("2025-06-01", "2024-07-01", "2024-02-01", "2023-11-01", "2023-05-01", "2022-10-01")
"""Newest first. Properties are those of the newest; an answer does not depend on the version asked for."""

_SUBSCRIPTIONS: Final = "/subscriptions"
_SUBSCRIPTION: Final = _SUBSCRIPTIONS + "/{subscriptionId}"
_GROUPS: Final = _SUBSCRIPTION + "/resourceGroups"
_GROUP: Final = _GROUPS + "/{resourceGroupName}"
_PROVIDERS: Final = _SUBSCRIPTION + "/providers"
_PROVIDER: Final = _PROVIDERS + "/{namespace}"
_BATCH: Final = "/providers/Microsoft.Batch"
_LOCATION: Final = _SUBSCRIPTION + _BATCH + "/locations/{locationName}"
_ACCOUNT: Final = _GROUP + _BATCH + "/batchAccounts/{accountName}"
_APPLICATIONS: Final = _ACCOUNT + "/applications"
_APPLICATION: Final = _APPLICATIONS + "/{applicationName}"
_VERSIONS: Final = _APPLICATION + "/versions"
_VERSION: Final = _VERSIONS + "/{versionName}"
_POOL: Final = _ACCOUNT + "/pools/{poolName}"


class _Row(NamedTuple):
    name: str
    method: str
    path: str
    role: Role


_SEE: Final = Role.READER
_RUN: Final = Role.OPERATOR
_OWN: Final = Role.ADMIN

_TABLE: Final[tuple[_Row, ...]] = (
    _Row("list_tenants", "GET", "/tenants", _SEE),
    _Row("list_subscriptions", "GET", _SUBSCRIPTIONS, _SEE),
    _Row("get_subscription", "GET", _SUBSCRIPTION, _SEE),
    _Row("list_locations", "GET", _SUBSCRIPTION + "/locations", _SEE),
    _Row("list_resource_groups", "GET", _GROUPS, _SEE),
    _Row("get_resource_group", "GET", _GROUP, _SEE),
    _Row("resource_group_exists", "HEAD", _GROUP, _SEE),
    _Row("create_resource_group", "PUT", _GROUP, _OWN),
    _Row("update_resource_group", "PATCH", _GROUP, _OWN),
    _Row("delete_resource_group", "DELETE", _GROUP, _OWN),
    _Row("get_group_deletion", "GET", _SUBSCRIPTION + "/operationresults/{operationId}", _SEE),
    _Row("list_resources", "GET", _SUBSCRIPTION + "/resources", _SEE),
    _Row("list_resources", "GET", _GROUP + "/resources", _SEE),
    _Row("list_providers", "GET", _PROVIDERS, _SEE),
    _Row("get_provider", "GET", _PROVIDER, _SEE),
    _Row("register_provider", "POST", _PROVIDER + "/register", _OWN),
    _Row("list_batch_operations", "GET", _BATCH + "/operations", _SEE),
    _Row("get_location_quotas", "GET", _LOCATION + "/quotas", _SEE),
    _Row("list_virtual_machine_skus", "GET", _LOCATION + "/virtualMachineSkus", _SEE),
    _Row("check_name_availability", "POST", _LOCATION + "/checkNameAvailability", _SEE),
    _Row("list_accounts", "GET", _SUBSCRIPTION + _BATCH + "/batchAccounts", _SEE),
    _Row("list_accounts_of_group", "GET", _GROUP + _BATCH + "/batchAccounts", _SEE),
    _Row("get_account", "GET", _ACCOUNT, _SEE),
    _Row("create_account", "PUT", _ACCOUNT, _OWN),
    _Row("update_account", "PATCH", _ACCOUNT, _OWN),
    _Row("delete_account", "DELETE", _ACCOUNT, _OWN),
    _Row("get_account_operation", "GET", _ACCOUNT + "/operationResults/{operationId}", _SEE),
    _Row("list_account_keys", "POST", _ACCOUNT + "/listKeys", _OWN),
    _Row("regenerate_account_key", "POST", _ACCOUNT + "/regenerateKeys", _OWN),
    _Row("synchronize_auto_storage_keys", "POST", _ACCOUNT + "/syncAutoStorageKeys", _OWN),
    _Row("list_outbound_network_dependencies", "GET", _ACCOUNT + "/outboundNetworkDependenciesEndpoints", _SEE),
    _Row("list_nothing", "GET", _ACCOUNT + "/detectors", _SEE),
    _Row("get_nothing", "GET", _ACCOUNT + "/detectors/{detectorId}", _SEE),
    _Row("list_nothing", "GET", _ACCOUNT + "/privateLinkResources", _SEE),
    _Row("get_nothing", "GET", _ACCOUNT + "/privateLinkResources/{privateLinkResourceName}", _SEE),
    _Row("list_nothing", "GET", _ACCOUNT + "/privateEndpointConnections", _SEE),
    _Row("get_nothing", "GET", _ACCOUNT + "/privateEndpointConnections/{privateEndpointConnectionName}", _SEE),
    _Row("list_nothing", "GET", _ACCOUNT + "/networkSecurityPerimeterConfigurations", _SEE),
    _Row("get_nothing", "GET", _ACCOUNT + "/networkSecurityPerimeterConfigurations/{configurationName}", _SEE),
    _Row("list_account_applications", "GET", _APPLICATIONS, _SEE),
    _Row("create_account_application", "PUT", _APPLICATION, _OWN),
    _Row("get_account_application", "GET", _APPLICATION, _SEE),
    _Row("update_account_application", "PATCH", _APPLICATION, _OWN),
    _Row("delete_account_application", "DELETE", _APPLICATION, _OWN),
    _Row("list_application_packages", "GET", _VERSIONS, _SEE),
    _Row("create_application_package", "PUT", _VERSION, _OWN),
    _Row("get_application_package", "GET", _VERSION, _SEE),
    _Row("delete_application_package", "DELETE", _VERSION, _OWN),
    _Row("activate_application_package", "POST", _VERSION + "/activate", _OWN),
    _Row("list_account_pools", "GET", _ACCOUNT + "/pools", _SEE),
    _Row("get_account_pool", "GET", _POOL, _SEE),
    _Row("create_account_pool", "PUT", _POOL, _RUN),
    _Row("update_account_pool", "PATCH", _POOL, _RUN),
    _Row("delete_account_pool", "DELETE", _POOL, _RUN),
    _Row("get_pool_deletion", "GET", _ACCOUNT + "/poolOperationResults/{poolName}", _SEE),
    _Row("disable_account_pool_auto_scale", "POST", _POOL + "/disableAutoScale", _RUN),
    _Row("stop_account_pool_resize", "POST", _POOL + "/stopResize", _RUN),
)

PREFIXES: Final = (b"/subscriptions/", b"/providers/", b"/tenants/")


def is_management(path: bytes) -> bool:
    """Whether a path is one of this plane."""
    return (path[: max(map(len, PREFIXES))].lower().rstrip(b"/") + b"/").startswith(PREFIXES)


def is_of_batch(path: str) -> bool:
    """Whether a path template is Microsoft.Batch's own: others have versions of their own."""
    return _BATCH in path


class ManagementRouter:
    """Finds the operation of a request."""

    def __init__(self) -> None:
        self._routes = [(template, dict(routes)) for template, routes in _by_path()]
        self._roles = {(row.method, row.path): row.role for row in _TABLE}

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
            "There is no such resource here: the management plane has batchAccounts, applications and pools in them, and "
            "what is around them.",
        )

    def role_of(self, operation: Operation) -> Role:
        """The least role that may do it."""
        return self._roles[operation.method, operation.path]


def table() -> list[tuple[str, str, str, Role]]:
    """(name, method, path, least role) of every operation."""
    return [(row.name, row.method, row.path, row.role) for row in _TABLE]


def listed_operations() -> list[dict[str, Any]]:
    """Azure Batch management: Operation, of all that this plane has."""
    found: dict[str, dict[str, Any]] = {}
    for row in _TABLE:
        _, provider, below = row.path.partition(_BATCH + "/")
        if not provider or below == "operations":
            continue
        segments = [segment for segment in below.split("/") if not segment.startswith("{")]
        if row.method == "POST":
            *segments, last = segments
            action = f"{last}/action"
        else:
            action = {"GET": "read", "DELETE": "delete"}.get(row.method, "write")
        resource = "/".join(segments)
        name = f"Microsoft.Batch/{resource}/{action}"
        display = {
            "provider": "Millpond, as Microsoft Batch",
            "resource": resource,
            "operation": row.name.replace("_", " ").capitalize(),
            "description": f"Needs the role {row.role.name.lower()}.",
        }
        found.setdefault(name, {"name": name, "isDataAction": False, "display": display})
    return [found[name] for name in sorted(found)]


def resource_types() -> list[str]:
    """Those of Microsoft.Batch that are here."""
    kinds: dict[str, None] = {}
    for row in _TABLE:
        _, provider, below = row.path.partition(_BATCH + "/")
        if provider and row.method == "GET":
            kinds["/".join(segment for segment in below.split("/") if not segment.startswith("{"))] = None
    return list(kinds)


def _by_path() -> Iterator[tuple[tuple[str, ...], dict[str, Operation]]]:
    paths: dict[str, dict[str, Operation]] = {}
    for row in _TABLE:
        paths.setdefault(row.path, {})[row.method] = Operation(row.name, row.method, row.path, 200)
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
