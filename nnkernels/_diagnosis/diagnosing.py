"""diagnose: from what the user gives to a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels._data import Host
from nnkernels._diagnosis.arrays import EPS32, EPS64, Target, read
from nnkernels._diagnosis.factors import Change, backprop
from nnkernels._diagnosis.naming import Changes, Measured, Named, name
from nnkernels._diagnosis.point import Point
from nnkernels._diagnosis.report import Finding, Report
from nnkernels._diagnosis.wording import Formulas, words
from nnkernels._errors import DataError
from nnkernels._layers import chain

if TYPE_CHECKING:
    from nnkernels._losses import Loss
    from nnkernels._network import Sequential

MORE_POINTS = 3  #: at which a function is evaluated, beside the given one

Gradient = Callable[[dict[str, Host], Any, Any], Mapping[str, Any]]


def make_point(
    network: Sequential, x: Any, y: Any, loss: str | Loss, sample_weight: Any, penalty: tuple[float, float] = (0.0, 0.0)
) -> Point:
    """Check everything and return the network's point in float64."""
    from nnkernels._network import Sequential
    from nnkernels._training import Problem

    if not isinstance(network, Sequential):
        raise TypeError(f"network must be a nnkernels.Sequential that holds your weights, not {type(network).__name__}")
    double = Sequential(*network.layers, device="numpy", dtype="float64", rng=0)
    double.parameters.update(network.parameters.to_host())
    problem = Problem.check(double, x, y, loss, sample_weight)
    point = Point(network.layers, double.parameters.to_host(), problem.x, problem.t, problem.loss, problem.factors())
    point.penalty = penalty
    return point


def diagnose_arrays(point: Point, gradients: Mapping[str, Any], eps: float) -> Report:
    """Name the mistakes in arrays."""
    measured = Measured(point, read(point, gradients, eps))
    return report([measured], name([measured], eps), functions=False)


def diagnose_function(
    network: Sequential, point: Point, gradient: Gradient, x: Any, y: Any, eps: float, rng: Any
) -> Report:
    """Name the mistakes in a function, from its values at several points."""
    generator, rows = np.random.default_rng(rng), np.arange(point.rows)
    points = [Measured(point, read(point, _call(gradient, point, x, y), eps))]
    points += [_elsewhere(point, gradient, x, y, eps, generator, rows) for _ in range(MORE_POINTS)]
    named = name(points, eps)
    if len(named.explanations) > 1 and np.ptp(point.factors) == 0:
        # 2 or the number of rows? Other numbers of rows tell, some rows being taken twice
        more = [np.append(rows, generator.integers(0, point.rows, count)) for count in (1, 2)]
        points += [_elsewhere(point, gradient, x, y, eps, generator, taken) for taken in more]
        again = name(points, eps)
        named = again if again.explanations and not again.unexplained else named
    return report(points, named, functions=True)


def _elsewhere(
    point: Point, gradient: Gradient, x: Any, y: Any, eps: float, rng: np.random.Generator, rows: Host
) -> Measured:
    """Evaluate a function at random parameters near the given ones, on some of the rows."""
    parameters = {
        key: value + rng.normal(0, 0.3 * (np.sqrt((value**2).mean()) + 0.1), value.shape)
        for key, value in point.parameters.items()
    }
    share = point.factors[rows] * (point.rows / len(rows) if point.loss.reduction == "mean" else 1)
    other = Point(point.layers, parameters, point.x[rows], point.t[rows], point.loss, share)
    other.penalty = point.penalty
    return Measured(other, read(other, _call(gradient, other, np.asarray(x)[rows], np.asarray(y)[rows]), eps))


def _call(gradient: Gradient, point: Point, x: Any, y: Any) -> Mapping[str, Any]:
    copies = {key: value.copy() for key, value in point.parameters.items()}
    try:
        gradients = gradient(copies, np.array(x), np.array(y))
    except Exception as error:
        raise DataError(
            f"gradient(parameters, x, y) raised {type(error).__name__}: {error}. It is called with a dict of the "
            f"network's parameters ({', '.join(point.parameters)}) and with the rows of x and y."
        ) from error
    if not isinstance(gradients, Mapping):
        raise TypeError(f"gradient must return a dict of gradients by parameter name, not {type(gradients).__name__}")
    return gradients


# ---- the report ------------------------------------------------------------------------------------------------------


