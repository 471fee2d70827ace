"""`nnkernels sweep`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from nnkernels import _optimizers
from nnkernels._cli.terminal import (
    check_output,
    check_picture,
    device_option,
    echo_json,
    echo_table,
    json_option,
    live_table,
    note,
    plot_option,
    write_picture,
)
from nnkernels._cli.train import DEFAULT, delimiter_option
from nnkernels._errors import NnkernelsError
from nnkernels._formulas import ACTIVATIONS
from nnkernels._io.model_file import write_atomically
from nnkernels._names import nearest
from nnkernels._sweep import SweepResult
from nnkernels._sweep import sweep as run_sweep
from nnkernels._tables.learning import Settings, Study, batch_size_for, build, loss_of, prepare, score
from nnkernels._tables.reading import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nnkernels._tables.learning import Scores

SHOWN = 10  #: configurations of the table
GRID = "lr=0.001,0.01,0.1 hidden=8,32"
#: what a grid may vary, and how its values are read; hidden layers are written 32x16
READERS: dict[str, Any] = {
    "lr": float,
    "hidden": lambda text: tuple(int(size) for size in text.split("x")),
    "activation": lambda text: _one_of(text, ACTIVATIONS),
    "optimizer": lambda text: _one_of(text, _optimizers.NAMES),
    "weight_decay": float,
    "l2": float,
}


def _one_of(text: str, names: Any) -> str:
    if text not in names:
        raise ValueError(f"there is no {text!r}.{nearest(text, names)}")
    return text


def _grid(_: click.Context, __: click.Parameter, value: str) -> dict[str, list[Any]]:
    grid: dict[str, list[Any]] = {}
    for entry in value.split():
        name, _equals, values = entry.partition("=")
        if name not in READERS or not values:
            raise click.BadParameter(f"{entry!r} is not one of {', '.join(READERS)}, =, and values: {GRID}")
        try:
            grid[name] = [READERS[name](text) for text in values.split(",")]
        except ValueError as error:
            raise click.BadParameter(f"{entry!r}: {error}") from None
    if not grid:
        raise click.BadParameter(f"it is empty; write it like {GRID!r}")
    return grid


@click.command()
@click.argument("data", type=click.Path(path_type=Path), metavar="DATA.csv")
@click.option("--target", required=True, metavar="COLUMN", help="The column to predict.")
@click.option("--grid", metavar="GRID", callback=_grid, default=GRID, help=f"Values of {', '.join(READERS)}.")
@click.option("--folds", type=click.IntRange(min=2), metavar="N", default=3, help="Of cross-validation.")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", default=50, help="Of each network.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="[default: 16 to 256, by the rows]")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="Leave a column out; may be repeated.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", default=0, help="Of folds and networks.")
@delimiter_option
@device_option
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the best model: model.safetensors.")
@click.option("--results", type=click.Path(path_type=Path), metavar="FILE", help="Write every result: results.csv.")
@plot_option("the loss of every configuration")
@json_option
def sweep(
    data: Path,
    target: str,
    grid: dict[str, list[Any]],
    folds: int,
    epochs: int,
    batch_size: int | None,
    ignore: tuple[str, ...],
    seed: int,
    delimiter: str | None,
    device: str | None,
    out: Path | None,
    results: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Train every combination of a grid, and say which is best.

    Each is judged by cross-validation on 80 % of the rows. The best one is trained again on all of them, and
    tested on the other 20 %.
    """
    for option, path in (("--out", out), ("--results", results)):
        check_output(option, path)
    check_picture(plot)
    settings = Settings(epochs=epochs, batch_size=batch_size, device=device, seed=seed)
    study = prepare(read_table(data, delimiter=delimiter, ignore=ignore), target, settings)
    if not as_json:
        note(study.notes)
    with _shown(grid, as_json) as show:
        found = _search(study, grid, folds, settings, show)
    assert found.network is not None  # it has been trained again
    study.model.network = found.network
    scores = score(study)
    if results is not None:
        write_atomically(results, _csv(found.records).encode())
    if out is not None:
        study.model.save(out)
    if plot is not None:
        write_picture(picture(found, loss_of(study, settings)), plot)
    if as_json:
        report = {"best": found.best, "metrics": scores.network, "baseline": scores.baseline, "records": found.records}
        echo_json(report | {"model": None if out is None else str(out)})
    else:
        _print(found, scores, out)


