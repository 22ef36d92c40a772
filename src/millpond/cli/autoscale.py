"""`millpond autoscale`: the lab for autoscale formulas. No service is needed, but to look at one of its pools."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from millpond.cli.client import Client
from millpond.cli.common import CliError, CliUsageError, service_options
from millpond.domain.durations import parse_timestamp

if TYPE_CHECKING:
    from millpond.lab.backtest import Report, Site
    from millpond.lab.loads import Load

_F = TypeVar("_F", bound=Callable[..., Any])
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|)\Z")
_EVICTION: Final = re.compile(r"(.+):(\d+(?:\.\d+)?)%\Z")


class _Span(click.ParamType[float]):
    """`90`, `90s`, `5m`, `1.5h`, `2d`: seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = _SPAN.match(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no length of time such as 90s, 5m, 2h or 1d", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class _Eviction(click.ParamType[tuple[float, float]]):
    """`2h:50%`: the time from the beginning, the share."""

    name = "time:share%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        found = _EVICTION.match(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no eviction such as 2h:50% (at two hours, half of the spot nodes)", param, ctx)
        return _Span().convert(found[1], param, ctx), float(found[2]) / 100


@click.group()
def autoscale() -> None:
    """See what an autoscale formula does before it runs: check, explain, backtest, suggest.

    A FORMULA is a file with the text of a formula; - reads it from standard input.
    """


# --- check ----------------------------------------------------------------------------------------------------------


