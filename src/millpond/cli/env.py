"""`millpond env`: what a client needs to know, as shell lines or JSON."""

import json
from pathlib import Path

import click

from millpond.cli.common import client_environment, export_lines, find_service, service_options


@click.command()
@service_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of shell lines.")
def env(config_path: Path | None, data_dir: str | None, as_json: bool) -> None:
    """Print the export lines that point Azure Batch clients at the service.

    \b
    In a shell:  eval "$(millpond env)"
    """
    directory, endpoint = find_service(config_path, data_dir)
    environment = client_environment(directory, endpoint)
    click.echo(json.dumps(environment, indent=2) if as_json else export_lines(environment))
    if not directory.is_in_use():
        click.echo(f"millpond: no service runs in {directory.path} now; start it with millpond up", err=True)
