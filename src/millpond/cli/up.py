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
@click.option("--tls", is_flag=True, default=None, help="Speak https, by a certificate of its own making.")
@click.option("--tls-cert", "tls_certificate", help="Certificate to use instead (PEM), with --tls-key.", metavar="FILE")
@click.option("--tls-key", help="Its key.", metavar="FILE")
@click.option(
    "--insecure-http",
    is_flag=True,
    default=None,
    help="Allow plain http where other machines can reach it: they can read and change all that passes.",
)
@click.option(
    "--development-issuer",
    is_flag=True,
    default=None,
    help="Issue tokens itself, as Microsoft Entra ID does; millpond env --entra ROLE says how to sign in.",
)
@click.option("--account", help="Name of the Batch account.  [default: millpond]", metavar="NAME")
@click.option("--log-level", help="debug, info, warning or error.  [default: warning]", metavar="LEVEL")
def up(
    *,
    config_path: Path | None,
    data_dir: str | None,
    host: str | None,
    port: int | None,
    tls: bool | None,
    tls_certificate: str | None,
    tls_key: str | None,
    insecure_http: bool | None,
    development_issuer: bool | None,
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
        server__tls=("--tls", tls),
        server__tls_certificate=("--tls-cert", tls_certificate),
        server__tls_key=("--tls-key", tls_key),
        server__insecure_http=("--insecure-http", insecure_http),
        auth__development_issuer=("--development-issuer", development_issuer),
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
            f"{_how_to_trust(running)}"
            f"Point Azure Batch clients at it (millpond env prints this again):\n\n{lines}\n\n"
            "Ctrl-C stops it."
        )

    try:
        app.run(config, announce)
    except app.StartError as error:
        raise CliError(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _how_to_trust(running: app.Running) -> str:
    """Empty where there is nothing to do."""
    authority = running.endpoint.authority
    if not authority:
        return ""
    truststore = running.data_dir.tls_path / "truststore.p12"
    java = (
        f"  Java           java -Djavax.net.ssl.trustStore={truststore} -Djavax.net.ssl.trustStorePassword=millpond\n"
        if truststore.exists()
        else ""
    )
    return (
        "Clients must trust its certificate. The lines below do it for Python, az and Node.js; otherwise:\n"
        f"{java}"
        f"  this machine   sudo cp {authority} /usr/local/share/ca-certificates/millpond.crt "
        "&& sudo update-ca-certificates\n\n"
    )
