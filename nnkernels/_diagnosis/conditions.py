"""health: why a network with right derivatives does not learn. Each condition is a function of a point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels._data import Host
from nnkernels._diagnosis.diagnosing import make_point
from nnkernels._diagnosis.factors import backprop
from nnkernels._diagnosis.pictures import activations, deltas, flow
from nnkernels._diagnosis.point import Point
from nnkernels._diagnosis.report import Finding, Report
from nnkernels._layers import chain

if TYPE_CHECKING:
    from nnkernels._losses import Loss
    from nnkernels._network import Sequential
    from nnkernels._training import History

SQUASHING = {"sigmoid": (0.25, 4.6), "tanh": (1.0, 2.3)}  #: largest slope; |z| at which a few percent of it are left
FLAT = 0.01  #: of the largest slope; a unit with less counts as saturated for that row
RANGES = {"sigmoid": (0, 1), "tanh": (-1, 1), "softmax": (0, 1), "relu": (0, np.inf), "softplus": (0, np.inf)}
FAR = 10.0  #: standard deviations or means of inputs and targets beyond which they count as unscaled


def health(
    network: Sequential,
    x: Any,
    y: Any,
    loss: str | Loss,
    learning_rate: float | None,
    history: History | None,
    sample_weight: Any,
) -> Report:
    """Look at a network and its data; see `nnkernels.health`."""
    point = make_point(network, x, y, loss, sample_weight)
    if learning_rate is not None and not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, not {learning_rate}")
    gradients = backprop(point)
    findings = [found for condition in CONDITIONS for found in condition(point)]
    findings += underflow(point, network.dtype)
    findings += critical_point(point, gradients)
    notes = []
    if any(gradient.any() for gradient in gradients.values()):
        stable = largest_stable_rate(point)
        if np.isfinite(stable):
            notes.append(f"The curvature here bears plain gradient descent up to a learning rate of {stable:.2g}.")
            findings += rate(learning_rate, stable)
    if history is not None:
        findings += too_few_steps(history.loss)
    places = {finding.parameter for finding in findings}
    status = {f"layer {i}": "see below" if f"layer {i}" in places else "healthy" for i in range(point.depth)}
    title = f"health of {chain(point.layers)}, {type(point.loss).__name__} {point.value():.4g}"
    draw: Callable[[], list[Any]] = lambda: [  # noqa: E731
        ("Activations by layer", activations(point)),
        ("Gradient flow by layer", flow(point)),
    ]
    return Report(title, findings, status, notes, draw)


# ---- the data --------------------------------------------------------------------------------------------------------


def unscaled_inputs(point: Point) -> Iterator[Finding]:
    """Inputs whose columns are far from zero mean and unit variance."""
    yield from _unscaled(point.x, "unscaled_inputs", "x", "A few large columns steer all units, and saturate them.")


def unscaled_targets(point: Point) -> Iterator[Finding]:
    """Targets far from what the output begins with."""
    if point.function(point.depth - 1) == "identity" and not point.fused and not point.kernel.startswith("poisson"):
        why = "The last layer has to travel far before anything else is learned, with errors and steps as large."
        yield from _unscaled(point.t, "unscaled_targets", "y", why)


def _unscaled(values: Host, code: str, name: str, why: str) -> Iterator[Finding]:
    mean, spread = values.mean(axis=0), values.std(axis=0)
    varying = spread > 0
    if len(values) < 2 or not varying.any():
        return
    far = varying & ((spread > FAR) | (np.abs(mean) > FAR) | (spread < 1 / FAR**2))
    if far.any():
        worst = int(np.argmax(np.where(far, np.abs(mean) + spread + 1 / np.maximum(spread, 1e-300), 0)))
        yield Finding(
            code,
            None,
            f"{int(far.sum())} of {len(mean)} columns of {name} are far from zero mean and unit variance. {why}",
            f"column {worst}: mean {mean[worst]:.3g}, standard deviation {spread[worst]:.3g}",
            f"{name} = ({name} - {name}.mean(axis=0)) / {name}.std(axis=0)",
        )


def target_range(point: Point) -> Iterator[Finding]:
    """Targets that the output's activation cannot reach."""
    name = point.function(point.depth - 1)
    low, high = RANGES.get(name, (-np.inf, np.inf))
    outside = (point.t < low) | (point.t > high)
    if outside.any():
        yield Finding(
            "target_range",
            f"layer {point.depth - 1}",
            f"The output's {name} has values from {low} to {high}, and targets are outside: that error never goes.",
            f"{outside.mean():.0%} of the targets, which range from {point.t.min():.3g} to {point.t.max():.3g}",
            f"nnk.Dense({point.layers[-1].n_in}, {point.n_out})   # a linear output, or scale y into the range",
        )


# ---- the units -------------------------------------------------------------------------------------------------------