def report(points: list[Measured], named: Named, *, functions: bool) -> Report:
    """Return what was named as a report."""
    point, targets = points[0]
    title = f"gradients of {chain(point.layers)}, {type(point.loss).__name__}"
    by_name = {target.parameter: target for target in targets}
    findings, notes = list[Finding](), list[str]()
    status = dict.fromkeys(point.parameters, "not given")
    status |= dict.fromkeys(by_name, "right")
    proved = len(named.explanations) == 1 and named.rival is None
    if proved:
        findings += explanation(points[0], named, named.explanations[0])
    elif named.explanations:
        findings.append(_tied(points[0], named, functions))
    for parameter, target in by_name.items():
        if parameter in named.unexplained:
            status[parameter] = "wrong, unexplained"
            findings.append(_unexplained(point, target))
        elif parameter not in named.right:
            status[parameter] = "wrong" if proved else "wrong, explained in several ways"
    if named.eps > max(EPS64, *(t.eps for t in targets)) and not named.explanations:
        notes.append(
            "The gradients agree to some 5 digits, not to the last: float32 somewhere inside, finite differences, or a "
            "small constant as in log(p + 1e-8). No derivative is wrong."
        )
    if named.layout == "transposed" and any(t.kind == "weight" and len(t.views) > 1 for t in targets):
        notes.append("Weights were read as (n_out, n_in), transposed: that is a convention and no mistake.")
    notes += _saturation(point)
    pictures = _Pictures(point, [t for t in targets if not status[t.parameter].startswith("right")])
    return Report(title, findings, status, notes, pictures)


def explanation(measured: Measured, named: Named, group: list[Changes]) -> list[Finding]:
    """Return a proved program as findings, one for each change."""
    point, changes = measured.point, _merged(group[0])
    others = [_merged(other) for other in group[1:]]
    evidence = _evidence(measured, group[0], named)
    findings = []
    for number, change in enumerate(changes):
        said = words(point, change)
        also = _also(point, change, changes, others)
        if number == 0 and others and not any(len(_keys(other) - _keys(changes)) == 1 for other in others):
            also += tuple(_named_words(point, c) for c in others[0] if _key(c) not in _keys(changes))
        parameter = change.parameter or f"{change.layer}.weight"
        fix = (
            said.right
            if change.site.partition(" ")[0] != "pass" or change.key != "updated_first"
            else (f"{said.right}   # before W{change.layer + 1} -= learning_rate * dW{change.layer + 1}")
        )
        findings.append(Finding(said.code, parameter, said.message, evidence, fix, said.wrong, said.right, also))
    return findings


def _also(point: Point, change: Change, changes: Changes, others: list[Changes]) -> tuple[str, ...]:
    """Return other names of a change: of the same program, with only this change said differently."""
    same_size = [other for other in others if len(other) == len(changes)]
    swapped = [o for o in same_size if _keys(changes) - _keys(o) == {_key(change)}]
    names = [_named_words(point, next(c for c in other if _key(c) not in _keys(changes))) for other in swapped]
    own = words(point, change).code
    return tuple(dict.fromkeys(name for name in names if not name.startswith(f"{own}:")))


def _key(change: Change) -> tuple[str, int, str]:
    """A change without its number."""
    return change[:3]


def _keys(changes: Changes) -> set[tuple[str, int, str]]:
    return {_key(change) for change in changes}


def _named_words(point: Point, change: Change) -> str:
    said = words(point, change)
    return f"{said.code}: {said.message}"


def _merged(changes: Changes) -> Changes:
    """Put the changes from the output down, and the same penalty on several weights once."""
    ordered = sorted(changes, key=lambda c: (-c.layer, c.parameter is not None, c))
    kept: list[Change] = []
    for change in ordered:
        same = (c for c in kept if c.key == change.key and c.site == change.site and change.key.endswith("penalty"))
        if not any(abs(c.value - change.value) <= 1e-5 * abs(c.value) for c in same):
            kept.append(change)
    return tuple(kept)


def _evidence(measured: Measured, changes: Changes, named: Named) -> str:
    point = measured.point
    wrong = backprop(point, [c for c in changes if c.key not in ("transposed", "unsummed")])
    right = backprop(point)
    off, missed = 0.0, 0.0
    for target in measured.targets:
        if target.parameter in named.right or target.parameter in named.unexplained:
            continue
        view = min((v.array for v in target.views), key=lambda a: float(np.abs(a - wrong[target.parameter]).max()))
        size = max(float(np.abs(view).max()), float(np.abs(right[target.parameter]).max())) or 1.0
        off = max(off, float(np.abs(view - wrong[target.parameter]).max()) / size)
        missed = max(missed, float(np.abs(view - right[target.parameter]).max()) / size)
    missing = f"{missed:.0%}" if missed > 0.01 else f"{missed:.1e}"
    hit = f"to {off:.0e} of the largest" if off else "to the last bit"
    return f"the wrong formula gives your numbers {hit}; the right one misses them by {missing}"


def _tied(measured: Measured, named: Named, functions: bool) -> Finding:
    alternatives = [tuple(explanation(measured, named, group)) for group in named.explanations]
    if named.rival is not None:
        alternatives.append(tuple(explanation(measured, named, [named.rival])) if named.rival else ())
    several = [some or (_nothing(),) for some in alternatives]
    remedy = (
        "These points do not tell them apart; compare each with your code."
        if functions
        else (
            "Give more to tell them apart: another number of rows, other random parameters, or the function itself, "
            "diagnose(..., gradient=your_function), which is then evaluated at several points."
        )
    )
    wrong = [t.parameter for t in measured.targets if t.parameter not in named.right]
    return Finding(
        "tied",
        wrong[0] if wrong else None,
        "The gradients are wrong, and at these numbers several explanations cannot be told apart; none is proved.",
        f"{len(several)} different explanations come as near to your numbers",
        remedy,
        alternatives=tuple(several),
    )


