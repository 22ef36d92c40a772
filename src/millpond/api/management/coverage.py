"""What of the management plane is served, operation by operation: for docs/reference/coverage.md."""

from typing import Final

from millpond.api.management.operations import API_VERSIONS, is_of_batch, table

_NONE_OF_THEM: Final = "The account has none."
_NOTES: Final = {
    "list_outbound_network_dependencies": "The service itself.",
    "synchronize_auto_storage_keys": "Notes the time: the keys are those of the configuration.",
    "register_provider": "Changes nothing: Microsoft.Batch is registered.",
    "get_account_operation": "Where `Location` of a creation or a deletion leads.",
    "get_pool_deletion": "Where `Location` of a deletion leads.",
    "get_group_deletion": "Where `Location` of a deletion leads.",
    "delete_account": "Not the service's first account.",
    "delete_resource_group": "With the accounts in it; not where the service's first account is.",
    "list_nothing": _NONE_OF_THEM,
    "get_nothing": f"404 `ResourceNotFound`: {_NONE_OF_THEM.lower()}",
}
_ACCOUNT: Final = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.Batch/batchAccounts/{accountName}"
NOT_SERVED: Final = (
    ("PATCH", _ACCOUNT + "/privateEndpointConnections/{privateEndpointConnectionName}"),
    ("DELETE", _ACCOUNT + "/privateEndpointConnections/{privateEndpointConnectionName}"),
    (
        "POST",
        _ACCOUNT + "/networkSecurityPerimeterConfigurations/{networkSecurityPerimeterConfigurationName}/reconcile",
    ),
)
"""Operations of Azure Batch's management plane that are not here: 405, or 404 `InvalidResourceType`. They change what the
account has none of."""


def section() -> list[str]:
    """The lines of the page."""
    lines = [
        "",
        "## Management plane",
        "",
        f"Versions of Microsoft.Batch: {', '.join(f'`{version}`' for version in API_VERSIONS)}. What is around it takes any.",
        "In paths of Microsoft.Batch `…` stands for all up to `providers/Microsoft.Batch`.",
        "",
        "| operation | request | role | |",
        "| --- | --- | --- | --- |",
    ]
    for name, method, path, role in table():
        shown = _short(path)
        lines.append(f"| {name} | `{method} {shown}` | {role.name.lower()} | {_NOTES.get(name, '')} |")
    refused = [f"| | `{method} {_short(path)}` | | refused: {_NONE_OF_THEM.lower()} |" for method, path in NOT_SERVED]
    return [*lines, *refused]


def _short(path: str) -> str:
    if not is_of_batch(path):
        return path
    return "…" + path.partition("/providers/Microsoft.Batch")[2]
