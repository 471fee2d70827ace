"""`nnkernels predict`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from nnkernels._cli.terminal import check_output, device_option, echo_json, json_option, note
from nnkernels._cli.train import delimiter_option
from nnkernels._io.model_file import write_atomically
from nnkernels._tables.model import Model, Predictions
from nnkernels._tables.reading import read_table


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.safetensors")
@click.argument("data", type=click.Path(path_type=Path), metavar="DATA.csv")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write CSV here.  [default: print it]")
@delimiter_option
@device_option
@json_option
def predict(
    model: Path, data: Path, out: Path | None, delimiter: str | None, device: str | None, as_json: bool
) -> None:
    """Predict with a model that `nnkernels train` wrote.

    One line for each row of DATA.csv. Columns are found by name, in any order, and others are ignored. A
    classifier gives each class's probability, too.
    """
    check_output("--out", out)
    loaded = Model.load(model, device=device)
    table = read_table(data, delimiter=delimiter, only=tuple(column.name for column in loaded.columns))
    predictions = loaded.predict(table)
    if out is not None:
        write_atomically(out, _to_csv(predictions).encode())
    if as_json:
        echo_json(_report(predictions, out, table.notes))
        return
    note(table.notes)
    if out is None:
        click.echo(_to_csv(predictions), nl=False)
    else:
        click.echo(f"{table.n_rows:,} predictions of {predictions.target!r} in {out}")


def _report(predictions: Predictions, out: Path | None, notes: list[str]) -> dict[str, Any]:
    report: dict[str, Any] = {"target": predictions.target, "predictions": predictions.values}
    if predictions.probabilities is not None:
        report |= {"classes": predictions.classes, "probabilities": predictions.probabilities}
    return report | {"out": None if out is None else str(out), "notes": notes}


def _to_csv(predictions: Predictions) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_lines(predictions))
    return text.getvalue()


def _lines(predictions: Predictions) -> Iterator[list[str]]:
    yield [predictions.target, *(f"p({name})" for name in predictions.classes)]
    if predictions.probabilities is None:
        yield from ([f"{value:.7g}"] for value in predictions.values)
    else:
        for label, row in zip(predictions.values, predictions.probabilities, strict=True):
            yield [label, *(f"{probability:.6g}" for probability in row)]
