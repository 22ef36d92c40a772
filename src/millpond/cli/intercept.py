"""`millpond intercept`: one command, for which Azure's host names are the local service."""

import asyncio
import signal
from pathlib import Path

import click

from millpond.cli.common import CliError, client_environment, find_service, service_options


@click.command(context_settings={"ignore_unknown_options": True})
@service_options
@click.option("--allow", multiple=True, help="A host that may be reached as it is; may be repeated.", metavar="HOST")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def intercept(config_path: Path | None, data_dir: str | None, allow: tuple[str, ...], command: tuple[str, ...]) -> None:
    """Run COMMAND with *.batch.azure.com, management.azure.com and the sign-in hosts answered by the local service.

    For clients in which those names are built in. The command, and what it starts, gets a proxy and a certificate
    authority by environment variables; every other host is refused. Nothing else of the machine changes.

    \b
    millpond intercept -- snakemake --executor azure-batch …
    """
    directory, endpoint = find_service(config_path, data_dir)
    if not directory.is_in_use():
        raise CliError(f"no service runs in {directory.path} now; start it with millpond up --tls")
    if not endpoint.url.startswith("https:"):
        raise CliError("the service speaks plain http, which these clients do not; start it with millpond up --tls")
    try:
        # Needs the extra `tls`; other commands do not wait for it.
        from millpond import intercept as proxy
    except ModuleNotFoundError as error:
        raise CliError(f"intercept needs {error.name}; install it with pip install 'millpond[tls]'") from error
    environment = client_environment(directory, endpoint)
    own = {name: environment[name] for name in ("AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ACCESS_KEY")}
    own["AZURE_BATCH_ENDPOINT"] = f"https://{endpoint.account}.local.batch.azure.com"
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code, refused = asyncio.run(proxy.run(command, endpoint.url, endpoint.bundle, allowed=allow, environment=own))
    except OSError as error:
        raise CliError(f"{command[0]} cannot be run: {error.strerror or error}") from error
    finally:
        signal.signal(signal.SIGINT, before)
    for host in dict.fromkeys(refused):
        click.echo(f"millpond: refused {host}; let it through with --allow {host}", err=True)
    raise SystemExit(code)
