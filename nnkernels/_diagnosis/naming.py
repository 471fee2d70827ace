"""Which mistakes are proved: the search at one point, held against the other points and against its own rivals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from nnkernels._data import Host
from nnkernels._diagnosis.arrays import EPS32, EPS64, UNSUMMED, Target, layout
from nnkernels._diagnosis.factors import Change, backprop, scales
from nnkernels._diagnosis.matching import CAPS, NEAR, Scales, nothing
from nnkernels._diagnosis.point import Point, random_point
from nnkernels._diagnosis.search import Search, State

ROUNDINGS = {EPS32: 128, EPS64: 4096}  #: how many roundings of each of its terms a gradient may be off
FEW = 3  #: elements that are evidence of something
ROWS_OF_RANDOM_POINTS = (5, 7, 11)
LAYOUTS = ("straight", "transposed")

Changes = tuple[Change, ...]


class Measured(NamedTuple):
    """The user's gradients at one point."""

    point: Point
    targets: list[Target]


class Named(NamedTuple):
    """What could be told.

    Attributes
    ----------
    right : tuple of str
        Gradients that are right.
    explanations : list of list of tuple of Change
        Explanations that give the user's numbers; those in one inner list are the same program. One inner list is a
        proof, several are a tie.
    unexplained : tuple of str
        Gradients that no explanation gives.
    rival : tuple of Change or None
        An explanation that comes too near for a proof.
    layout : str
        "straight" or "transposed": how the user's weights lie.
    eps : float
        The precision at which the numbers were compared.
    distance : float
        The largest misfit of the explanation, in units of what rounding may do.
    """

    right: tuple[str, ...]
    explanations: list[list[Changes]]
    unexplained: tuple[str, ...]
    rival: Changes | None
    layout: str
    eps: float
    distance: float


def name(points: Sequence[Measured], eps: float) -> Named:
    """Name the mistakes in gradients that were measured at one or more points."""
    with np.errstate(all="ignore"):  # choices that overflow here are not finite, and left out
        return _best_of_conventions(points, eps)


def _best_of_conventions(points: Sequence[Measured], eps: float) -> Named:
    own = max(eps, *(target.eps for measured in points for target in measured.targets))
    conventions = _conventions(points[0].targets)
    best: Named | None = None
    for precision in sorted({own, EPS32}):
        for convention in conventions:
            named = _name(points, precision, convention)
            if not named.explanations and not named.unexplained:
                return named
            if best is None or _rank(named) < _rank(best):
                best = named
        assert best is not None
        if not best.unexplained:
            break
    assert best is not None
    return best


def _rank(named: Named) -> tuple[int, int]:
    cost = min((len(changes) for group in named.explanations for changes in group), default=0)
    return len(named.unexplained), cost


def _conventions(targets: list[Target]) -> tuple[str, ...]:
    """Return how weights may lie: as their shapes tell, or, where all are square, one way or the other."""
    told = layout(targets)
    return LAYOUTS if told is None else (told,)


def _in_convention(targets: Iterable[Target], convention: str) -> list[Target]:
    """Mark the layouts that would be mistakes: the other one, where the shape does not tell."""
    marked = []
    for target in targets:
        views = target.views
        if len({view.layout for view in views}) > 1:
            other = next(name for name in LAYOUTS if name != convention)
            views = tuple(v._replace(mistake="transposed") if v.layout == other else v for v in views)
        marked.append(target._replace(views=views))
    return marked