@autoscale.command("check")
@click.option("--slots-per-node", type=click.IntRange(1), help="The pool's taskSlotsPerNode, where known.")
@click.option("--several-slots/--one-slot", default=None, help="Whether tasks need several slots, where known.")
@click.option("--strict", is_flag=True, help="Warnings, too, make the exit code 1.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.argument("formulas", metavar="FORMULA...", nargs=-1, required=True)
def check(
    formulas: tuple[str, ...], slots_per_node: int | None, several_slots: bool | None, strict: bool, as_json: bool
) -> None:
    """Say what is wrong with a FORMULA, and what probably does not do what was meant.

    The exit code is 1 when there is an error.
    """
    from millpond.lab.checking import LintFacts, Severity, lint

    facts = LintFacts(task_slots_per_node=slots_per_node, several_slots=several_slots)
    bad = False
    found: list[dict[str, Any]] = []
    for name in formulas:
        findings = lint(_read(name), facts)
        bad = bad or any(
            one.severity is Severity.ERROR or (strict and one.severity is Severity.WARNING) for one in findings
        )
        for one in findings:
            found.append({"formula": name, **{key: getattr(one, key) for key in one.__struct_fields__}})
            if not as_json:
                click.echo(f"{name}:{one.line}:{one.column}: {one.severity}: {one.message} [{one.rule}]")
                if one.hint:
                    click.echo(f"    {one.hint}")
        if not findings and not as_json:
            click.echo(f"{name}: nothing to say against it")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    if bad:
        raise SystemExit(1)


# --- explain --------------------------------------------------------------------------------------------------------


@autoscale.command("explain")
@service_options
@click.option("--samples", type=click.Path(path_type=Path), help="A CSV of samples: time, and a column a metric.")
@click.option("--pool", help="A pool of the service that runs: its samples and its targets.")
@click.option("--at", "at_text", help="Evaluate as of this time (2026-01-05T08:00:00Z); else the newest samples'.")
@click.option("--dedicated", type=click.IntRange(0), default=0, help="The pool's present target, with --samples.")
@click.option("--low-priority", type=click.IntRange(0), default=0, help="Likewise, of low-priority nodes.")
@click.option("--period", type=_Span(), default=30.0, show_default="30s", help="Time between two samples.")
@click.argument("formula", metavar="FORMULA")
def explain(
    config_path: Path | None,
    data_dir: str | None,
    samples: Path | None,
    pool: str | None,
    at_text: str | None,
    dedicated: int,
    low_priority: int,
    period: float,
    formula: str,
) -> None:
    """Evaluate FORMULA once, and print the value of everything in it and the samples it looked at.

    On --samples from a file, or on those of a --pool of a service that runs.
    """
    from millpond.lab.explain import FormulaError, explain_history
    from millpond.lab.recording import history_of
    from millpond.lab.samples_file import read_samples

    if (samples is None) == (pool is None):
        raise CliUsageError("give either --samples FILE or --pool POOL")
    at = _time(at_text) if at_text is not None else None
    text = _read(formula)
    try:
        if samples is not None:
            history = read_samples(samples, period_s=period)
        else:
            assert pool is not None
            client = Client(config_path, data_dir)
            known = client.get("pools", pool)
            dedicated = known.get("targetDedicatedNodes", 0)
            low_priority = known.get("targetLowPriorityNodes", 0)
            history = history_of(client.get("pools", pool, "autoscalesamples"))
        lines = explain_history(
            text, history, at, target_dedicated_nodes=dedicated, target_low_priority_nodes=low_priority
        )
    except (FormulaError, ValueError) as error:
        raise CliError(str(error)) from error
    click.echo("\n".join(lines))


# --- the pool and the load ------------------------------------------------------------------------------------------


def _site_options(command: _F) -> _F:
    """What a backtest is made with."""
    for option in reversed(
        (
            click.option(
                "--load",
                "load_text",
                required=True,
                metavar="LOAD",
                help="A CSV (arrival,duration[,slots,count]), a trace *.swf, or poisson, bursts, daily, weekly with "
                "options: poisson:rate=30,duration=600,days=30.",
            ),
            click.option("--slots", type=click.IntRange(1), default=1, show_default=True, help="taskSlotsPerNode."),
            click.option("--vm-size", default="Standard_D2s_v3", show_default=True, help="For what nodes cost."),
            click.option("--interval", type=_Span(), default=300.0, show_default="5m", help="Between evaluations."),
            click.option("--on-queue-change", is_flag=True, help="Evaluate also when the queue changes."),
            click.option("--sample-period", type=_Span(), default=30.0, show_default="30s", help="Between samples."),
            click.option("--boot", type=_Span(), default=120.0, show_default="2m", help="Until a node takes tasks."),
            click.option("--boot-spread", type=click.FloatRange(0, 100), default=0.0, help="± percent of --boot."),
            click.option("--release", type=_Span(), default=0.0, help="Until a node given back costs nothing."),
            click.option("--evictions", type=click.FloatRange(0), default=0.0, help="Of a spot node, an hour."),
            click.option("--evict", type=_Eviction(), multiple=True, help="A wave: 2h:50% of the spot nodes."),
            click.option("--eviction-wait", type=_Span(), default=0.0, help="Until there are spot machines again."),
            click.option("--spot-price", type=click.FloatRange(0), default=0.3, show_default=True, help="Share."),
            click.option("--start", help="When the load begins [default: 2026-01-05T00:00:00Z, a Monday]."),
            click.option("--after", type=_Span(), default=3600.0, show_default="1h", help="Goes on after the load."),
            click.option("--processors-per-slot", type=click.IntRange(1), default=1, help="Of an *.swf trace."),
            click.option("--seed", type=int, default=1, show_default=True, help="For boot times and evictions."),
        )
    ):
        command = option(command)
    return command


def _site_and_load(given: dict[str, Any]) -> "tuple[Site, Load]":
    from millpond.lab.backtest import START, Machines, Site
    from millpond.lab.traces import load_of

    try:
        site = Site(
            slots=given["slots"],
            vm_size=given["vm_size"],
            interval_s=given["interval"],
            on_queue_change=given["on_queue_change"],
            sample_s=given["sample_period"],
            machines=Machines(
                boot_s=given["boot"],
                boot_spread=given["boot_spread"] / 100,
                release_s=given["release"],
                evictions_per_hour=given["evictions"],
                eviction_wait_s=given["eviction_wait"],
                evictions=tuple(given["evict"]),
            ),
            start=START if given["start"] is None else _time(given["start"]),
            after_s=given["after"],
            spot_price=given["spot_price"],
            seed=given["seed"],
        )
        site.check()
        return site, load_of(given["load_text"], processors_per_slot=given["processors_per_slot"])
    except ValueError as error:
        raise CliError(str(error)) from error


# --- backtest -------------------------------------------------------------------------------------------------------


@autoscale.command("backtest")
@_site_options
@click.option("--plot", type=click.Path(path_type=Path), help="Write a picture: a name that ends in .png, .svg, .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures and series as JSON.")
@click.argument("formulas", metavar="FORMULA...", nargs=-1, required=True)
def backtest(formulas: tuple[str, ...], plot: Path | None, as_json: bool, **given: Any) -> None:
    """Replay a load under each FORMULA, in virtual time, and compare what they cost and how long tasks waited."""
    from millpond.lab.backtest import compare
    from millpond.lab.explain import FormulaError

    site, load = _site_and_load(given)
    named: dict[str, str] = {}
    for name in formulas:
        stem = Path(name).stem or name
        named[stem if stem not in named else name] = _read(name)
    try:
        reports = compare(named, load, site)
    except (FormulaError, ValueError) as error:
        raise CliError(str(error)) from error
    _show(reports, load, as_json=as_json)
    if plot is not None:
        _plot(reports, plot, quiet=as_json)


def _show(reports: "list[Report]", load: "Load", *, as_json: bool) -> None:
    from millpond.lab.table import as_json_text, table

    if as_json:
        click.echo(as_json_text(reports))
        return
    click.echo(f"{load.name}: {len(load.arrivals):,} tasks, {load.slot_seconds / 3600:,.1f} slot hours of work")
    click.echo("\n".join(table(reports)))


def _plot(reports: "list[Report]", path: Path, *, quiet: bool) -> None:
    from millpond.lab.picture import PictureError, save_picture

    try:
        save_picture(reports, path)
    except PictureError as error:
        raise CliError(str(error)) from error
    if not quiet:
        click.echo(f"picture: {path}")


# --- suggest --------------------------------------------------------------------------------------------------------


@autoscale.command("suggest")
@_site_options
@click.option("--wait", type=_Span(), required=True, help="How long tasks may wait to start.")
@click.option(
    "--percentile",
    type=click.Choice(["50", "90", "95", "99", "100"]),
    default="95",
    show_default=True,
    help="The percentage of tasks that must not wait longer.",
)
@click.option("--tries", type=click.IntRange(1), default=60, show_default=True, help="Most backtests made.")
@click.option("--spot", is_flag=True, help="Of low-priority nodes.")
@click.option("--azure", is_flag=True, help="Only what runs on Azure Batch too.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a picture of what it does.")
def suggest(wait: float, percentile: str, tries: int, spot: bool, azure: bool, plot: Path | None, **given: Any) -> None:
    """Search for the cheapest formula that keeps waits short on a load, and print it with its figures.

    The exit code is 1 when none that was tried meets the goal; the one with the shortest waits is printed then.
    """
    from millpond.lab.suggest import Candidate, Goal
    from millpond.lab.suggest import suggest as search

    site, load = _site_and_load(given)
    goal = Goal(wait, int(percentile))
    shows = sys.stderr.isatty()

    def on_try(number: int, best: Candidate) -> None:
        if shows:
            cost, reached = best.report.cost, "reaches" if best.meets else "misses"
            waits = f"{reached} the goal with {goal.wait_of(best.report):,.0f} s"
            line = f"{number} of at most {tries} tried; the best costs ${cost:,.2f} and {waits}"
            click.echo(f"\r\033[K{line}", nl=False, err=True)

    try:
        found = search(load, goal, site, tries=tries, spot=spot, azure=azure, on_try=on_try)
    except ValueError as error:
        raise CliError(str(error)) from error
    finally:
        if shows:
            click.echo("\r\033[K", nl=False, err=True)
    best = found.best
    click.echo(best.recipe.text())
    click.echo("")
    _show([best.report], load, as_json=False)
    if plot is not None:
        _plot([best.report], plot, quiet=False)
    if not best.meets:
        raise CliError(
            f"none of the {len(found.tried)} formulas tried starts {percentile}% of the tasks within {wait:g} s; this "
            "one comes closest. Nodes that boot sooner, a shorter --interval or more --tries may help"
        )


# --- record ---------------------------------------------------------------------------------------------------------


@autoscale.command("record")
@service_options
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
def record(config_path: Path | None, data_dir: str | None, jobs: tuple[str, ...]) -> None:
    """Print the tasks that JOBs of a service have run as a load, in CSV: what `backtest --load` takes.

    Tasks that have not completed, or never ran, are left out and counted on standard error.
    """
    from millpond.lab.recording import load_of_tasks
    from millpond.lab.traces import to_csv

    client = Client(config_path, data_dir)
    tasks = [task for job in jobs for task in client.get_all("jobs", job, "tasks")]
    load, left_out = load_of_tasks(tasks, ", ".join(jobs))
    click.echo(to_csv(load.arrivals), nl=False)
    if left_out:
        click.echo(f"millpond: {left_out} tasks left out that have not run to an end", err=True)


# --- reading --------------------------------------------------------------------------------------------------------


def _read(name: str) -> str:
    try:
        if name == "-":
            return sys.stdin.read()
        return Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CliError(f"{name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CliError(f"{name}: this is not text in UTF-8 (byte {error.start})") from error


def _time(text: str) -> float:
    """Raises CliUsageError."""
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise CliUsageError(f"{text!r} is no time such as 2026-01-05T08:00:00Z") from error
