"""`millpond up`: the service in the foreground."""

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from millpond import app
from millpond.cli.common import (
    CliError,
    CliUsageError,
    client_environment,
    export_lines,
    load_config,
    place_options,
    storage_words,
)
from millpond.config import Config
from millpond.datadir import DataDir, DataDirError, StorageFacts


@click.command()
@place_options
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
@click.option("--account", help="Name of the first Batch account.  [default: millpond]", metavar="NAME")
@click.option(
    "--blob",
    help="The account's storage: azurite (started beside the service; needs Node.js), or the URL of an Azure Blob "
    "account, whose key is in MILLPOND_STORAGE_ACCOUNT_KEY.  [default: directory]",
    metavar="WHERE",
)
@click.option(
    "--blob-connection-string-env",
    help="Name of an environment variable with the connection string of an Azure Blob account.",
    metavar="NAME",
)
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
    blob: str | None,
    blob_connection_string_env: str | None,
    log_level: str | None,
) -> None:
    """Start the service and local nodes; Ctrl-C stops them.

    All state lives in the data directory: started again, the service goes on where it was. Prints where it listens
    and the lines that point Azure Batch clients at it.
    """
    connection_string = None
    if blob_connection_string_env is not None:
        # Its name is in the arguments, as those can be read by everybody on the machine.
        connection_string = os.environ.get(blob_connection_string_env)
        if not connection_string:
            raise CliUsageError(
                f"--blob-connection-string-env: there is no variable {blob_connection_string_env}; set it to the "
                "connection string"
            )
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
        storage__blob=("--blob", blob),
        storage__connection_string=("--blob-connection-string-env", connection_string),
        log__level=("--log-level", log_level),
    )

    env = shlex.join(
        [
            *_own_name(),
            "env",
            *([] if config_path is None else ["--config", str(config_path.absolute())]),
            *([] if data_dir is None else ["--data-dir", config.data_dir]),
        ]
    )
    storage_before = _storage_of_last_start(config)

    def announce(running: app.Running) -> None:
        lines = export_lines(client_environment(running.data_dir, running.endpoint))
        storage = running.storage
        click.echo(
            f"Millpond is ready at {running.endpoint.url}\n"
            f"  account  {running.endpoint.account}\n"
            f"  key      in {running.data_dir.keys_path}\n"
            f"  data     {running.data_dir.path}\n"
            f"  storage  {storage_words(storage, running.data_dir)}\n"
            f"{_moved(storage_before, running)}\n"
            f"{_how_to_trust(running)}"
            f'Point Azure Batch clients at it, in another shell by eval "$({env})":\n\n{lines}\n\n'
            f"{_how_to_sign_in(running)}"
            "Ctrl-C stops it."
        )

    try:
        app.run(config, announce, say=lambda text: click.echo(f"millpond: {text}", err=True))
    except app.StartError as error:
        raise CliError(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _own_name() -> list[str]:
    """How to call millpond from another shell: it need not be on the path there."""
    if shutil.which("millpond") is not None:
        return ["millpond"]
    if Path(sys.argv[0]).name == "millpond":
        return [os.path.abspath(sys.argv[0])]
    return [sys.executable, "-m", "millpond"]


def _storage_of_last_start(config: Config) -> StorageFacts | None:
    """Where the account's storage was; None where there is nothing in it that could be missed."""
    directory = DataDir(Path(config.data_dir))
    # What cannot be read the start itself complains of, or writes anew.
    with contextlib.suppress(DataDirError, OSError):
        facts = directory.storage()
        if facts.kind != "directory" or any(directory.storage_path.iterdir()):
            return facts
    return None


def _moved(before: StorageFacts | None, running: app.Running) -> str:
    """A line where the storage is another than at the last start, so that nobody takes its files for lost."""
    now = running.storage
    # Azurite keeps its blobs whatever its port.
    if before is None or (before.kind == now.kind and (now.kind != "account" or before.url == now.url)):
        return ""
    return f"           (at the last start it was {storage_words(before, running.data_dir)}; its files stay there)\n"


def _how_to_sign_in(running: app.Running) -> str:
    if not running.endpoint.development_issuer:
        return ""
    return "To sign in by a token instead: millpond env --entra reader|submitter|operator|admin\n\n"


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