def saturated(point: Point) -> Iterator[Finding]:
    """Units whose slope is next to nothing for most rows."""
    for layer in range(point.depth):
        name = point.function(layer)
        if name not in SQUASHING or (layer == point.depth - 1 and point.fused):
            continue
        top, edge = SQUASHING[name]
        share = float((point.slopes[layer] < FLAT * top).mean())
        if share > 0.5:
            scale = edge / 2 / float(np.quantile(np.abs(point.z[layer]), 0.9))
            cure = (
                f"x = x * {scale:.2g}" if layer == 0 else f'net.parameters["{layer}.weight"] = {scale:.2g} * W{layer}'
            )
            yield Finding(
                "saturated",
                f"layer {layer}",
                f"Layer {layer}'s {name} is saturated: next to no gradient passes, the layers up to it stand still.",
                f"{share:.0%} of its slopes are below {FLAT:.0%} of the largest; "
                f"median |z| {np.median(np.abs(point.z[layer])):.3g}",
                f"{cure}   # brings 9 in 10 of |z| below {edge / 2:.2g}",
            )


def dead_relu(point: Point) -> Iterator[Finding]:
    """Units that are off for every row."""
    for layer in range(point.depth - 1):
        off: Host = np.asarray((point.z[layer] <= 0).all(axis=0))
        if point.function(layer) == "relu" and point.rows > 1 and off.mean() > 0.25:
            yield Finding(
                "dead_relu",
                f"layer {layer}",
                f"{int(off.sum())} of {len(off)} units of layer {layer} are off for every row: nothing moves them.",
                f"units {', '.join(map(str, np.flatnonzero(off)[:10]))}: all z <= 0",
                f'{_dense(point, layer)}, activation="leaky_relu")   # or a smaller learning rate',
            )


def symmetric(point: Point) -> Iterator[Finding]:
    """Units that are copies: they get the same gradient, and stay copies."""
    for layer in range(point.depth - 1):
        below = np.vstack(
            [
                point.weight(layer),
                np.atleast_2d(point.parameters.get(f"{layer}.bias", 0) * np.ones(point.layers[layer].n_out)),
            ]
        )
        signature = np.vstack([below, point.weight(layer + 1).T]).T
        kinds = len(np.unique(signature, axis=0))
        if kinds < len(signature):
            yield Finding(
                "symmetric",
                f"layer {layer}",
                f"Units of layer {layer} are copies of each other. They get equal gradients, and stay one for ever.",
                f"{len(signature)} units, {kinds} different",
                f'{_dense(point, layer)}, weight_initializer="glorot_uniform")   # random',
            )


def _dense(point: Point, layer: int) -> str:
    return f"nnk.Dense({point.layers[layer].n_in}, {point.layers[layer].n_out}"


def only_linear(point: Point) -> Iterator[Finding]:
    """Several layers that are one."""
    if point.depth > 1 and all(point.function(layer) == "identity" for layer in range(point.depth - 1)):
        yield Finding(
            "only_linear",
            "layer 0",
            "No hidden layer has an activation: the whole network is one linear map, however many layers it has.",
            f"{point.depth} layers: {chain(point.layers)}",
            f'nnk.Dense({point.layers[0].n_in}, {point.layers[0].n_out}, activation="tanh")',
        )


def constant_output(point: Point) -> Iterator[Finding]:
    """An output that does not depend on the row."""
    spread, wanted = float(np.ptp(point.p, axis=0).max()), float(np.ptp(point.t, axis=0).max())
    if point.rows > 1 and wanted > 0 and np.ptp(point.x, axis=0).any() and spread < 1e-6 * wanted:
        yield Finding(
            "constant_output",
            f"layer {point.depth - 1}",
            "The network gives the same output for every row: something between input and output is shut.",
            f"outputs differ by {spread:.2g}, targets by {wanted:.2g}",
            "net = nnk.Sequential(*net.layers, rng=1)   # new weights; look at saturated or dead units first",
        )


# ---- the gradient ----------------------------------------------------------------------------------------------------


def flow_of_deltas(point: Point) -> Iterator[Finding]:
    """Deltas that shrink or grow from layer to layer."""
    sizes = [float(np.sqrt((delta**2).mean())) for delta in deltas(point)]
    if point.depth < 2 or not all(sizes):
        return
    ratio = sizes[0] / sizes[-1]
    evidence = "rms of delta by layer: " + ", ".join(f"{size:.2g}" for size in sizes)
    if ratio < 1e-4:
        remedy = 'activation="relu" or "tanh" in hidden layers, and inputs of unit variance'
        yield Finding(
            "vanishing",
            "layer 0",
            "The gradient vanishes on its way to the first layers, which hardly learn.",
            evidence,
            remedy,
        )
    elif ratio > 1e3:
        remedy = 'nnk.Adam(clip_norm=1.0), and weight_initializer="glorot_uniform"'
        yield Finding(
            "exploding",
            "layer 0",
            "The gradient grows on its way to the first layers, whose steps overshoot.",
            evidence,
            remedy,
        )


