"""What the commands share: the options that choose a service, and errors in one line."""

import shlex
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from millpond.config import Config
from millpond.config_sources import ConfigError, Flag, load
from millpond.datadir import DataDir, DataDirError, Endpoint, StorageFacts

_F = TypeVar("_F", bound=Callable[..., Any])


class CliError(click.ClickException):
    """The command cannot do what was asked; shown as one line. Exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"millpond: {self.format_message()}", file=file, err=file is None)


class CliUsageError(CliError):
    """The command was called or configured wrongly. Exit code 2."""

    exit_code = 2


def service_options(command: _F) -> _F:
    """`--data-dir` and `--config`: which service a command is about."""
    for option in (
        click.option(
            "--config",
            "config_path",
            type=click.Path(path_type=Path),
            help="Configuration file (TOML).",
            metavar="FILE",
        ),
        click.option("--data-dir", help="Directory that holds all state of the service.", metavar="DIRECTORY"),
    ):
        command = option(command)
    return command


def load_config(config_path: Path | None, **flags: tuple[str, Any]) -> Config:
    """The configuration, with the flags that were given: `server__port=("--port", 10010)`; None was not given.

    Raises CliUsageError.
    """
    given = {key.replace("__", "."): Flag(name, value) for key, (name, value) in flags.items() if value is not None}
    try:
        return load(config_path=config_path, flags=given)
    except ConfigError as error:
        raise CliUsageError(str(error)) from error


def find_service(config_path: Path | None, data_dir: str | None) -> tuple[DataDir, Endpoint]:
    """The data directory and the endpoint of the service that runs, or last ran, there. Raises CliError."""
    directory = DataDir(Path(load_config(config_path, data_dir=("--data-dir", data_dir)).data_dir))
    try:
        return directory, directory.endpoint()
    except DataDirError as error:
        raise CliError(str(error)) from error


def client_environment(directory: DataDir, endpoint: Endpoint) -> dict[str, str]:
    """The variables by which `az batch` and the examples find the service. Raises CliError."""
    try:
        key = directory.account_keys().primary
        storage = directory.storage()
    except DataDirError as error:
        raise CliError(str(error)) from error
    environment = {
        "AZURE_BATCH_ACCOUNT": endpoint.account,
        "AZURE_BATCH_ACCESS_KEY": key,
        "AZURE_BATCH_ENDPOINT": endpoint.url,
    }
    if storage.connection_string:
        environment["AZURE_STORAGE_CONNECTION_STRING"] = storage.connection_string
    if endpoint.authority:
        # For OpenSSL and Python, for requests (the Azure SDKs, az), for Node.js.
        environment["SSL_CERT_FILE"] = environment["REQUESTS_CA_BUNDLE"] = endpoint.bundle
        environment["NODE_EXTRA_CA_CERTS"] = endpoint.authority
    return environment


def trust(endpoint: Endpoint) -> ssl.SSLContext | None:
    """What a call of the service verifies its certificate by; None for plain http."""
    if not endpoint.url.startswith("https:"):
        return None
    try:
        return ssl.create_default_context(cafile=endpoint.bundle or None)
    except OSError as error:
        raise CliError(f"{endpoint.bundle} cannot be read ({error.strerror}); start the service again") from error


def storage_words(storage: StorageFacts, directory: DataDir) -> str:
    """Where the account's storage is, in words; no secret."""
    if storage.kind == "directory":
        return f"the directory {directory.storage_path}"
    return f"{'Azurite' if storage.kind == 'azurite' else 'the account'} at {storage.url}"


def export_lines(environment: dict[str, str]) -> str:
    """As lines for a POSIX shell, quoted."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
