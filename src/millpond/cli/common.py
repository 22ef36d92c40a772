"""What the commands share: the options that choose a service, and errors in one line."""

import shlex
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

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


_ACCOUNT: Final = "millpond.account"


def _note_account(context: click.Context, _: click.Parameter, name: str | None) -> None:
    context.meta[_ACCOUNT] = name


def service_options(command: _F) -> _F:
    """`--data-dir`, `--config` and `--account`: which service, and which account of it, a command is about. What
    `--account` says is for `find_service` to know, not for the command."""
    option = click.option(
        "--account",
        help="Name of the account, where the service has several.  [default: its first]",
        metavar="NAME",
        expose_value=False,
        callback=_note_account,
    )
    return place_options(option(command))


def place_options(command: _F) -> _F:
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


def find_service(
    config_path: Path | None, data_dir: str | None, *, account: str | None = None
) -> tuple[DataDir, Endpoint]:
    """The data directory and the endpoint of the service that runs, or last ran, there: of the account named, else of
    the one that `--account` names. Raises CliError."""
    root, endpoint = find_first(config_path, data_dir)
    context = click.get_current_context(silent=True)
    name = account or (context.meta.get(_ACCOUNT) if context is not None else None)
    if name is None or name == endpoint.account:
        return root, endpoint
    try:
        names = root.account_names()
    except DataDirError as error:
        raise CliError(str(error)) from error
    if name not in names:
        there = ", ".join([endpoint.account, *names])
        raise CliError(f"there is no account {name} in {root.path}, only {there}; millpond account create makes one")
    return root.account(name), endpoint._replace(account=name, account_path=f"/accounts/{name}")


def find_first(config_path: Path | None, data_dir: str | None) -> tuple[DataDir, Endpoint]:
    """The same of the service's first account, whatever `--account` says. Raises CliError."""
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
        "AZURE_BATCH_ENDPOINT": endpoint.account_url,
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
