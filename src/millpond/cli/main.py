"""The command `millpond`. Commands are imported when they are called, so that `--help` and `--version` are quick."""

import gc
import importlib
import os
from typing import Final

import click

from millpond import __version__
from millpond.cli.proxies import spare_loopback

_COMMANDS: Final = {
    "account": ("millpond.cli.account:account", "List, make and delete the accounts of the service."),
    "app": ("millpond.cli.app:app", "Add, list and delete application packages."),
    "autoscale": ("millpond.cli.autoscale:autoscale", "See what an autoscale formula does before it runs."),
    "env": ("millpond.cli.env:env", "Print the export lines that point Azure Batch clients at the service."),
    "explain": ("millpond.cli.explain:explain", "Say why a job, task, pool or node waits."),
    "intercept": ("millpond.cli.intercept:intercept", "Run a command that has Azure's host names built in."),
    "logs": ("millpond.cli.logs:logs", "Print what a task writes, also when its node is gone; -f follows it."),
    "node": ("millpond.cli.node:node", "List the nodes of a pool; reboot, disable, preempt … one of them."),
    "status": ("millpond.cli.status:status", "Say whether a service runs in the data directory, and how it is."),
    "storage": ("millpond.cli.storage:storage", "Put, get and list files of the account's own storage."),
    "up": ("millpond.cli.up:up", "Start the service and local nodes; Ctrl-C stops them."),
}
"""Name → where it is, and its line in the list (so that the list needs no import)."""
_OF_CLIENTS: Final = ("pool", "job", "task")
"""What newcomers look for here."""


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        # Next to nothing of what modules are made of is garbage: the collector would walk over all of it a dozen times.
        gc.disable()
        try:
            command = getattr(importlib.import_module(module), attribute)
        finally:
            gc.freeze()
            gc.enable()
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in _OF_CLIENTS:
            ctx.fail(
                f"No such command '{name}': pools, jobs and tasks are made and listed by any Azure Batch client, such as "
                f"`az batch {name}` or the SDKs (docs/how-to/clients.md); millpond explain {name} says why one waits."
            )
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand:
            # What was meant is looked for among those that are imported, otherwise.
            raise click.NoSuchCommand(name, possibilities=_COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(_COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="millpond")
def main() -> None:
    """Millpond: a batch and HPC service on your own machines that speaks the Azure Batch REST API.

    `millpond up` starts it. Any Azure Batch client works against it: `millpond env` prints what it needs to know.
    """
    spare_loopback(os.environ)
