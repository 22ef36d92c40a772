"""`millpond node`: the nodes of a pool, and what can be done to them."""

import json
from pathlib import Path
from typing import Any, Final

import click

from millpond.cli.client import Client
from millpond.cli.common import service_options

_TASKS: Final = ("requeue", "terminate", "taskcompletion", "retaineddata")
_COLUMNS: Final = ("id", "state", "schedulingState", "runningTasksCount", "kind")
_HEADINGS: Final = ("NODE", "STATE", "SCHEDULING", "TASKS", "KIND")


@click.group()
def node() -> None:
    """List or show the nodes of a pool; reboot, reimage, deallocate, start, disable, enable or preempt one."""


@node.command("list")
@service_options
@click.option("--json", "as_json", is_flag=True, help="Print the service's own answer as JSON.")
@click.argument("pool", metavar="POOL")
def list_nodes(config_path: Path | None, data_dir: str | None, as_json: bool, pool: str) -> None:
    """List the nodes of POOL."""
    nodes = Client(config_path, data_dir).get_all("pools", pool, "nodes")
    if as_json:
        click.echo(json.dumps(nodes, indent=2))
        return
    rows = [_HEADINGS, *(_row_of(found) for found in nodes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


@node.command("show")
@service_options
@click.option("--json", "as_json", is_flag=True, help="Print the service's own answer as JSON.")
@click.argument("pool", metavar="POOL")
@click.argument("node_id", metavar="NODE")
def show_node(config_path: Path | None, data_dir: str | None, as_json: bool, pool: str, node_id: str) -> None:
    """Show what NODE of POOL says it can and cannot do: whose users tasks run as, what is limited."""
    answer = Client(config_path, data_dir).get("pools", pool, "nodes", node_id, "properties")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for one in answer["properties"]:
        click.echo(f"{one['name']}: {one['value']}")


def _row_of(found: dict[str, Any]) -> tuple[str, ...]:
    shown = {**found, "kind": "dedicated" if found["isDedicated"] else "spot"}
    return tuple(str(shown[name]) for name in _COLUMNS)


def _command(
    name: str, summary: str, *, verb: str = "", options: tuple[str, ...] = (), property_name: str = ""
) -> None:
    """A command `millpond node NAME POOL NODE`; `options` are what may become of the node's tasks."""

    def run(config_path: Path | None, data_dir: str | None, pool: str, node_id: str, tasks: str | None = None) -> None:
        body = {property_name: tasks} if tasks is not None else None
        Client(config_path, data_dir).post("pools", pool, "nodes", node_id, verb or name, body=body)

    run.__doc__ = summary
    command = click.argument("pool", metavar="POOL")(click.argument("node_id", metavar="NODE")(run))
    if options:
        command = click.option(
            "--tasks", type=click.Choice(options), help="What becomes of the tasks it runs; requeue when not given."
        )(command)
    node.command(name)(service_options(command))


_command("reboot", "Reboot NODE of POOL; its disk stays.", options=_TASKS, property_name="nodeRebootOption")
_command(
    "reimage", "Bring NODE of POOL up anew, with an empty disk.", options=_TASKS, property_name="nodeReimageOption"
)
_command(
    "deallocate",
    "Give the machine of NODE back; the node stays in POOL until it is started again.",
    options=_TASKS,
    property_name="nodeDeallocateOption",
)
_command("start", "Start NODE of POOL, which was deallocated.")
_command(
    "disable",
    "Give NODE of POOL no more tasks.",
    verb="disablescheduling",
    options=_TASKS[:3],
    property_name="nodeDisableSchedulingOption",
)
_command("enable", "Give NODE of POOL tasks again.", verb="enablescheduling")
_command(
    "preempt",
    "Take the machine of NODE away, a spot node of POOL, as a cloud would: its files are lost, its tasks run again, and "
    "it comes back under the same id. This is Millpond's own; no Azure Batch client has it.",
)
