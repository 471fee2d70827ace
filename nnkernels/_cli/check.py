"""`nnkernels check`."""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nnkernels._cli.terminal import PROBLEM, check_output, echo_json, json_option
from nnkernels._diagnosis import check_gradients, diagnose
from nnkernels._errors import NnkernelsError

if TYPE_CHECKING:
    from nnkernels._diagnosis.report import Report

OPTIONAL = ("gradients", "gradient", "update", "sample_weight", "l1", "l2")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.py")
@click.option("--save", type=click.Path(path_type=Path), metavar="PAGE.html", help="Write the report as one HTML page.")
@json_option
@click.pass_context
def check(ctx: click.Context, file: Path, save: Path | None, as_json: bool) -> None:
    """Name what is wrong in a hand-written backprop.

    FILE.py is run. It defines network (nnkernels layers that hold its weights), x, y, loss, and gradients (a
    dict of arrays by parameter name) or gradient (a function of parameters, x and y that returns one), or update
    (before, after, learning_rate).
    Without a network: function, gradient and parameters, which are compared with finite differences.

    Exit code 0 if nothing is wrong, 1 if something is.
    """
    check_output("--save", save)
    report = _check(_run(file), file)
    if save is not None:
        report.save(save)
    if as_json:
        echo_json(report.to_dict())
    else:
        _print(report)
        if save is not None:
            click.echo(f"report in {save}")
    if not report.ok:
        ctx.exit(PROBLEM)


def _run(file: Path) -> dict[str, Any]:
    """Run the user's file, with its folder importable, and return its names."""
    if not file.is_file():
        raise NnkernelsError(f"{file}: there is no such file")
    sys.path.insert(0, str(file.absolute().parent))
    try:
        return runpy.run_path(str(file), run_name="backprop")
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == file.name]
        place = f"{file}, line {lines[-1]}" if lines else f"{file}"
        raise NnkernelsError(f"{place}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)


def _check(names: Mapping[str, Any], file: Path) -> Report:
    try:
        if "network" in names:
            _require(names, ("x", "y", "loss"), file)
            given = {name: names[name] for name in OPTIONAL if name in names}
            return diagnose(names["network"], names["x"], names["y"], loss=names["loss"], **given)
        _require(names, ("function", "gradient", "parameters"), file)
        return check_gradients(names["function"], names["gradient"], names["parameters"])
    except (ValueError, TypeError, KeyError) as error:
        raise NnkernelsError(f"{file}: {error.args[0] if error.args else error}") from error


def _require(names: Mapping[str, Any], needed: tuple[str, ...], file: Path) -> None:
    missing = [name for name in needed if name not in names]
    if missing:
        raise NnkernelsError(
            f"{file} defines no {missing[0]}. It must define network, x, y, loss and gradients or gradient; or, "
            "without a network, function, gradient and parameters. nnkernels check --help says what they are."
        )


def _print(report: Report) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100
    console.print(report)
