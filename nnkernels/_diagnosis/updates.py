"""diagnose(update=): the step of gradient descent itself, from the parameters before and after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkernels._data import Host, to_floats, to_numpy
from nnkernels._diagnosis.arrays import read
from nnkernels._diagnosis.diagnosing import report
from nnkernels._diagnosis.factors import backprop
from nnkernels._diagnosis.naming import Measured, name
from nnkernels._diagnosis.point import Point
from nnkernels._diagnosis.report import Finding, Report
from nnkernels._errors import ShapeError

MISTAKES = {
    "climbs": ("The update of {0} goes uphill: the gradient is added.", "{1} += learning_rate * d{1}"),
    "rate_twice": ("The learning rate is applied to {0} twice.", "{1} -= learning_rate * (learning_rate * d{1})"),
    "rate_missing": ("The learning rate is not applied to {0}.", "{1} -= d{1}"),
    "assigned": ("{0} is overwritten by its step, and not incremented.", "{1} = -learning_rate * d{1}"),
    "not_updated": ("{0} is not updated.", ""),
    "one_bias_per_row": (
        "The update gave {0} an axis of rows: each row has a bias of its own now.",
        "{1} = {1} - learning_rate * delta   # delta is not summed over the rows",
    ),
}


def diagnose_update(
    point: Point,
    gradients: Mapping[str, Any] | None,
    update: tuple[Mapping[str, Any], Mapping[str, Any], float],
    eps: float,
) -> Report:
    """Name what is wrong in an update; without gradients, in the gradient it implies, too."""
    before, after, rate = _read(point, update)
    here = point.at(before)
    found = None if gradients is None else _with_rows(here, gradients, eps)
    right = found[0] if found else backprop(here)
    if found is None and any(here.penalty):
        right = {k: g + here.penalty_slope(int(k[0])) if k.endswith("weight") else g for k, g in right.items()}
    findings, status, implied = list[Finding](), dict[str, str](), dict[str, Host]()
    for parameter, new in after.items():
        code = _mistake(before[parameter], new, right[parameter], rate, eps, here.rows)
        status[parameter] = {"": "right", "unexplained": "wrong"}.get(code, "wrong")
        if code == "unexplained":
            implied[parameter] = (before[parameter] - new) / rate
        elif code:
            findings.append(_finding(code, parameter, before[parameter], new, right[parameter]))
    title = f"update with learning rate {rate:g}"
    if found is not None:
        below = found[1]
        findings += [_unexplained(parameter) for parameter in implied]
        return Report(title, [*below.findings, *findings], below.status | status, below.notes)
    if not implied:
        return Report(title, findings, status)
    largest = max(float(np.abs(before[p]).max() / np.abs(implied[p]).max()) for p in implied if implied[p].any()) / rate
    named = report(*_named(here, implied, eps * max(1.0, largest)), functions=False)
    return Report(title, [*findings, *named.findings], named.status | status, named.notes)


def _named(point: Point, implied: dict[str, Host], eps: float) -> tuple[list[Measured], Any]:
    """Name the mistakes in the gradients that an update implies, which have lost the digits of the parameters."""
    measured = [Measured(point, read(point, implied, eps))]
    return measured, name(measured, eps)


def _with_rows(point: Point, gradients: Mapping[str, Any], eps: float) -> tuple[dict[str, Host], Report]:
    targets = read(point, gradients, eps)
    measured = [Measured(point, targets)]
    return {t.parameter: t.views[0].array for t in targets}, report(measured, name(measured, eps), functions=False)


def _read(point: Point, update: Any) -> tuple[dict[str, Host], dict[str, Host], float]:
    try:
        before, after, rate = update
        rate = float(rate)
    except (TypeError, ValueError):
        raise TypeError("update must be (before, after, learning_rate): two dicts of parameters and a number") from None
    if not rate > 0:
        raise ValueError(f"update's learning rate must be positive, not {rate}")
    old, new = dict[str, Host](), dict[str, Host]()
    for parameter in after:
        if parameter not in point.parameters or parameter not in before:
            raise KeyError(
                f"update names {parameter!r}; before and after must both have it, and the network, which has "
                f"{', '.join(point.parameters)}"
            )
        shape = point.parameters[parameter].shape
        old[parameter] = to_floats(before[parameter], np.float64, f'before["{parameter}"]').reshape(-1)
        if old[parameter].size != int(np.prod(shape)):
            raise ShapeError(f'before["{parameter}"] has the shape {np.shape(before[parameter])}, not {shape}')
        old[parameter] = old[parameter].reshape(shape)
        new[parameter] = to_numpy(after[parameter], f'after["{parameter}"]').astype(np.float64)
        if new[parameter].size == old[parameter].size:
            new[parameter] = new[parameter].reshape(shape)
    return old, new, rate


def _mistake(before: Host, after: Host, gradient: Host, rate: float, eps: float, rows: int) -> str:
    """Return what was done in place of before - rate * gradient; "" if that was done."""
    if after.shape != before.shape:
        return "one_bias_per_row" if before.ndim == 1 and after.size == rows * before.size else "unexplained"
    step = rate * gradient
    candidates = {
        "": before - step,
        "not_updated": before,
        "climbs": before + step,
        "rate_twice": before - rate * step,
        "rate_missing": before - gradient,
        "assigned": -step,
    }
    others = {"assigned": [step, gradient, -gradient], "rate_missing": [before + gradient]}
    allowed = 256 * eps * (np.abs(before).max() + np.abs(after).max())
    for code, result in candidates.items():
        if any(np.abs(after - r).max() <= allowed for r in [result, *others.get(code, [])]):
            return code
    return "unexplained"


def _finding(code: str, parameter: str, before: Host, after: Host, gradient: Host) -> Finding:
    message, wrong = MISTAKES[code]
    layer, _, kind = parameter.partition(".")
    symbol = f"{'W' if kind == 'weight' else 'b'}{layer}"
    if after.shape == before.shape:
        moved, largest = np.abs(after - before).max(), np.abs(gradient).max()
        evidence = f"it moved by {moved:.3g}; the gradient's largest element is {largest:.3g}"
    else:
        evidence = f"its shape was {before.shape} and is {after.shape}"
    right = f"{symbol} -= learning_rate * d{symbol}" + (
        f"   # d{symbol} = delta{layer}.sum(axis=0)" if kind == "bias" else ""
    )
    return Finding(
        code, parameter, message.format(parameter, symbol), evidence, right, wrong.format(parameter, symbol), right
    )


def _unexplained(parameter: str) -> Finding:
    return Finding(
        "update_unexplained",
        parameter,
        f"The update of {parameter} is not learning_rate times your gradient, nor a known mistake of it.",
        "neither uphill, nor twice the rate, nor none, nor assigned",
        "Update every parameter once, after all gradients are computed: W -= learning_rate * dW",
    )
