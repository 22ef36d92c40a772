"""`millpond up`: the service in the foreground."""

from pathlib import Path

import click

from millpond import app
from millpond.cli.common import (
    CliError,
    client_environment,
    export_lines,
    load_config,
    service_options,
)


@click.command()
@service_options
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]", metavar="ADDRESS")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [default: 10010]", metavar="PORT")
@click.option("--account", help="Name of the Batch account.  [default: millpond]", metavar="NAME")
@click.option("--log-level", help="debug, info, warning or error.  [default: warning]", metavar="LEVEL")
def up(
    *,
    config_path: Path | None,
    data_dir: str | None,
    host: str | None,
    port: int | None,
    account: str | None,
    log_level: str | None,
) -> None:
    """Start the service and local nodes; Ctrl-C stops them.

    All state lives in the data directory: started again, the service goes on where it was. Prints where it listens
    and the lines that point Azure Batch clients at it.
    """
    config = load_config(
        config_path,
        data_dir=("--data-dir", data_dir),
        server__host=("--host", host),
        server__port=("--port", port),
        account__name=("--account", account),
        log__level=("--log-level", log_level),
    )

    def announce(running: app.Running) -> None:
        lines = export_lines(client_environment(running.data_dir, running.endpoint))
        click.echo(
            f"Millpond is ready at {running.endpoint.url}\n"
            f"  account  {running.endpoint.account}\n"
            f"  key      in {running.data_dir.keys_path}\n"
            f"  data     {running.data_dir.path}\n\n"
            f"Point Azure Batch clients at it (millpond env prints this again):\n\n{lines}\n\n"
            "Ctrl-C stops it."
        )

    try:
        app.run(config, announce)
    except app.StartError as error:
        raise CliError(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
