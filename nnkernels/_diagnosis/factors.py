"""The right backward pass as a product of factors, and for each factor what people write in its place.

    da        = d loss / d p, times each row's factor      `errors`, `row_choices`
    delta[l]  = da * slope of layer l                      `slopes`
    da        = delta[l] @ weight[l].T                     `passes`
    d weight  = input.T @ delta, d bias = ones.T @ delta   `inputs`, `bias_inputs`, `row_choices`
    times 1                                                `scales`

Each choice has a key; "" is the right one. A `Change` names a factor, where it stands, and the key that was chosen.
`backprop` computes the gradients under any set of changes: the one program that everything else here is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from nnkernels._data import Host
from nnkernels._diagnosis.point import Point, activate

FREE = ("", "kink")  #: choices of a slope that are no mistake: at a kink, either side's slope will do


class Change(NamedTuple):
    """One factor of the backward pass, chosen differently.

    `site` is error, rows, pass, slope or scale, which everything below `layer` inherits; or weight or bias, followed
    by the factor ("weight slope", "weight input", "bias scale"), which concerns that gradient alone.
    """

    site: str
    layer: int
    key: str
    value: float = 0.0  # of choices that have a number, such as a learning rate

    @property
    def parameter(self) -> str | None:
        """The only parameter that is concerned, or None."""
        kind = self.site.partition(" ")[0]
        return f"{self.layer}.{kind}" if kind in ("weight", "bias") else None


# ---- the loss --------------------------------------------------------------------------------------------------------


def errors(point: Point) -> dict[str, tuple[Host, Host | None]]:
    """Return by key the slope of the loss for p, without rows' factors; and beside it, where they are one, delta."""
    p, t, n, z = point.p, point.t, point.n_out, point.z[-1]
    d = p - t
    with np.errstate(all="ignore"):
        slopes = {
            "half_squared_error": d,
            "mean_squared_error": 2 * d / n,
            "squared_error": 2 * d,
            "absolute_error": np.sign(d) / n,
            "binary_cross_entropy": d / (p * (1 - p)) / n,
            "categorical_cross_entropy": -t / p,
            "poisson_rate": (1 - t / p) / n,
        }
        right = slopes[point.kernel] if point.fused else point.loss_slope()
        choices: dict[str, tuple[Host, Host | None]] = {"": (right, point.loss_slope() if point.fused else None)}
        choices |= {f"loss {name}": (slope, None) for name, slope in slopes.items() if name != point.kernel}
        if point.kernel.startswith("poisson"):
            choices |= {"loss poisson_as_rate": (d / n, None)}
        # without the target, or without the prediction, the rest of the loss's slope stays as it is
        unit = {"mean_squared_error": 2 / n, "binary_cross_entropy": 1 / n}.get(point.kernel, 1.0)
        choices |= {
            key: (unit * part, unit * part if point.fused else None)
            for key, part in (("prediction", p), ("target", -t))
        }
        choices |= {"half_square": (0.5 * d * d, None)}
        if n == 1 and point.rows > 1 and point.kernel in ("half_squared_error", "mean_squared_error"):
            choices["broadcast"] = (right + (t - t.mean()) * (2 if point.kernel.startswith("mean") else 1), None)
        choices |= {"square": (d * d, None), "unsquashed": (z - t, (z - t) if point.fused else None)}
        if point.squash == "softmax":
            across = activate("softmax", z.T)[0].T
            choices["softmax_over_rows"] = (across - t, across - t)
    if point.squash == "identity":
        del choices["unsquashed"]
    return {key: pair for key, pair in choices.items() if key == "" or np.isfinite(pair[0]).all()}


def row_choices(rows: int) -> dict[str, Host]:
    """Return by key how often each row counts."""
    ones, counts = np.ones(rows), np.arange(rows, 0, -1.0)
    if rows == 1:
        return {"": ones}
    first, last = np.eye(rows)[0], np.eye(rows)[-1]
    return {"": ones, "first_row": first, "last_row": last, "running_sum": counts}


