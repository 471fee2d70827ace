"""The main job: the same small network, trained on every device that is there, side by side."""

from __future__ import annotations

from typing import Any

import click

from nnkernels._cli.terminal import echo_json, echo_table, progress_bar
from nnkernels._demos import sine
from nnkernels._device import DeviceStatus
from nnkernels._device import devices as all_devices


def race(steps: int, as_json: bool) -> None:
    """Train the sine network on each device and print speed and error."""
    if not as_json:
        click.echo(f"1-10-1, sigmoid, no biases, on sin(x) for x from 0 to 1: {steps:,} steps of one row")
    results = [_run(status, steps) for status in all_devices()]
    if as_json:
        echo_json({"steps": steps, "devices": results})
        return
    columns = ["device", "plan", "steps per second", "mean squared error"]
    if not all(result["available"] for result in results):
        columns.append("why not, and what to do")
    echo_table(columns, [_row(result)[: len(columns)] for result in results], numbers=(2, 3))


def _run(status: DeviceStatus, steps: int) -> dict[str, Any]:
    if not status.available:
        return dict(vars(status))
    with progress_bar(status.device) as callbacks:
        result = sine.run(steps=steps, device=status.device, callbacks=callbacks)
    return {
        "device": status.device,
        "available": True,
        "plan": result.way,
        "steps_per_second": result.steps_per_second,
        "mean_squared_error": result.mean_squared_error,
    }


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    if not result["available"]:
        return result["device"], "-", "-", "-", f"It {result['reason']}. {result['remedy']}".strip()
    speed, error = result["steps_per_second"], result["mean_squared_error"]
    return result["device"], result["plan"], f"{speed:,.0f}", f"{error:.3g}", ""
