"""`millpond env`: what a client needs to know, as shell lines or JSON."""

import json
from pathlib import Path

import click

from millpond.api.management.auth import SUBSCRIPTION
from millpond.cli.common import client_environment, export_lines, find_service, service_options
from millpond.cli.management import GROUP, token_of


@click.command()
@service_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of shell lines.")
@click.option("--arm", is_flag=True, help="Also what clients of the management plane need, with a token for a day.")
def env(config_path: Path | None, data_dir: str | None, as_json: bool, arm: bool) -> None:
    """Print the export lines that point Azure Batch clients at the service.

    \b
    In a shell:  eval "$(millpond env)"
    """
    directory, endpoint = find_service(config_path, data_dir)
    environment = client_environment(directory, endpoint)
    if arm:
        environment |= {
            "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
            "AZURE_BATCH_RESOURCE_GROUP": GROUP,
            "AZURE_BATCH_MANAGEMENT_TOKEN": token_of(environment),
        }
    click.echo(json.dumps(environment, indent=2) if as_json else export_lines(environment))
    if not directory.is_in_use():
        click.echo(f"millpond: no service runs in {directory.path} now; start it with millpond up", err=True)