# ---- slopes ----------------------------------------------------------------------------------------------------------


def slopes(point: Point, layer: int) -> dict[str, Host]:
    """Return by key what da is multiplied with, elementwise, (batch, n)."""
    z, a, f = point.z[layer], point.p if layer == point.depth - 1 else point.inputs[layer + 1], point.function(layer)
    right = point.slopes[layer]
    factors: dict[str, Host] = {"": right, "missing": np.ones_like(z)}
    if f in ("relu", "leaky_relu") and (np.abs(z) < 1e-12).any():
        factors["kink"] = np.where(np.abs(z) < 1e-12, 1.0, right)
    with np.errstate(all="ignore"):
        factors |= {"twice": right * right, "divided": 1 / right, "of_activation": activate(f, a)[1]}
        others = (
            ("sigmoid", "tanh")
            if (z > 0).all() or (z <= 0).all() or layer == point.depth - 1
            else ("sigmoid", "tanh", "relu")
        )
        factors |= {f"of_function {g}": activate(g, z)[1] for g in others if g != f}
        formulas: dict[str, Callable[[Host], Host]] = {
            "sigmoid": lambda v: v * (1 - v),
            "tanh": lambda v: 1 - v * v,
            "relu": lambda v: (v > 0) * 1.0,
        }
        factors |= {f"formula {g} of a": formula(a) for g, formula in formulas.items() if g not in (f, "relu")}
        if f in ("sigmoid", "tanh", "softmax"):
            factors |= {f"formula {f} of z": formulas["tanh" if f == "tanh" else "sigmoid"](z)}
        factors |= {"activation": a, "one_minus": 1 - a}
    factors |= {
        f"of_layer {m}": point.slopes[m]
        for m in range(point.depth)
        if m != layer and point.slopes[m].shape == z.shape and point.function(m) != "softmax"
    }
    if f == "identity":
        unlikely = ("missing", "twice", "divided", "of_activation", "activation", "one_minus")
        factors = {key: factor for key, factor in factors.items() if key not in unlikely and not key.startswith("form")}
    return {key: factor for key, factor in factors.items() if np.isfinite(factor).all()}


def softmax_slopes(point: Point) -> dict[str, Callable[[Host], Host]]:
    """Return by key how da goes back through the output's softmax."""
    p = point.p

    def jacobian(da: Host) -> Host:
        back: Host = p * (da - (da * p).sum(axis=-1, keepdims=True))
        return back

    def times(factor: Host) -> Callable[[Host], Host]:
        return lambda da: da * factor

    choices = {"": jacobian, "softmax_diagonal": times(p * (1 - p)), "softmax_p": times(p)}
    choices |= {"twice": lambda da: jacobian(jacobian(da)), "missing": lambda da: da}
    others = ("of_function sigmoid", "of_function tanh", "one_minus")
    return choices | {key: times(factor) for key, factor in slopes(point, point.depth - 1).items() if key in others}


def apply_slopes(
    point: Point, layer: int, da: Host, joint: Host | None, keys: Iterable[str] | None = None
) -> dict[str, Host]:
    """Return delta by the slope's key; `joint` is the right one where loss and slope are one."""
    if layer == point.depth - 1 and point.squash == "softmax":
        choices = softmax_slopes(point)
        deltas = {key: choices[key](da) for key in (choices if keys is None else keys) if key in choices}
    else:
        factors = slopes(point, layer)
        deltas = {key: da * factors[key] for key in (factors if keys is None else keys) if key in factors}
    if joint is not None and "" in deltas:
        deltas[""] = joint
    return {key: delta for key, delta in deltas.items() if np.isfinite(delta).all()}


# ---- from layer to layer ---------------------------------------------------------------------------------------------


