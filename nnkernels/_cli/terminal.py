"""What all commands share: exit codes, errors in one line, JSON, tables, notes, progress, output files."""

from __future__ import annotations

import errno
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np

from nnkernels._callbacks import Callback, Progress
from nnkernels._errors import BackendUnavailable, DeviceError, NnkernelsError
from nnkernels._io.model_file import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F = TypeVar("F", bound=Callable[..., Any])

PROBLEM, NO_DEVICE, INTERRUPTED = 1, 3, 130  #: exit codes; 2, wrong usage, is click's own
WIDTH = 100  #: of tables, where there is no terminal to ask


class App(click.Group):
    """A group of commands whose errors are one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn what the user can mend into a message, and let bugs through."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            fail(str(interrupt) or "interrupted")
            ctx.exit(INTERRUPTED)
        except (BackendUnavailable, DeviceError) as error:
            fail(str(error))
            ctx.exit(NO_DEVICE)
        except (NnkernelsError, MemoryError) as error:
            fail(str(error) or "there is not enough memory")
            ctx.exit(PROBLEM)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click's: the reader of our output is gone
                raise
            fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
            ctx.exit(PROBLEM)


def fail(message: str) -> None:
    """Print an error in one line."""
    click.echo(click.style("error: ", fg="red") + " ".join(message.split()), err=True, color=_color(err=True))


def note(messages: Iterable[str]) -> None:
    """Print notes, a line each, beside the result rather than into it."""
    for message in messages:
        click.echo(f"note: {message}", err=True)


def json_option(function: F) -> F:
    """Give a command ``--json``; it may stand before the command's name, too."""

    def inherit(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        return value or bool(ctx.parent and ctx.parent.params.get("as_json"))

    help_text = "Print JSON for machines, and nothing else, on standard output."
    return click.option("--json", "as_json", is_flag=True, callback=inherit, help=help_text)(function)


def device_option(function: F) -> F:
    """Give a command ``--device``."""
    help_text = "auto, cpu, numpy, numba, cuda, cuda:1, ...  [default: $NNKERNELS_DEVICE, or auto]"
    return click.option("--device", metavar="NAME", help=help_text)(function)


def plot_option(what: str) -> Callable[[F], F]:
    """Give a command ``--plot``."""
    return click.option(
        "--plot", type=click.Path(path_type=Path), metavar="FILE", help=f"Draw {what}: .png, .svg, .pdf."
    )


def echo_json(value: Any) -> None:
    """Print JSON; NaN, which it does not have, as null."""
    click.echo(json.dumps(_plain(value), allow_nan=False))


def echo_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()) -> None:
    """Print a table; the columns at the places `numbers` are flush right."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(_table(columns, rows, numbers))


@contextmanager
def live_table(*, quiet: bool) -> Iterator[Callable[[Sequence[str], Iterable[Sequence[str]]], None]]:
    """Give what shows a table on standard error in place of the last one; nothing where that is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda columns, rows: None
        return
    from rich.live import Live

    with Live(console=console, transient=True) as live:
        yield lambda columns, rows: live.update(_table(columns, rows, ()))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Callback, ...]]:
    """Give the callbacks of a run that draw a bar on standard error, none where that is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield ()
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, TextColumn("{task.fields[loss]}"), console=console, transient=True) as bar:
        yield (_Advance(bar, bar.add_task(what, total=None, loss="")),)


class _Advance(Callback):
    """Move a bar at each log point."""

    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task = bar, task

    def on_log(self, progress: Progress) -> None:
        loss = progress.loss if progress.validation_loss is None else progress.validation_loss
        self.bar.update(self.task, completed=progress.step, total=progress.steps, loss=f"loss {loss:.4g}")


def check_output(option: str, path: Path | None) -> None:
    """Raise, before any work is done, if a file cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise NnkernelsError(f"{option} {path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise NnkernelsError(f"{option} {path}: there is no folder {path.absolute().parent}; make it first")
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise NnkernelsError(f"{option} {path} cannot be written: {error.strerror}; choose another folder") from error


def check_picture(path: Path | None) -> None:
    """Raise, before any work is done, if a picture cannot be drawn or written."""
    if path is None:
        return
    check_output("--plot", path)
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        raise NnkernelsError("--plot needs matplotlib: pip install 'nnkernels[plot]'") from error
    if path.suffix[1:].lower() not in FigureCanvasBase.filetypes:
        raise NnkernelsError(f"--plot {path}: the name must end in .png, .svg or .pdf")


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure to a file, whole or not at all."""
    from io import BytesIO

    content = BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=120)
    write_atomically(path, content.getvalue())


def _plain(value: Any) -> Any:
    """Return a value made of what JSON has."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _color(*, err: bool) -> bool | None:
    """Return click's answer whether to color: never with NO_COLOR, else on a terminal."""
    import os

    return False if os.environ.get("NO_COLOR") else None
