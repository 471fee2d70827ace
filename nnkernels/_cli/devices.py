"""`nnkernels devices`."""

from __future__ import annotations

import click

from nnkernels._cli.terminal import echo_json, echo_table, json_option
from nnkernels._device import device
from nnkernels._device import devices as all_devices


@click.command()
@json_option
def devices(as_json: bool) -> None:
    """List the devices, and why one cannot be used.

    With the remedy, where there is one.
    """
    statuses, auto = all_devices(), device("auto").kind
    if as_json:
        echo_json([{**vars(status), "auto": status.device == auto} for status in statuses])
        return
    rows = []
    for status in statuses:
        ready = "yes, and auto chooses it" if status.device == auto else "yes"
        rows.append((status.device, ready if status.available else f"no, it {status.reason}", status.remedy))
    echo_table(("device", "usable", "remedy"), rows)