def _search(study: Study, grid: dict[str, list[Any]], folds: int, settings: Settings, show: Any) -> SweepResult:
    rows = np.sort(np.concatenate([study.parts.train, study.parts.validation]))
    batch_size = min(len(rows), settings.batch_size or batch_size_for(len(rows)))

    def configured(**values: Any) -> Any:
        own = {name: value for name, value in values.items() if name in ("hidden", "activation")}
        numbers = {name: value for name, value in values.items() if name in ("lr", "weight_decay", "l2")}
        network = build(study.x.shape[1], study.model.target, settings.replace(device="numpy", **own))
        kind = _optimizers.NAMES[values.get("optimizer", DEFAULT.optimizer)]
        return network.layers, kind(**{"lr": DEFAULT.lr} | numbers)

    try:
        return run_sweep(
            configured,
            grid,
            study.x[rows],
            study.t[rows],
            loss=loss_of(study, settings),
            folds=folds,
            batch_size=batch_size,
            epochs=settings.epochs,
            device=settings.device,
            rng=settings.seed,
            on_result=show,
        )
    except ValueError as error:
        raise NnkernelsError(str(error)) from error


@contextmanager
def _shown(grid: dict[str, list[Any]], as_json: bool) -> Iterator[Any]:
    """Give what shows the best results so far, while the others are still being trained."""
    done: list[dict[str, Any]] = []
    with live_table(quiet=as_json) as update:

        def show(record: dict[str, Any]) -> None:
            done.append(record)
            update(*_rows(done, list(grid)))

        yield show


def _rows(records: list[dict[str, Any]], names: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows of the best configurations."""
    ranked = sorted(records, key=lambda record: (math.isnan(record["loss"]), record["loss"]))[:SHOWN]
    rows = [
        [*(_text(record[name]) for name in names), f"{record['loss']:.4g}", f"{record['std']:.2g}", _what(record)]
        for record in ranked
    ]
    return [*names, "loss", "std", ""], rows


def _what(record: dict[str, Any]) -> str:
    return record["error"] or ("diverged" if record["diverged"] else "")


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def _csv(records: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    names = [name for name in records[0] if name != "losses"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*names, *(f"loss of fold {k}" for k in range(len(records[0]["losses"])))])
    writer.writerows([*(_text(record[name]) for name in names), *record["losses"]] for record in records)
    return file.getvalue()


def picture(found: SweepResult, loss: str) -> Figure:
    """Return the losses of all configurations, in order, with their spread over folds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="configuration, best first", ylabel=loss.replace("_", " "), yscale="log")
    ranked = sorted((record for record in found.records if record["loss"] > 0), key=lambda record: record["loss"])
    losses, spread = ([record[name] for record in ranked] for name in ("loss", "std"))
    axes.errorbar(range(1, len(ranked) + 1), losses, yerr=spread, fmt="o", capsize=3)
    return figure


def _print(found: SweepResult, scores: Scores, out: Path | None) -> None:
    names = list(found.best)
    echo_table(*_rows(found.records, names))
    failed = sum(math.isnan(record["loss"]) for record in found.records)
    click.echo(f"{len(found.records)} configurations, {failed} of them without a result")
    best = ", ".join(f"{name} {_text(value)}" for name, value in found.best.items())
    tested = ", ".join(f"{metric} {value:.4g}" for metric, value in scores.network.items())
    click.echo(f"best: {best}; trained again, it has on the test rows: {tested}")
    click.echo("model not kept; --out FILE keeps it" if out is None else f"model in {out}")
