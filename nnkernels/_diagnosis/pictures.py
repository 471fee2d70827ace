"""Plots of a point: where the activations are, how the gradient flows, how a wrong gradient is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnkernels._data import Host
from nnkernels._diagnosis.factors import Chain, apply_slopes, errors, passes
from nnkernels._diagnosis.point import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def deltas(point: Point) -> list[Host]:
    """Return delta of each layer, (batch, n), by the right backward pass."""
    weight = point.factors[:, None]
    da, joint = errors(point)[""]
    chain, layer = Chain(), point.depth - 1
    da, joint = da * weight, None if joint is None else joint * weight
    while True:
        chain = chain.add(layer, da, apply_slopes(point, layer, da, joint, [""])[""])
        if not layer:
            return [chain.delta[number] for number in range(point.depth)]
        layer, joint = layer - 1, None
        da = passes(point, layer, chain)[""]


def activations(point: Point) -> Figure:
    """Return a histogram of each layer's output, with the share of units that hardly have a slope."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * point.depth + 0.6, 2.4), layout="constrained")
    for number in range(point.depth):
        a = point.p if number == point.depth - 1 else point.inputs[number + 1]
        flat = float((np.abs(point.slopes[number]) < 1e-3).mean())
        axes = figure.add_subplot(1, point.depth, number + 1)
        axes.hist(a.ravel(), bins=30, color="tab:blue")
        axes.set_title(f"layer {number}, {point.function(number)}\n{flat:.0%} with slope < 0.001", fontsize=9)
        axes.tick_params(labelsize=8)
    return figure


def flow(point: Point) -> Figure:
    """Return the root mean square of each layer's delta, on a logarithmic axis."""
    from matplotlib.figure import Figure

    sizes = [float(np.sqrt((delta**2).mean())) for delta in deltas(point)]
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.add_subplot(xlabel="layer", ylabel="rms of delta")
    axes.bar([str(number) for number in range(point.depth)], sizes, color="tab:orange")
    if min(sizes) > 0:
        axes.set_yscale("log")
    return figure


def ratios(array: Host, right: Host) -> Figure:
    """Return the elementwise ratio of a gradient to the right one, as a picture: 1 is white."""
    from matplotlib.figure import Figure

    array, right = np.atleast_2d(array), np.atleast_2d(right)
    usable = np.abs(right) > 1e-12 * np.abs(right).max()
    ratio = np.where(usable, array / np.where(usable, right, 1), np.nan)
    reach = float(np.clip(np.nanmax(np.abs(ratio - 1)), 0.1, 3)) if usable.any() else 1.0
    height = min(1.3 + 0.3 * len(ratio), 6)
    figure = Figure(figsize=(min(2.5 + 0.4 * ratio.shape[1], 9), height), layout="constrained")
    axes = figure.add_subplot(xlabel="unit", ylabel="input" if len(ratio) > 1 else "")
    image = axes.imshow(ratio, cmap="RdBu", vmin=1 - reach, vmax=1 + reach, aspect="auto")
    if ratio.size <= 60:
        for (i, j), value in np.ndenumerate(ratio):
            dark = abs(value - 1) > 0.6 * reach
            axes.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(ratio.shape[1]) if ratio.shape[1] <= 20 else [])
    axes.set_yticks(range(len(ratio)) if len(ratio) <= 20 else [])
    figure.colorbar(image, ax=axes, label="yours / right")
    return figure
