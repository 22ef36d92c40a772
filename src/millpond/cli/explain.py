"""`millpond explain`: why a job, task, pool or node waits."""

import json
from pathlib import Path
from typing import Any

import click

from millpond.cli.client import Client
from millpond.cli.common import service_options

_as_json = click.option("--json", "as_json", is_flag=True, help="Print the service's own answer as JSON.")


@click.group()
def explain() -> None:
    """Say why a job, task, pool or node waits: what holds it up, since when, and what would end it.

    What is marked with an exclamation mark does not pass by itself: someone has to act.
    """


@explain.command("job")
@service_options
@_as_json
@click.argument("job", metavar="JOB")
def explain_job(config_path: Path | None, data_dir: str | None, as_json: bool, job: str) -> None:
    """Why the tasks of JOB wait, or why it does not end."""
    _tell(config_path, data_dir, as_json, "jobs", job)


@explain.command("task")
@service_options
@_as_json
@click.argument("job", metavar="JOB")
@click.argument("task", metavar="TASK")
def explain_task(config_path: Path | None, data_dir: str | None, as_json: bool, job: str, task: str) -> None:
    """Why TASK of JOB does not run."""
    _tell(config_path, data_dir, as_json, "jobs", job, "tasks", task)


@explain.command("pool")
@service_options
@_as_json
@click.argument("pool", metavar="POOL")
def explain_pool(config_path: Path | None, data_dir: str | None, as_json: bool, pool: str) -> None:
    """Why POOL is not as it should be."""
    _tell(config_path, data_dir, as_json, "pools", pool)


@explain.command("node")
@service_options
@_as_json
@click.argument("pool", metavar="POOL")
@click.argument("node", metavar="NODE")
def explain_node(config_path: Path | None, data_dir: str | None, as_json: bool, pool: str, node: str) -> None:
    """Why NODE of POOL takes no tasks."""
    _tell(config_path, data_dir, as_json, "pools", pool, "nodes", node)


def _tell(config_path: Path | None, data_dir: str | None, as_json: bool, *segments: str) -> None:
    answer = Client(config_path, data_dir).get(*segments, "explain")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"{answer['subject']['kind']} {name_of(answer['subject'])}: {answer['state']} since", nl=False)
    click.echo(f" {answer['stateTransitionTime']}")
    click.echo(answer["summary"])
    for line in lines_of(answer["causes"]):
        click.echo(line)


def name_of(reference: dict[str, str]) -> str:
    """A task with its job, anything else by its id."""
    return f"{reference['jobId']}/{reference['id']}" if "jobId" in reference else reference["id"]


def lines_of(causes: list[dict[str, Any]], indent: str = "") -> list[str]:
    """The causes as an indented list, each with what it is about and what would end it."""
    lines: list[str] = []
    for cause in causes:
        since = f" (since {cause['since']})" if "since" in cause else ""
        lines.append(f"{indent}{'!' if cause['never'] else '-'} {cause['message']}{since}  [{cause['code']}]")
        if "unblock" in cause:
            lines.append(f"{indent}    ends when: {cause['unblock']}")
        if "references" in cause:
            named = ", ".join(f"{reference['kind']} {name_of(reference)}" for reference in cause["references"])
            lines.append(f"{indent}    about: {named}")
        lines.extend(lines_of(cause.get("causes", []), indent + "    "))
    return lines
