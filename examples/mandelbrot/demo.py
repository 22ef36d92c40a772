"""Render a zoom into the Mandelbrot set as a batch job: one task a frame, then one that puts the frames together.

    make demo                                        a service of its own, started and stopped
    python examples/mandelbrot/demo.py --use-env     the service AZURE_BATCH_ACCOUNT, _ACCESS_KEY, _ENDPOINT name

Exit code 0 only if every frame is there and the film, read back, is right.
"""

import argparse
import binascii
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from azure.core.exceptions import AzureError
from film import HERE, Film, FilmFailed, Order, Result, Storage, connect
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from service import ServiceError, own_service
from verify import WrongPicture, check_film

SAMPLE_FRAMES = 4
VARIABLES = ("AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ACCESS_KEY", "AZURE_BATCH_ENDPOINT")


def main() -> int:
    arguments = parse()
    console = Console()
    # Being told to end stops the service as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = arguments.out.absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with environment(arguments, out) as variables:
            run(console, arguments, variables, out)
    except binascii.Error:
        text = "AZURE_BATCH_ACCESS_KEY is not a key, which is base64; see millpond env"
        console.print(f"[bold red]The demo failed:[/] {text}", highlight=False, soft_wrap=True)
        return 1
    except (FilmFailed, ServiceError, WrongPicture, AzureError, OSError) as error:
        console.print(f"[bold red]The demo failed:[/] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=whole(2, 10_000), default=96, help="frames of the film (96)")
    parser.add_argument("--size", type=size, default=(320, 200), metavar="WIDTHxHEIGHT", help="size of it (320x200)")
    parser.add_argument("--nodes", type=whole(1, 50), default=2, help="nodes of the pool (2)")
    parser.add_argument("--slots", type=whole(1, 256), help="tasks at once on a node (cores of this machine / nodes)")
    parser.add_argument("--vm-size", default="standard_a1_v2", help="VM size of the nodes (standard_a1_v2)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where the film goes (out/demo)")
    parser.add_argument("--use-env", action="store_true", help=f"use the service of {', '.join(VARIABLES)}")
    arguments = parser.parse_args()
    if arguments.slots is None:
        arguments.slots = max(1, (os.cpu_count() or 1) // arguments.nodes)
    return arguments


def whole(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}")
        return value

    return number


def size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        found = int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError("must look like 320x200") from None
    if not all(16 <= side <= 4096 for side in found):
        raise argparse.ArgumentTypeError("both sides must be from 16 to 4096")
    return found


@contextlib.contextmanager
def environment(arguments: argparse.Namespace, out: Path) -> Iterator[dict[str, str]]:
    """The variables of the service to use: the one they name already, or one of our own."""
    if arguments.use_env:
        missing = [name for name in VARIABLES if not os.environ.get(name)]
        if missing:
            raise ServiceError(f'--use-env needs {", ".join(missing)}: eval "$(millpond env)"')
        yield {name: os.environ[name] for name in VARIABLES}
        return
    directory = Path(tempfile.mkdtemp(prefix="service-", dir=out))
    with own_service(directory) as variables:
        yield variables
    # Kept when something failed: it holds the service's log and all of its state.
    shutil.rmtree(directory)


def run(console: Console, arguments: argparse.Namespace, variables: dict[str, str], out: Path) -> None:
    width, height = arguments.size
    order = Order(arguments.frames, width, height, arguments.nodes, arguments.slots, arguments.vm_size)
    console.print(
        f"{order.frames} frames of {width}x{height} on {order.nodes} nodes with {order.slots_per_node} "
        f"slot{'s' * (order.slots_per_node > 1)} each, at {variables['AZURE_BATCH_ENDPOINT']}",
        highlight=False,
    )
    samples = sample_frames(order.frames)
    with console.status("measuring one process on a few frames"):
        one_process_s = measure_one_process(order, samples)
    name = f"mandelbrot-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    film = Film(connect(variables), Storage(variables, name), name, order)
    try:
        with console.status("making the pool"):
            film.prepare()
        film.submit()
        with progress_bar(console) as progress:
            bar = progress.add_task("rendering", total=order.frames + 1)
            wall_s = film.watch(lambda completed: progress.update(bar, completed=completed))
        result = film.result(wall_s)
    finally:
        with console.status("deleting job and pool"):
            film.clean_up()
    path = out / "mandelbrot.png"
    path.write_bytes(result.picture)
    check_film(path.read_bytes(), order.frames, width, height)
    console.print(summary(order, result, samples, one_process_s))
    console.print(f"The film: {path}", highlight=False, soft_wrap=True)


def sample_frames(frames: int) -> list[int]:
    """A few frames spread over the film."""
    count = min(SAMPLE_FRAMES, frames)
    return [frames * (2 * i + 1) // (2 * count) for i in range(count)]


def measure_one_process(order: Order, samples: list[int]) -> float:
    """The wall time one process takes for the sample frames, its start included."""
    with tempfile.TemporaryDirectory() as directory:
        begun = time.monotonic()
        subprocess.run(
            [
                *("python3", "-I", str(HERE / "render.py"), "--frames", str(order.frames)),
                *("--size", f"{order.width}x{order.height}", "--only", ",".join(map(str, samples))),
            ],
            cwd=directory,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.monotonic() - begun


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
    )


class RateColumn(ProgressColumn):
    """Tasks a second, over the last while."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} tasks/s" if speed else "")


def summary(order: Order, result: Result, samples: list[int], one_process_s: float) -> Table:
    cpu_s = sum(result.cpu_s)
    # One process would need for all frames what it needed for the samples, in the proportion of their cost.
    sample_cpu_s = sum(result.cpu_s[number] for number in samples)
    whole_s = one_process_s * cpu_s / sample_cpu_s if sample_cpu_s else one_process_s
    slots = order.nodes * order.slots_per_node
    table = Table(show_header=False, title="Summary", title_justify="left")
    table.add_row("frames", str(order.frames))
    table.add_row("wall time", f"{result.wall_s:.1f} s")
    table.add_row("CPU time of the frames", f"{cpu_s:.1f} s")
    table.add_row("one process would take", f"{whole_s:.1f} s (from {len(samples)} frames measured before)")
    table.add_row("speed-up", f"{whole_s / result.wall_s:.2f} on {slots} slots")
    overhead_ms = 1000 * (result.wall_s * slots - cpu_s) / (order.frames + 1)
    table.add_row("overhead per task", f"{overhead_ms:.0f} ms (slot time not spent on computing)")
    return table


if __name__ == "__main__":
    sys.exit(main())
