"""`millpond status`: whether a service runs, and how it is."""

import http.client
import json
from pathlib import Path
from typing import Any

import click

from millpond.cli.common import CliError, find_service, service_options, storage_words, trust
from millpond.cli.http import NoAnswer, Refused, send
from millpond.datadir import DataDirError, Endpoint

_TIMEOUT_S = 5.0


@click.command()
@service_options
@click.option("--json", "as_json", is_flag=True, help="Print the service's own answer as JSON.")
def status(config_path: Path | None, data_dir: str | None, as_json: bool) -> None:
    """Say whether a service runs in the data directory, and how it is. Exit code 1 when none does."""
    directory, endpoint = find_service(config_path, data_dir)
    if not directory.is_in_use():
        raise CliError(f"no service runs in {directory.path} now; start it with millpond up")
    try:
        storage = directory.storage()
    except DataDirError as error:
        raise CliError(str(error)) from error
    answer = _ask(endpoint)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    rows = {
        "endpoint": endpoint.account_url,
        "account": endpoint.account,
        "process": endpoint.pid,
        "data": directory.path,
        "storage": storage_words(storage, directory),
        **{name: value for name, value in answer.items() if name not in ("endpoint", "account")},
    }
    if rows.get("ready") is False:
        rows["ready"] = "false: changes cannot be taken just now; what millpond up writes says why"
    width = max(map(len, rows))
    for name, value in rows.items():
        text = json.dumps(value) if isinstance(value, (bool, dict, list)) else value
        click.echo(f"{name:<{width}}  {text}")


def _ask(endpoint: Endpoint) -> dict[str, Any]:
    url = endpoint.account_url
    headers = {"Accept": "application/json"}
    try:
        with send(url + "/", headers=headers, timeout_s=_TIMEOUT_S, trust=trust(endpoint)) as response:
            answer = json.load(response)
    except Refused as refused:
        raise CliError(f"{url}: {refused}") from refused
    except (NoAnswer, http.client.HTTPException, OSError, ValueError) as error:
        raise CliError(f"the service at {url} does not answer ({error}); it may be starting, try again") from error
    if not isinstance(answer, dict):
        raise CliError(f"what answers at {url} is not Millpond")
    return answer
