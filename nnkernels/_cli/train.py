"""`nnkernels train`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nnkernels import _losses, _optimizers
from nnkernels._cli.terminal import (
    check_output,
    check_picture,
    device_option,
    echo_json,
    echo_table,
    json_option,
    note,
    plot_option,
    progress_bar,
    write_picture,
)
from nnkernels._formulas import ACTIVATIONS
from nnkernels._layers import chain
from nnkernels._tables.learning import Scores, Settings, Study, learn, loss_of, prepare, score
from nnkernels._tables.reading import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nnkernels._training import History

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT = Settings()
_COUNT, _SEED, _POSITIVE = click.IntRange(min=1), click.IntRange(0, 2**32 - 1), click.FloatRange(min=0, min_open=True)


def _sizes(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in value.split(",") if size.strip()]
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise click.BadParameter(f"{value!r} is not a list of layer sizes such as 32,16")
    return tuple(int(size) for size in sizes)


def _delimiter(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    delimiter = {"tab": "\t", "\\t": "\t"}.get(value or "", value)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise click.BadParameter(f"{value!r} is not one character, or the word tab")
    return delimiter


def _choice(option: str, names: Iterable[str], default: str | None, what: str) -> Callable[[F], F]:
    """Give a command an option that is one of many names, which would not fit beside the option's."""
    names = list(names)
    help_text = f"{what}{', '.join(names)}."
    return click.option(option, type=click.Choice(names), metavar="NAME", default=default, help=help_text)


delimiter_option = click.option(
    "--delimiter",
    metavar="CHAR",
    callback=_delimiter,
    help="What separates the cells; tab is a word.  [default: told from the file]",
)


@click.command()
@click.argument("data", type=click.Path(path_type=Path), metavar="DATA.csv")
@click.option("--target", required=True, metavar="COLUMN", help="The column to predict.")
@click.option("--task", type=click.Choice(["regression", "classification"]), help="[default: told from the target]")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="Leave a column out; may be repeated.")
@delimiter_option
@click.option("--hidden", metavar="N,N,...", callback=_sizes, default="32,16", help='Hidden layers; "" for none.')
@_choice("--activation", ACTIVATIONS, DEFAULT.activation, "Of hidden layers: ")
@_choice("--loss", _losses.NAMES, None, "[default: as the task needs] ")
@_choice("--optimizer", _optimizers.NAMES, DEFAULT.optimizer, "")
@click.option("--lr", type=_POSITIVE, metavar="RATE", default=DEFAULT.lr, help="Learning rate.")
@click.option("--epochs", type=_COUNT, metavar="N", default=DEFAULT.epochs, help="At most.")
@click.option("--batch-size", type=_COUNT, metavar="N", help="[default: 16 to 256, by the number of rows]")
@click.option("--patience", type=_COUNT, metavar="N", default=DEFAULT.patience, help="Epochs without progress to wait.")
@click.option("--seed", type=_SEED, metavar="N", default=DEFAULT.seed, help="Of split, initial weights and row order.")
@device_option
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the model here: model.safetensors.")
@plot_option("the losses over the epochs")
@json_option
def train(
    data: Path,
    target: str,
    delimiter: str | None,
    ignore: tuple[str, ...],
    out: Path | None,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network on a table, and say what it is worth.

    DATA.csv has a line of column names, then rows. Text columns become one input a category, numbers are
    standardized, missing cells are filled in and reported. 65 % of the rows are trained on, 15 % say when to
    stop, and 20 % test the result, beside a prediction that ignores the inputs.
    """
    settings = Settings(**options)
    check_output("--out", out)
    check_picture(plot)
    study = _prepare(data, target, delimiter, ignore, settings, as_json)
    history, best_epoch = _learn(study, settings, data, out, as_json)
    scores = score(study)
    if out is not None:
        study.model.save(out)
    if plot is not None:
        write_picture(picture(history, best_epoch, loss_of(study, settings)), plot)
    if as_json:
        echo_json(_report(study, history, best_epoch, scores, out))
    else:
        _print(history, best_epoch, scores, out)


def picture(history: History, best_epoch: int, loss: str) -> Figure:
    """Return the losses of training and validation over the epochs, and the epoch that was kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel=loss.replace("_", " "), yscale="log")
    epochs = range(1, len(history.loss) + 1)
    axes.plot(epochs, history.loss, label="training")
    if history.validation_loss is not None:
        axes.plot(epochs, history.validation_loss, label="validation")
    axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"kept: epoch {best_epoch}")
    axes.legend()
    return figure


def _prepare(
    data: Path, target: str, delimiter: str | None, ignore: tuple[str, ...], settings: Settings, as_json: bool
) -> Study:
    table = read_table(data, delimiter=delimiter, ignore=ignore)
    study = prepare(table, target, settings)
    if not as_json:
        note(study.notes)
        click.echo(_describe(study, table.n_rows, settings.task is not None))
    return study


def _describe(study: Study, n_rows: int, asked: bool) -> str:
    task, network, parts = study.model.target.task, study.model.network, study.parts
    other = "classification" if task == "regression" else "regression"
    overrides = "" if study.is_text else f"; --task {other} overrides"
    why = "as asked" if asked else f"{study.reason}{overrides}"
    return (
        f"{task} of {study.model.target.name!r} ({why})\n"
        f"{n_rows:,} rows: {len(parts.train):,} to train, {len(parts.validation):,} to say when to stop, "
        f"{len(parts.test):,} to test\n"
        f"network {chain(network.layers)}: {network.n_parameters:,} parameters, on {network.device}"
    )


def _learn(study: Study, settings: Settings, data: Path, out: Path | None, as_json: bool) -> tuple[History, int]:
    """Train; on Ctrl-C save the best weights so far beside where the model would have gone, and say so."""
    try:
        with progress_bar("training") as callbacks:
            return learn(study, settings, callbacks)
    except KeyboardInterrupt:
        path = Path(f"{out.stem if out else data.stem}.interrupted.safetensors")
        path = out.with_name(path.name) if out else path
        study.model.save(path)
        raise KeyboardInterrupt(f"interrupted; the best weights so far are in {path}") from None


def _report(study: Study, history: History, best_epoch: int, scores: Scores, out: Path | None) -> dict[str, Any]:
    model, parts = study.model, study.parts
    return {
        "task": model.target.task,
        "target": model.target.name,
        "rows": {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)},
        "columns": [column.name for column in model.columns],
        "layers": [model.network.n_in, *(layer.n_out for layer in model.network.layers)],
        "parameters": model.network.n_parameters,
        "device": str(history.device),
        "plan": history.plan.way,
        "epochs": len(history.steps),
        "best_epoch": best_epoch,
        "seconds": history.seconds,
        "metrics": scores.network,
        "baseline": {"name": scores.baseline_name, **scores.baseline},
        "model": None if out is None else str(out),
        "notes": study.notes,
    }


def _print(history: History, best_epoch: int, scores: Scores, out: Path | None) -> None:
    click.echo(
        f"{len(history.steps)} epochs in {history.seconds:.2f} s ({history.plan.way}); "
        f"kept the weights of epoch {best_epoch}, which had the least validation loss"
    )
    names = {"mean": "always the mean", "majority": "always the most frequent class"}
    rows = [(metric, f"{value:.4g}", f"{scores.baseline[metric]:.4g}") for metric, value in scores.network.items()]
    echo_table(("on the test rows", "network", names[scores.baseline_name]), rows, numbers=(1, 2))
    click.echo("model not kept; --out FILE keeps it" if out is None else f"model in {out}")