def _name(points: Sequence[Measured], eps: float, convention: str) -> Named:
    points = [Measured(m.point, _in_convention(m.targets, convention)) for m in points]
    tolerances = [tolerance(m.point, eps) for m in points]
    names = [target.parameter for target in points[0].targets]
    right = _right(points, tolerances)
    if len(right) == len(names):
        return Named(tuple(names), [], (), None, convention, eps, 0.0)
    first = next(i for i, m in enumerate(points) if len(_right([m], [tolerances[i]])) < len(names))
    point, right_here = points[first].point, backprop(points[first].point)
    targets = [_without_noise(t, right_here[t.parameter]) for t in points[first].targets]
    states = Search(point, targets, tolerances[first], eps).run()
    explained = [s for s in states if not s.near and any(d <= 1 for d in s.distances.values())]
    best = min((s.rank for s in explained), default=(len(names), 0))
    exact = [s for s in explained if s.rank == best]
    done = {p for s in exact for p, d in s.distances.items() if d <= 1}
    if done < set(names):  # where something stays unexplained, a number or two are no evidence
        done -= {t.parameter for t in targets if t.parameter not in right and right_here[t.parameter].size < FEW}
    allowed = [{p: t[p] for p in right} for t in tolerances]
    programs = {_needed(points[first], c, done, eps, allowed[first]) for c in _expand(point, exact)} - {()}
    programs = {c for c in programs if all(_gives(m, c, eps, done, a) for m, a in zip(points, allowed, strict=True))}
    unexplained = tuple(p for p in names if p not in done and p not in right)
    if not programs:
        return Named(right, [], tuple(p for p in names if p not in right), None, convention, eps, np.inf)
    groups = _group(point, names, sorted(programs, key=_preference))
    distance = min((max(d for d in s.distances.values() if d <= 1) for s in exact), default=np.inf)
    rival = _rival(states, exact, best, distance, eps) if len(points) == 1 else None
    return Named(right, groups, unexplained, rival, convention, eps, distance)


def _without_noise(target: Target, right: Host) -> Target:
    """Return a target as zeros if it is nothing but rounding."""
    if target.size > nothing(right, target.eps):
        return target
    return target._replace(views=tuple(view._replace(array=np.zeros_like(view.array)) for view in target.views))


def _needed(
    measured: Measured, changes: Changes, parameters: set[str], eps: float, allowed: Mapping[str, Host]
) -> Changes:
    """Leave out what these gradients do not need, and what concerns none of them."""
    kept = tuple(c for c in changes if c.parameter is None or c.parameter in parameters)
    for change in kept:
        fewer = tuple(c for c in kept if c != change)
        if _gives(measured, fewer, eps, parameters, allowed):
            kept = fewer
    return kept


def tolerance(point: Point, eps: float) -> dict[str, Host]:
    """Return what rounding may do to each gradient, elementwise: of its terms, and of its largest element."""
    right, unit = backprop(point), eps * ROUNDINGS.get(eps, 128)
    return {
        name: unit * np.maximum(size, np.abs(right[name]).max(initial=0)) + 1e-300
        for name, size in point.noise().items()
        if name in right
    }


def _right(points: Sequence[Measured], tolerances: Sequence[dict[str, Host]]) -> tuple[str, ...]:
    """Return the parameters whose gradient is right at every point."""
    right = {target.parameter for target in points[0].targets}
    for measured, allowed in zip(points, tolerances, strict=True):
        for kinked in (False, True):
            gradients = backprop(measured.point, _kinks(measured.point) if kinked else ())
            found = {t.parameter for t in measured.targets if _is(t, gradients[t.parameter], allowed[t.parameter])}
            if not kinked:
                here = found
            else:
                here |= found
        right &= here
    return tuple(target.parameter for target in points[0].targets if target.parameter in right)


def _kinks(point: Point) -> Changes:
    """Take the other side's slope at every kink."""
    from nnkernels._diagnosis.factors import slopes

    return tuple(Change("slope", layer, "kink") for layer in range(point.depth) if "kink" in slopes(point, layer))


def _is(target: Target, gradient: Host, allowed: Host) -> bool:
    return any((np.abs(v.array - gradient) <= allowed).all() for v in target.views if not v.mistake)