def _nothing() -> Finding:
    return Finding("right", None, "No mistake: the right gradients come as near.", "", "")


def _unexplained(point: Point, target: Target) -> Finding:
    right = backprop(point)[target.parameter]
    view = min((v.array for v in target.views), key=lambda a: float(np.abs(a - right).max()))
    return Finding(
        "unexplained",
        target.parameter,
        f"The gradient of {target.parameter} is wrong, and no known mistake, nor two of them, gives these numbers.",
        "; ".join(_facts(view, right)),
        "Compare it with the right formula, factor by factor, on one row.",
        right=f"{Formulas(point).delta(target.layer)}; {Formulas(point).gradient(target.layer, target.kind)}",
    )


def _facts(array: Host, right: Host) -> list[str]:
    """Return what can be said about a wrong gradient."""
    size = float(np.abs(right).max())
    facts = [f"largest element {np.abs(array).max():.3g}, where the right one has {size:.3g}"]
    usable = np.abs(right) > 1e-9 * size
    if not size or not usable.any():
        return facts
    ratio = np.where(usable, array / np.where(usable, right, 1), np.nan)
    if np.nanmax(ratio) - np.nanmin(ratio) <= 1e-6 * np.nanmax(np.abs(ratio)):
        return [*facts, f"the ratio to the right one is {np.nanmean(ratio):.6g} everywhere"]
    for axis, which in ((1, "input"), (0, "unit")):
        if ratio.ndim == 2 and usable.all() and ratio.shape[axis] > 1:
            spread = np.ptp(ratio, axis=axis)
            if (spread <= 1e-6 * np.abs(ratio).max(axis=axis)).all():
                values = ", ".join(f"{v:.4g}" for v in ratio.take(0, axis)[:6])
                facts.append(f"the ratio to the right one is the same for each {which}: {values}")
    if right.size > 2 and array.std() > 0 and right.std() > 0:
        facts.append(f"correlation with the right one {np.corrcoef(array.ravel(), right.ravel())[0, 1]:.3f}")
    return facts


def _saturation(point: Point) -> list[str]:
    """Note where a (1 - a) is zero and the slope is not: a matter of health, not of derivatives."""
    notes = []
    for layer in range(point.depth):
        if point.function(layer) in ("sigmoid", "tanh"):
            a = point.p if layer == point.depth - 1 else point.inputs[layer + 1]
            naive = a * (1 - a) if point.function(layer) == "sigmoid" else 1 - a * a
            lost = float(((naive == 0) & (point.slopes[layer] > 0)).mean())
            if lost:
                notes.append(
                    f"In {lost:.0%} of layer {layer}'s activations the formula in a is exactly 0 where the slope is "
                    "only tiny: the unit is saturated, which nnkernels.health looks into. No derivative is wrong."
                )
    return notes


class _Pictures:
    """Draws when asked; what it needs is kept."""

    def __init__(self, point: Point, wrong: list[Target]) -> None:
        self.point, self.wrong = point, wrong

    def __call__(self) -> list[Any]:
        from nnkernels._diagnosis.pictures import activations, flow, ratios

        right = backprop(self.point)
        drawn = [("Activations by layer", activations(self.point)), ("Gradient flow by layer", flow(self.point))]
        return drawn + [
            (f"Your gradient of {t.parameter}, divided by the right one", ratios(t.views[0].array, right[t.parameter]))
            for t in self.wrong
        ]


def precision(network: Sequential) -> float:
    """Return the relative precision of a network's numbers."""
    return EPS32 if network.dtype == "float32" else EPS64


def diagnose(
    network: Sequential,
    x: Any,
    y: Any,
    *,
    loss: str | Loss,
    gradients: Mapping[str, Any] | None,
    gradient: Gradient | None,
    update: tuple[Mapping[str, Any], Mapping[str, Any], float] | None,
    sample_weight: Any,
    penalty: tuple[float, float],
    rng: Any,
) -> Report:
    """Name what is wrong; see `nnkernels.diagnose`."""
    if (gradients is None) == (gradient is None) and (update is None or gradients is not None):
        raise TypeError("give gradients= (arrays by parameter name) or gradient= (a function), or update=; one of them")
    point, eps = make_point(network, x, y, loss, sample_weight, penalty), precision(network)
    if update is not None:
        from nnkernels._diagnosis.updates import diagnose_update

        return diagnose_update(point, gradients, update, eps)
    if gradients is not None:
        return diagnose_arrays(point, gradients, eps)
    if not callable(gradient):
        raise TypeError(f"gradient must be a function of (parameters, x, y), not {type(gradient).__name__}")
    return diagnose_function(network, point, gradient, x, y, eps, rng)
