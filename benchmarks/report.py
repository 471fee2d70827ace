"""What a run found: tables in the terminal, JSON, and a picture a case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.case import FAILED, WRONG

Result = dict[str, Any]
COLORS = {"own": "#1f77b4", "peer": "0.6", "limit": "#2ca02c", "bound": "#98df8a"}


def best(result: Result, kind: str) -> str | None:
    """Return the name of the best row of a kind, if any was measured."""
    rows = {name: row["median"] for name, row in result["rows"].items() if row["kind"] == kind and "median" in row}
    if not rows:
        return None
    return (max if result["more_is_better"] else min)(rows, key=lambda name: rows[name])


def speed(result: Result, name: str, against: str) -> float:
    """Return how many times as fast (or as small) a row is as another."""
    ratio: float = result["rows"][against]["median"] / result["rows"][name]["median"]
    return 1 / ratio if result["more_is_better"] else ratio


def table(result: Result) -> Table:
    """Return a case as a table: median, spread, speed against the best peer and against the best limit."""
    peer, limit = best(result, "peer"), best(result, "limit")
    sheet = Table(
        title=result["title"],
        caption=f"median of {result['rounds']} interleaved rounds" + (f"; best peer: {peer}" if peer else ""),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    sheet.add_column("", overflow="fold", max_width=44)
    others = {"x best peer": peer, "x limit": limit}
    against = {column: name for column, name in others.items() if name}
    for column in (result["unit"], "min - max", *against):
        sheet.add_column(column, justify="right", no_wrap=True)
    for name, row in result["rows"].items():
        if "median" not in row:
            continue
        spread = f"{number(row['min'])} - {number(row['max'])}"
        ratios = [f"{speed(result, name, other):.3g}" for other in against.values()]
        style = {"own": "bold", "limit": "green", "bound": "green"}.get(row["kind"], "")
        sheet.add_row(Text(name, style), Text(number(row["median"]), style), spread, *ratios)
    return sheet


def number(value: float) -> str:
    """Return a figure with four digits, and commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def sweep_table(results: dict[str, Result], ratios: dict[str, float]) -> Table:
    """Return the points of a sweep as one table: each way's figure, and the plan's choice against the best."""
    ways = list(dict.fromkeys(name for result in results.values() for name in result["rows"]))
    sheet = Table(title="sweep: our own ways, and what the plan chooses", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("width, depth, batch", *(way.removeprefix("nnkernels ") for way in ways), "chosen", "x best way"):
        sheet.add_column(column, justify="right", overflow="fold")
    for name, result in results.items():
        point = result["point"]
        figures = [number(row["median"]) if "median" in (row := result["rows"].get(way, {})) else "-" for way in ways]
        place = f"{point['width']}, {point['depth']}, {point['batch']}"
        sheet.add_row(place, *figures, point["chosen"], f"{ratios[name]:.2f}")
    return sheet


def sweep_ratios(results: dict[str, Result]) -> dict[str, float]:
    """Return, for each point of a sweep, how fast the plan's choice is against the best of our own ways."""
    ratios = {}
    for name, result in results.items():
        first, chosen = best(result, "own"), f"nnkernels {result['point']['chosen']}"
        ratios[name] = (
            speed(result, chosen, first) if first and "median" in result["rows"].get(chosen, {}) else float("nan")
        )
    return ratios


def sweeps(report: dict[str, Any]) -> dict[str, Result]:
    """Return the points of the sweep among the results."""
    return {name: result for name, result in report["cases"].items() if "point" in result}


def wrong(report: dict[str, Any]) -> list[str]:
    """Return the rows, ours and the limits', that failed or compute something else than the reference."""
    return [
        f"{case}, {name}"
        for case, result in report["cases"].items()
        for name, row in result["rows"].items()
        if row["kind"] != "peer" and row["note"].startswith((WRONG, FAILED))
    ]


def show(console: Console, result: Result) -> None:
    """Print a case, and what is to be said about its rows."""
    console.print(table(result))
    notes: dict[str, list[str]] = {}
    for name, row in result["rows"].items():
        if row["note"]:
            notes.setdefault(("" if "median" in row else "absent, ") + row["note"], []).append(name)
    for note, names in notes.items():
        console.print(Text(f"{' | '.join(names)}: {note}", "dim"))
    console.print()


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write the results; JSON has no NaN, and there is none in them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return results that were written."""
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def plot(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw one PNG a case into a folder; return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, result in report["cases"].items():
        if "point" not in result:
            written.append(folder / f"{name.replace(', ', '-').replace(' ', '-')}.png")
            _bars(result).savefig(written[-1], dpi=120)
    if points := sweeps(report):
        written.append(folder / "sweep.png")
        _heat(points).savefig(written[-1], dpi=120)
    return written


def _bars(result: Result) -> Any:
    """Draw the medians as bars on a logarithmic axis, the spread as lines."""
    from matplotlib.figure import Figure

    rows = {name: row for name, row in result["rows"].items() if "median" in row}
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.add_subplot(title=result["title"], xlabel=result["unit"], xscale="log")
    axes.title.set_fontsize(9)
    medians = [row["median"] for row in rows.values()]
    spread = [
        [row["median"] - row["min"] for row in rows.values()],
        [row["max"] - row["median"] for row in rows.values()],
    ]
    colors = [COLORS[row["kind"]] for row in rows.values()]
    axes.barh(list(rows), medians, xerr=spread, color=colors, error_kw={"elinewidth": 1})
    for place, value in enumerate(medians):
        axes.annotate(f" {number(value)}", (value, place), va="bottom", fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    return figure


def _heat(results: dict[str, Result]) -> Any:
    """Draw the ratio of the plan's choice to the best way over width and depth, one map a batch size."""
    import numpy as np
    from matplotlib.figure import Figure

    ratios = sweep_ratios(results)
    points = {name: result["point"] for name, result in results.items()}
    batches, depths, widths = (sorted({p[key] for p in points.values()}) for key in ("batch", "depth", "width"))
    figure = Figure(figsize=(1.5 + 2.6 * len(batches), 3.2), layout="constrained")
    figure.suptitle("speed of the plan's choice against the best of our own ways", fontsize=10)
    panels = figure.subplots(1, len(batches), squeeze=False)[0]
    for batch, axes in zip(batches, panels, strict=True):
        grid = np.full((len(depths), len(widths)), np.nan)
        for name, point in points.items():
            if point["batch"] == batch:
                grid[depths.index(point["depth"]), widths.index(point["width"])] = ratios[name]
        image = axes.imshow(grid, vmin=0.5, vmax=1.0, cmap="RdYlGn", aspect="auto", origin="lower")
        axes.set(title=f"batch {batch}", xlabel="width", ylabel="hidden layers")
        axes.set_xticks(range(len(widths)), widths)
        axes.set_yticks(range(len(depths)), depths)
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                axes.annotate(f"{value:.2f}", (column, row), ha="center", va="center", fontsize=7)
    figure.colorbar(image, ax=list(panels))
    return figure
