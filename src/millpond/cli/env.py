"""`millpond env`: what a client needs to know, as shell lines or JSON."""

import json
from pathlib import Path

import click

from millpond.cli.common import CliError, client_environment, export_lines, find_first, find_service, service_options
from millpond.cli.management import place_of, token_of
from millpond.datadir import DataDir, DataDirError, Endpoint
from millpond.identity.applications import applications, managed_identity_secret, tenant_of
from millpond.identity.roles import Role


@click.command()
@service_options
@click.option(
    "--entra",
    type=click.Choice(["reader", "submitter", "operator", "admin"]),
    help="Print how to sign in at the development issuer instead, with that role.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of shell lines.")
@click.option("--arm", is_flag=True, help="Also what clients of the management plane need, with a token for a day.")
def env(config_path: Path | None, data_dir: str | None, as_json: bool, entra: str | None, arm: bool) -> None:
    """Print the export lines that point Azure Batch clients at the service.

    \b
    In a shell:  eval "$(millpond env)"
    """
    directory, endpoint = find_service(config_path, data_dir)
    environment = client_environment(directory, endpoint)
    if arm:
        subscription, group = place_of(directory)
        environment |= {
            "AZURE_SUBSCRIPTION_ID": subscription,
            "AZURE_BATCH_RESOURCE_GROUP": group,
            "AZURE_BATCH_MANAGEMENT_TOKEN": token_of(environment),
        }
    if entra is not None:
        environment = {**environment, **_sign_in_environment(*find_first(config_path, data_dir), Role[entra.upper()])}
        del environment["AZURE_BATCH_ACCESS_KEY"]
        if not as_json:
            # Clients that find a key sign with it, and never ask for a token.
            click.echo("unset AZURE_BATCH_ACCESS_KEY")
    click.echo(json.dumps(environment, indent=2) if as_json else export_lines(environment))
    if not directory.is_in_use():
        click.echo(f"millpond: no service runs in {directory.path} now; start it with millpond up", err=True)


def _sign_in_environment(directory: DataDir, endpoint: Endpoint, role: Role) -> dict[str, str]:
    """The variables of azure-identity's EnvironmentCredential and ManagedIdentityCredential."""
    if not endpoint.development_issuer:
        raise CliError("the service issues no tokens; start it with millpond up --tls --development-issuer")
    try:
        secret = directory.node_secret()
    except DataDirError as error:
        raise CliError(str(error)) from error
    application = applications(secret, endpoint.account)[role]
    return {
        "AZURE_TENANT_ID": tenant_of(endpoint.account),
        "AZURE_CLIENT_ID": application.client_id,
        "AZURE_CLIENT_SECRET": application.client_secret,
        "AZURE_AUTHORITY_HOST": endpoint.url,
        "IDENTITY_ENDPOINT": f"{endpoint.url}/MSI/token",
        "IDENTITY_HEADER": managed_identity_secret(secret, role),
    }
