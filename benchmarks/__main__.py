"""`python -m benchmarks`, which is `nnkernels bench`, too."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import machine, report
from benchmarks.case import Settings
from benchmarks.cases import GPU_NAMES, NAMES, cases
from benchmarks.peers import PEERS
from benchmarks.workers import Workers

GPU_MINUTES = 7.0  #: after which no case begins there, unless told otherwise: a borrowed GPU goes back
PATIENCE = 120.0  #: seconds that a row on a GPU may take to be built, compilers included
CPU_WORKERS = ({"JAX_PLATFORMS": "cpu"}, None)
#: JAX alone would take three quarters of the GPU's memory
GPU_WORKERS = ({"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, PATIENCE)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--quick", is_flag=True, help="Fewer steps, sizes and rounds: minutes, and rough figures.")
@click.option("--case", "names", multiple=True, type=click.Choice(NAMES), help="A case; may be repeated. Default: all.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME",
    help='Of our own rows; may be repeated. Default: all. With "cuda", the peers run on the GPU, too.',
)
@click.option(
    "--peers",
    multiple=True,
    type=click.Choice([*PEERS, "none"]),
    help="Whom to compare with; may be repeated. Default: all.",
)
@click.option("--rounds", type=click.IntRange(min=1), metavar="N", help="Rounds of every case.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    metavar="N",
    help="No case begins after this. Default: 7 with --device cuda, no limit without.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Of every row. Default: all processors.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the results here.",
)
@click.option(
    "--plot",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Draw a PNG a case here.",
)
def command(
    quick: bool,
    names: tuple[str, ...],
    devices: tuple[str, ...],
    peers: tuple[str, ...],
    rounds: int | None,
    minutes: float | None,
    threads: int | None,
    json_file: Path | None,
    folder: Path | None,
) -> None:
    """Time nnkernels beside its peers and beside the best C, after a check that all compute the same."""
    for device in devices:
        _check(device)
    chosen = tuple(name for name in peers if name != "none") if peers else None
    settings = Settings(quick, threads or machine.cores(), devices, chosen, rounds)
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.describe(),
        "settings": settings._asdict(),
        "cases": {},
    }
    console = Console()
    if not console.is_terminal:
        console.width = 120
    if minutes is None:
        minutes = GPU_MINUTES if settings.gpu else math.inf
    end = time.perf_counter() + 60 * minutes
    with Workers(*(GPU_WORKERS if settings.gpu else CPU_WORKERS)) as workers:
        _measure(console, found, names, settings, workers, end, json_file)
    if points := report.sweeps(found):
        console.print(report.sweep_table(points, report.sweep_ratios(points)))
    if folder:
        for path in report.plot(found, folder):
            console.print(f"drawn: {path}")
    if wrong := report.wrong(found):
        raise click.ClickException("failed, or not the weights of the reference: " + "; ".join(wrong))


def _measure(
    console: Console,
    found: dict[str, Any],
    names: tuple[str, ...],
    settings: Settings,
    workers: Workers,
    end: float,
    json_file: Path | None,
) -> None:
    """Measure case after case, as long as there is time, and add what they say to `found`."""
    left = list(names or (GPU_NAMES if settings.gpu else NAMES))
    while left and (start := time.perf_counter()) <= end:
        for case in cases(left.pop(0), settings, workers):
            result = case.measure()
            result["seconds"] = round(time.perf_counter() - start, 1)  # building and checking included
            found["cases"][case.name] = result
            if case.point is None:
                report.show(console, result)
            if json_file:  # after every case: a run that is interrupted leaves what it found
                report.write_json(found, json_file)
            start = time.perf_counter()
            if start > end:
                console.print(f"The time is over: stopped after {case.name}. Left: {', '.join(left) or 'nothing'}.")
                break


def _check(device: str) -> None:
    """Refuse a device that does not exist; one that cannot be used here is a row that is absent."""
    import nnkernels as nnk

    try:
        nnk.device(device)
    except nnk.BackendUnavailable:
        pass
    except nnk.DeviceError as error:
        raise click.UsageError(str(error)) from None


if __name__ == "__main__":
    command(prog_name="python -m benchmarks")
