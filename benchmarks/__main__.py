"""`python -m benchmarks [--quick] [--case NAME ...] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.cases import CASES, Case
from benchmarks.timing import interleave, summarize


def measure(case: Case) -> dict[str, Any]:
    """Time a case's rows, interleaved; return its figures in its unit."""
    seconds = interleave(case.rows, case.rounds)
    figures = {name: summarize([case.scale * value for value in values]) for name, values in seconds.items()}
    return {"title": case.title, "unit": case.unit, "peer": case.peer, "rounds": case.rounds, "rows": figures}


def table(result: dict[str, Any]) -> Table:
    """Return a case's result as a table: median, spread, and how many times faster than the peer."""
    sheet = Table(title=result["title"], caption=f"median of {result['rounds']} interleaved rounds")
    for column in ("", result["unit"], "min - max", f"times faster than {result['peer']}"):
        sheet.add_column(column, justify="left" if not column else "right")
    peer = result["rows"][result["peer"]]["median"]
    for name, row in result["rows"].items():
        spread = f"{row['min']:,.4g} - {row['max']:,.4g}"
        sheet.add_row(name, f"{row['median']:,.4g}", spread, f"{peer / row['median']:.2f}")
    return sheet


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time nnkernels beside its peers.")
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="a case; may be repeated; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer steps and rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = parser.parse_args()
    console = Console()
    report: dict[str, Any] = {"machine": machine.describe(), "date": datetime.now(UTC).date().isoformat(), "cases": {}}
    for name in arguments.case or CASES:
        report["cases"][name] = measure(CASES[name](arguments.quick))
        console.print(table(report["cases"][name]))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