class Chain:
    """What a backward pass has computed so far: da and delta of each layer above."""

    def __init__(self, da: Mapping[int, Host] | None = None, delta: Mapping[int, Host] | None = None) -> None:
        self.da, self.delta = dict(da or {}), dict(delta or {})

    def add(self, layer: int, da: Host, delta: Host) -> Chain:
        """Return a longer chain."""
        return Chain({**self.da, layer: da}, {**self.delta, layer: delta})


def passes(point: Point, layer: int, chain: Chain) -> dict[str, Host]:
    """Return by key da of a layer from what is above it, (batch, n)."""
    above, n = layer + 1, point.layers[layer].n_out
    weight, delta, raw = point.weight(above), chain.delta[above], chain.da[above]
    wide = np.ones((1, n))
    choices = {"": delta @ weight.T, "raw": raw @ weight.T, "sum": delta.sum(axis=1, keepdims=True) * wide}
    choices["raw_sum"] = raw.sum(axis=1, keepdims=True) * wide
    if 1 < weight.shape[0] == weight.shape[1]:
        choices |= {"untransposed": delta @ weight, "unweighted": delta}
    for m in range(point.depth):
        other = point.weight(m)
        if m == above:
            continue
        if other.shape == weight.shape:
            choices[f"weight {m}"] = delta @ other.T
        elif other.shape == weight.T.shape:
            choices[f"weight {m}"] = delta @ other
        if m > above:
            if chain.delta[m].shape == delta.shape:
                choices[f"delta {m}"] = chain.delta[m] @ weight.T
            if other.shape[0] == n:
                choices[f"skipped {m}"] = chain.delta[m] @ other.T
    if point.function(above) == "identity":  # slope 1: the same arrays
        choices = {key: da for key, da in choices.items() if not key.startswith("raw")}
    return {key: da for key, da in choices.items() if np.isfinite(da).all()}


def after_update(point: Point, layer: int, chain: Chain, gradient: Host) -> Host:
    """Return how da of a layer changes, per learning rate, if the weight above is updated first."""
    return -(chain.delta[layer + 1] @ gradient.T)


# ---- to the gradients ------------------------------------------------------------------------------------------------


def inputs(point: Point, layer: int) -> dict[str, Host]:
    """Return by key what stands for the layer's input in its weight's gradient, (batch, n_in)."""
    right = point.inputs[layer]
    choices = {"": right, "missing": np.ones_like(right)}
    if layer:
        if point.layers[layer - 1].activation_name != "identity":
            choices |= {"preactivation": point.z[layer - 1], "slope": point.slopes[layer - 1]}
    elif point.layers[0].activation_name not in ("identity", "softmax"):
        choices["activated"] = activate(point.layers[0].activation_name, right)[0]
    for m, other in enumerate(point.inputs):
        if m != layer and other.shape == right.shape:
            choices[f"activation {m}"] = other
    return choices


def bias_inputs(point: Point, layer: int) -> dict[str, tuple[Host, Callable[[Host], Host]]]:
    """Return by key a factor for each row, (batch,), and what then happens to the gradient of each unit, (..., n)."""
    ones, bias = np.ones(point.rows), point.parameters[f"{layer}.bias"]
    choices: dict[str, tuple[Host, Callable[[Host], Host]]] = {
        "": (ones, lambda g: g),
        "times_input": (point.inputs[layer].sum(axis=1), lambda g: g),
    }
    choices["times_bias"] = (ones, lambda g: g * bias)
    if len(bias) > 1:
        choices["over_units"] = (ones, lambda g: g.sum(axis=-1, keepdims=True) * np.ones_like(bias))
    return choices


def scales(point: Point) -> dict[str, float]:
    """Return by key the factors that are forgotten or too many; those that are 1 here are no mistake."""
    rows, n = float(point.rows), float(point.n_out)
    factors = {"sign": -1.0, "twice": 2.0, "half": 0.5, "by_rows": 1 / rows, "times_rows": rows}
    factors |= {"by_outputs": 1 / n, "times_outputs": n}
    return {key: factor for key, factor in factors.items() if factor != 1}