def underflow(point: Point, dtype: str) -> Iterator[Finding]:
    """The learner's a (1 - a), in the network's own precision, where it is zero and the slope is not."""
    for layer in range(point.depth):
        name = point.function(layer)
        if name not in SQUASHING or (layer == point.depth - 1 and point.fused):
            continue
        a = (point.p if layer == point.depth - 1 else point.inputs[layer + 1]).astype(dtype)
        naive = a * (1 - a) if name == "sigmoid" else 1 - a * a
        lost = (naive == 0) & (point.slopes[layer] > 0)
        if lost.any():
            formula = "a * (1 - a)" if name == "sigmoid" else "1 - a**2"
            yield Finding(
                "underflow",
                f"layer {layer}",
                f"In {dtype}, {formula} is exactly 0 for some activations of layer {layer}; the slope is only tiny.",
                f"{lost.mean():.0%} of the slopes; the true ones go down to {point.slopes[layer][lost].min():.2g}",
                "e = np.exp(-abs(z)); slope = e / (1 + e)**2"
                if name == "sigmoid"
                else "e = np.exp(-2 * abs(z)); slope = 4 * e / (1 + e)**2",
            )


def critical_point(point: Point, gradients: dict[str, Host]) -> Iterator[Finding]:
    """A gradient of zero where the loss falls nearby all the same."""
    terms: dict[str, float] = {}
    for layer, delta in enumerate(deltas(point)):
        terms[f"{layer}.weight"] = float((np.abs(point.inputs[layer]).T @ np.abs(delta)).max())
        terms[f"{layer}.bias"] = float(np.abs(delta).sum(axis=0).max())
    if any((np.abs(gradient) > 1e-14 * terms[name]).any() for name, gradient in gradients.items()):
        return
    rng, here = np.random.default_rng(0), point.value()
    lowest, where = here, 0.0
    for step in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(16):
            moved = {name: value + step * rng.normal(size=value.shape) for name, value in point.parameters.items()}
            value = point.at(moved).value()
            if value < lowest - 1e-12 * abs(here):
                lowest, where = value, where or step
    if where:
        exact = all(not gradient.any() for gradient in gradients.values())
        yield Finding(
            "critical_point",
            None,
            "The gradient is zero, and this is no minimum: gradient descent stands still where it should not.",
            f"loss {here:.6g} here and {lowest:.6g} nearby; the gradient is "
            f"{'exactly zero' if exact else 'zero to rounding'}; the loss falls from steps of {where:g} on",
            "net = nnk.Sequential(*net.layers, rng=1)   # random weights; batches of few rows leave such points, too",
        )


# ---- the learning rate -----------------------------------------------------------------------------------------------


def largest_stable_rate(point: Point, iterations: int = 20) -> float:
    """Return 2 / the largest curvature, by power iteration on differences of gradients."""
    rng = np.random.default_rng(0)
    vector: dict[str, Host] = {
        name: np.asarray(rng.normal(size=value.shape)) for name, value in point.parameters.items()
    }
    size = 1 + max(float(np.abs(value).max()) for value in point.parameters.values())
    curvature = 0.0
    for _ in range(iterations):
        norm = _norm(vector)
        if not norm or not np.isfinite(norm):
            return np.inf
        unit: dict[str, Host] = {name: part / norm for name, part in vector.items()}
        step = 1e-5 * size
        up, down = (
            backprop(point.at({name: value + move * unit[name] for name, value in point.parameters.items()}))
            for move in (step, -step)
        )
        vector = {name: (up[name] - down[name]) / (2 * step) for name in up}
        curvature = _norm(vector)
    return 2 / curvature if curvature else np.inf


def _norm(parts: dict[str, Host]) -> float:
    return float(np.sqrt(sum(float((part**2).sum()) for part in parts.values())))


def rate(learning_rate: float | None, stable: float) -> Iterator[Finding]:
    """A learning rate of plain gradient descent, against the stable one."""
    if learning_rate is None:
        return
    evidence = f"yours {learning_rate:g}; stable up to 2 / the largest curvature = {stable:.2g}"
    if learning_rate > stable:
        message = (
            "The learning rate is too large: steps overshoot the valley they are in, and the loss grows or oscillates."
        )
        yield Finding("rate_too_large", None, message, evidence, f"optimizer=nnk.SGD({stable / 4:.1g})")
    elif learning_rate < stable / 1000:
        message = "The learning rate is far below what the curvature bears: it takes a thousand times the steps."
        yield Finding("rate_too_small", None, message, evidence, f"optimizer=nnk.SGD({stable / 4:.1g})")


def too_few_steps(losses: Host) -> Iterator[Finding]:
    """A loss that was still falling when the run ended."""
    if len(losses) < 8:
        return
    quarter = len(losses) // 4
    before, last = float(np.mean(losses[-2 * quarter : -quarter])), float(np.mean(losses[-quarter:]))
    if last < 0.9 * before:
        yield Finding(
            "too_few_steps",
            None,
            "The run ended while the loss was still falling.",
            f"mean loss {before:.4g} in the third quarter, {last:.4g} in the last",
            "net.fit(...)   # again: it goes on from the current weights; or more epochs",
        )


CONDITIONS: tuple[Callable[[Point], Iterator[Finding]], ...] = (
    unscaled_inputs,
    unscaled_targets,
    target_range,
    only_linear,
    saturated,
    dead_relu,
    symmetric,
    constant_output,
    flow_of_deltas,
)