def _gives(
    measured: Measured,
    changes: Changes,
    eps: float,
    parameters: Iterable[str],
    allowed: Mapping[str, Host] | None = None,
) -> bool:
    """Tell whether an explanation gives the user's numbers: tightly, or, where they are right, as `allowed`."""
    right, marks = backprop(measured.point), {(c.layer, c.key) for c in changes}
    gradients = _without_layout(measured.point, changes)
    for target in measured.targets:
        if target.parameter in parameters:
            gradient = gradients[target.parameter]
            limit = CAPS[eps < EPS32] * np.abs(gradient).max() + nothing(right[target.parameter], target.eps)
            limit = np.maximum(limit, (allowed or {}).get(target.parameter, 0.0))
            views = [v for v in target.views if not v.mistake or (target.layer, v.mistake) in marks]
            if not any((np.abs(view.array - gradient) <= limit).all() for view in views):
                return False
    return True


def _without_layout(point: Point, changes: Changes) -> dict[str, Host]:
    return backprop(point, [c for c in changes if c.key not in ("transposed", UNSUMMED)])


def _expand(point: Point, states: Iterable[State]) -> list[Changes]:
    """Write out each explanation with every name that its scales have here: 2 is also the number of two rows."""
    known, factors = Scales(point), scales(point)
    programs = set()
    for state in states:
        rest = [c for c in state.changes if not c.site.endswith("scale")]
        places = sorted({(c.site, c.layer) for c in state.changes if c.site.endswith("scale")})
        options = []
        for site, layer in places:
            value = float(np.prod([factors[c.key] for c in state.changes if (c.site, c.layer) == (site, layer)]))
            options.append([tuple(Change(site, layer, key) for key in keys) for keys in known.keys(value)])
        for combination in product(*options):
            programs.add(tuple(sorted([*rest, *(c for part in combination for c in part)])))
    return sorted((p for p in programs if not any(set(other) < set(p) for other in programs)), key=_preference)[:60]


def _preference(changes: Changes) -> tuple[int, int, int, Changes]:
    """Shared factors first: one mistake is likelier than the same one in each gradient; then the simplest name."""
    elsewhere = sum(change.site == "error" for change in changes)
    return len(changes), sum(change.parameter is not None for change in changes), elsewhere, changes


def _group(point: Point, names: Sequence[str], programs: Iterable[Changes]) -> list[list[Changes]]:
    """Put together what is equal to rounding on three random networks."""
    rng = np.random.default_rng(1)
    others = [random_point(point, rng, rows) for rows in ROWS_OF_RANDOM_POINTS]
    groups: list[tuple[Host | None, frozenset[str], list[Changes]]] = []
    for changes in programs:
        seen = _signature(others, names, changes)
        marks = frozenset(f"{c.layer}{c.key}" for c in changes if c.key in ("transposed", UNSUMMED))
        for known, known_marks, group in groups:
            if seen is None or known is None or marks != known_marks:
                continue
            if np.abs(seen - known).max() <= 1e-9:
                group.append(changes)
                break
        else:
            groups.append((seen, marks, [changes]))
    return [group for _, _, group in groups]


def _signature(points: Iterable[Point], names: Sequence[str], changes: Changes) -> Host | None:
    """Return all gradients on random networks in one array, each relative to its largest element."""
    parts = []
    for point in points:
        try:
            gradients = _without_layout(point, changes)
        except KeyError:  # a choice that only the user's own numbers have, such as a finite division
            return None
        right = backprop(point)
        parts += [(gradients[name] / np.maximum(np.abs(right[name]).max(), 1e-300)).ravel() for name in names]
    return np.concatenate(parts)


def _rival(
    states: list[State], exact: list[State], best: tuple[int, int], distance: float, eps: float
) -> Changes | None:
    """Return an explanation with as few mistakes that does not give the user's numbers, and nearly does."""
    reach = NEAR * max(distance, 4 / ROUNDINGS.get(eps, 128))
    for state in states:
        if state.near and state.rank <= best and max(d for d in state.distances.values() if d < np.inf) <= reach:
            return state.changes
    return None