def weight_gradient(x: Host, delta: Host, rows: Host | None) -> Host:
    """Return the sum over rows of the outer products; without rows, the outer product of the rows' means and sums."""
    if rows is None:
        return np.outer(x.mean(axis=0), delta.sum(axis=0))
    return (x * rows[:, None]).T @ delta


# ---- the program -----------------------------------------------------------------------------------------------------


def backprop(point: Point, changes: Iterable[Change] = ()) -> dict[str, Host]:
    """Return the gradients of the reduced loss, by parameter name, under changes.

    Raises
    ------
    KeyError
        A choice that this network does not have.
    """
    chosen: dict[tuple[str, int], list[Change]] = {}
    for change in changes:
        chosen.setdefault((change.site, change.layer), []).append(change)

    def key(site: str, layer: int) -> str:
        return chosen[site, layer][0].key if (site, layer) in chosen else ""

    def scale(site: str, layer: int) -> float:
        factors = scales(point)
        return float(np.prod([factors.get(change.key, 1.0) for change in chosen.get((site, layer), [])]))

    gradients: dict[str, Host] = {}
    chain, top = Chain(), point.depth - 1
    for layer in reversed(range(point.depth)):
        joint = None
        if layer == top:
            weight = (point.factors * row_choices(point.rows).get(key("rows", layer), 1.0))[:, None]
            da, joint = errors(point)[key("error", layer)]
            da, joint = da * weight, None if joint is None else joint * weight
        elif key("pass", layer) == "updated_first":
            rate = chosen["pass", layer][0].value
            da = passes(point, layer, chain)[""] + rate * after_update(
                point, layer, chain, gradients[f"{layer + 1}.weight"]
            )
        else:
            da = passes(point, layer, chain)[key("pass", layer)]
        factor = scale("scale", layer)
        da, joint = factor * da, None if joint is None else factor * joint
        deltas = apply_slopes(point, layer, da, joint)
        chain = chain.add(layer, da, deltas[key("slope", layer)])
        for kind in ("weight", "bias") if point.layers[layer].bias else ("weight",):
            own = key(f"{kind} slope", layer) if (f"{kind} slope", layer) in chosen else key("slope", layer)
            own = "" if own == "right" else own
            delta = chain.delta[int(own[6:])] if own.startswith("delta ") else deltas[own]
            row_key = key(f"{kind} rows", layer)
            rows = None if row_key == "averaged_first" else row_choices(point.rows).get(row_key, np.ones(point.rows))
            if kind == "weight":
                gradient = weight_gradient(inputs(point, layer)[key("weight input", layer)], delta, rows)
            else:
                row_factor, then = bias_inputs(point, layer)[key("bias input", layer)]
                gradient = then((delta * (row_factor * (1.0 if rows is None else rows))[:, None]).sum(axis=0))
            gradient = gradient * scale(f"{kind} scale", layer)
            gradients[f"{layer}.{kind}"] = _afterwards(
                point, gradient, chosen.get((f"{kind} end", layer), []), f"{layer}.{kind}"
            )
    return gradients


def _afterwards(point: Point, gradient: Host, changes: Iterable[Change], parameter: str) -> Host:
    """Return what is left of a gradient that is computed already."""
    for change in changes:
        if change.key == "penalty":
            gradient = gradient + change.value * point.parameters[parameter]
        elif change.key == "absolute_penalty":
            gradient = gradient + change.value * np.sign(point.parameters[parameter])
        elif change.key == "rounded":
            gradient = np.round(gradient, int(change.value))
        elif change.key == "truncated":
            gradient = np.trunc(gradient)
        elif change.key == "zero":
            gradient = np.zeros_like(gradient)
        elif change.key == "transposed":
            gradient = gradient.T
    return gradient
