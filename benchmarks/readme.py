"""The README's table, printed from committed results: `python -m benchmarks.readme [FILE]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks.report import Result, best, number, read_json, speed

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- printed by python -m benchmarks.readme -->", "<!-- end of what is printed -->"

HEADER = ("case", "nnkernels", "best peer", "times as fast", "limit", "of the limit's speed")


def latest() -> Path:
    """Return the newest committed results of a CPU; names are <date>-<processor>.json, and a GPU's are its own."""
    return max(RESULTS.glob("*-cpu.json"))


def markdown(report: dict[str, Any]) -> str:
    """Return results as a Markdown table: our best row, the best peer, and the limit, a line a case.

    The table is of whole jobs; single kernels and the sweep stay in the results.
    """
    lines = [_line(HEADER), _line(["---"] * len(HEADER))]
    for name, result in report["cases"].items():
        ours = best(result, "own")
        if ours is not None and "point" not in result and "kernels" not in name and best(result, "peer"):
            lines.append(_line(_cells(name, result, ours)))
    machine = report["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines += ["", f"{report['date']}, {machine['processor']}, {machine['cores']} cores, {packages}; medians."]
    return "\n".join(lines)


def section(text: str) -> str | None:
    """Return what stands between the two marks of a text; None if it has none."""
    _, begin, rest = text.partition(BEGIN)
    inside, end, _ = rest.partition(END)
    return inside.strip() if begin and end else None


def _cells(name: str, result: Result, ours: str) -> list[str]:
    peer, limit = best(result, "peer"), best(result, "limit")
    cells = [name, _figure(result, ours), _figure(result, peer), f"{speed(result, ours, str(peer)):.2g}"]
    return [*cells, _figure(result, limit), f"{speed(result, ours, limit):.2f}" if limit else ""]


def _figure(result: Result, name: str | None) -> str:
    if name is None:
        return ""
    return f"{number(result['rows'][name]['median'])} {result['unit']} ({name.removeprefix('nnkernels ')})"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
def command(file: Path | None) -> None:
    """Print FILE, or the newest committed results, as the README's table."""
    click.echo(markdown(read_json(file or latest())))


if __name__ == "__main__":
    command(prog_name="python -m benchmarks.readme")
