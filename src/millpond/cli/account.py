"""`millpond account`: the accounts of the service."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from millpond.cli.common import CliError, find_first, place_options
from millpond.cli.management import ManagementClient, place_of
from millpond.datadir import DataDir, DataDirError, Endpoint

_WAIT_S: Final = 120.0
_PAUSE_S: Final = 0.1


@click.group()
def account() -> None:
    """List, make and delete accounts: each with keys, quotas, pools, jobs and storage of its own.

    millpond env --account NAME points clients at one.
    """


@account.command("list")
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_(config_path: Path | None, data_dir: str | None, as_json: bool) -> None:
    """List the accounts, the first one first. The service need not run."""
    root, first = find_first(config_path, data_dir)
    try:
        names = [first.account, *(name for name in root.account_names() if name != first.account)]
    except DataDirError as error:
        raise CliError(str(error)) from error
    found = [_facts(root, first, name) for name in names]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    width = max(len(name) for name in names)
    for facts in found:
        click.echo(f"{facts['name']:<{width}}  {facts['endpoint']}{'  (being deleted)' if facts['deleting'] else ''}")


def _facts(root: DataDir, first: Endpoint, name: str) -> dict[str, Any]:
    directory = root if name == first.account else root.account(name)
    try:
        settings = directory.account_settings()
    except DataDirError as error:
        raise CliError(str(error)) from error
    subscription, group = place_of(directory)
    return {
        "name": name,
        "endpoint": first.url if directory is root else f"{first.url}/accounts/{name}",
        "subscription": subscription,
        "resourceGroup": group,
        "location": settings.get("location", "local"),
        "deleting": bool(settings.get("deleting", False)),
    }


@account.command()
@place_options
@click.argument("name")
@click.option("--location", default="local", show_default=True, help="A label.")
def create(config_path: Path | None, data_dir: str | None, name: str, location: str) -> None:
    """Make an account, in the resource group millpond."""
    root, first = find_first(config_path, data_dir)
    if name == first.account or name in root.account_names():
        raise CliError(f"there is an account {name} already")
    client = ManagementClient(config_path, data_dir, new=name)
    client.call("PUT", body={"location": location})
    deadline = time.monotonic() + _WAIT_S
    while True:
        state = ((client.call("GET") or {}).get("properties") or {}).get("provisioningState")
        if state == "Succeeded":
            break
        if state == "Failed" or time.monotonic() > deadline:
            raise CliError(f"the account {name} does not start (it is {state}); the service's log says why")
        time.sleep(_PAUSE_S)
    click.echo(f"made {name}; millpond env --account {name} points clients at it")


def _ask(name: str) -> None:
    """Raises CliError where nobody is there to answer, Abort when the answer is no."""
    try:
        click.confirm(f"Delete the account {name} with all that is in it?", abort=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo()
        raise CliError(f"the account {name} was not deleted: nobody said yes; --yes says it") from None


@account.command()
@place_options
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(config_path: Path | None, data_dir: str | None, name: str, yes: bool) -> None:
    """Delete an account with its pools, jobs, files and keys; what its tasks run is ended."""
    root, first = find_first(config_path, data_dir)
    if name == first.account:
        raise CliError(f"{name} is the service's first account: stop the service and remove {root.path} to delete it")
    if name not in root.account_names():
        raise CliError(f"there is no account {name} in {root.path}")
    if not yes:
        _ask(name)
    subscription, group = place_of(root.account(name))
    client = ManagementClient(config_path, data_dir, new=name, place=(subscription, group))
    client.call("DELETE")
    deadline = time.monotonic() + _WAIT_S
    while name in root.account_names():
        if time.monotonic() > deadline:
            raise CliError(f"the account {name} is not gone yet; the service goes on with it, see its log")
        time.sleep(_PAUSE_S)
    click.echo(f"deleted {name}")
