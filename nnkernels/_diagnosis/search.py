"""From the output to the input: which changes of the right backward pass give the user's numbers?

A layer at a time, the search keeps every partial explanation whose gradients match so far. At a layer whose gradients
are given, few survive; so the number of mistakes is bounded between two such layers, `BUDGET`, and not over all.
Candidates are told apart by fingerprints: a gradient sum_b x_b delta_b^T, seen through a few random vectors u and v, is
sum_b (x_b u)(delta_b v), which costs a multiplication a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement, product
from typing import NamedTuple

import numpy as np

from nnkernels._data import Host
from nnkernels._diagnosis.arrays import Target, View
from nnkernels._diagnosis.factors import (
    FREE,
    Chain,
    Change,
    after_update,
    apply_slopes,
    bias_inputs,
    errors,
    inputs,
    passes,
    row_choices,
    scales,
    weight_gradient,
)
from nnkernels._diagnosis.point import Point

BUDGET = 2  #: mistakes on the way to one gradient, since the last layer whose gradients are given
NEAR = 1000.0  #: how much closer than any other an explanation must be
CLOSEST = 2e-3  #: relative to the largest element, beyond which nothing is near
MOST_RATE = 1e4  #: of a learning rate
KEPT = 60  #: partial explanations
UNEXPLAINED = 100  #: costs more than any explanation
PROBES = 4


class State(NamedTuple):
    """A partial explanation: its changes, how far its gradients are from the user's, and where it got."""

    changes: tuple[Change, ...]
    cost: int
    pending: int
    chain: Chain
    distances: dict[str, float]
    rate: float | None = None  # of weights that were updated first
    penalty: float | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Unexplained gradients count first, then mistakes."""
        return sum(d == np.inf for d in self.distances.values()), self.cost

    @property
    def near(self) -> bool:
        """Whether a gradient only comes near the user's: no explanation, but maybe another one's rival."""
        return any(1 < d < np.inf for d in self.distances.values())


class Candidate(NamedTuple):
    """A da of one layer, before its slope and scale."""

    changes: tuple[Change, ...]
    cost: int
    da: Host
    joint: Host | None
    state: State


class Hit(NamedTuple):
    """A gradient that matches a target: by slope, input, rows, and the scale from da to it."""

    slope: str
    input: str
    rows: str
    scale: float
    view: View
    distance: float
    extra: tuple[Change, ...] = ()

    def cost(self, chain_slope: str) -> int:
        """Mistakes of its own, beside the scale's."""
        own = self.slope != chain_slope and not (self.slope in FREE and chain_slope in FREE)
        return own + (self.input != "") + (self.rows != "") + bool(self.view.mistake) + len(self.extra)


class Scales:
    """Products of at most two scales, by value."""

    def __init__(self, point: Point) -> None:
        single = scales(point)
        self.names: dict[float, list[tuple[str, ...]]] = {1.0: [()]}
        for key, value in single.items():
            self._add(value, (key,))
        for (first, a), (second, b) in combinations_with_replacement(single.items(), 2):
            if abs(a * b - 1) > 1e-12:
                self._add(a * b, (first, second))
        self.values = np.array(list(self.names))
        self._known: dict[float, list[tuple[str, ...]]] = {}

    def _add(self, value: float, keys: tuple[str, ...]) -> None:
        same = next((known for known in self.names if abs(known / value - 1) < 1e-12), value)
        known = self.names.setdefault(same, [])
        if not known or len(known[0]) == len(keys):
            known.append(keys)

    def keys(self, value: float) -> list[tuple[str, ...]]:
        """Return the shortest products that give a value."""
        if value not in self._known:
            self._known[value] = next((keys for known, keys in self.names.items() if abs(known / value - 1) < 1e-9), [])
        return self._known[value]

    def cost(self, value: float) -> int:
        """Return the number of factors in a value; more than any budget if there are none."""
        keys = self.keys(value)
        return len(keys[0]) if keys else UNEXPLAINED


class Search:
    """The search at one point.

    Parameters
    ----------
    point : Point
        The network, its parameters and data.
    targets : list of Target
        The user's gradients.
    tolerance : dict of str to ndarray
        What rounding may do to each gradient, elementwise.
    eps : float
        The precision of the user's numbers.
    """

    def __init__(self, point: Point, targets: list[Target], tolerance: dict[str, Host], eps: float) -> None:
        self.point, self.targets, self.tolerance, self.eps = point, targets, tolerance, eps
        self.scales = Scales(point)
        self.rows = row_choices(point.rows)
        rng = np.random.default_rng(0)
        self.probes = {t.parameter: self._probe(rng, t) for t in targets}
        self.top = point.depth - 1
        self.inputs = [inputs(point, layer) for layer in range(point.depth)]
        self.bounds = {t.parameter: self._bound(self._digits(t)) for t in targets}

    def _probe(self, rng: np.random.Generator, target: Target) -> tuple[Host, Host]:
        shape = self.point.parameters[target.parameter].shape
        return rng.normal(size=(shape[0], PROBES)), rng.normal(size=(shape[-1], PROBES))

    def _digits(self, target: Target) -> float:
        """Return how many digits of the user's numbers an explanation has to hit."""
        array = target.views[0].array
        return float(-np.log10(self._relative(target, array)) * array.size) if array.any() else 0.0

    @staticmethod
    def _bound(digits: float) -> int:
        """Return how many mistakes so many digits can prove: each has some 300 choices, which one in 300 hits by chance."""
        return int((digits - 1.5) / 2.5)

    def run(self) -> list[State]:
        """Return complete explanations, the best first."""
        states = self._run(State((), 0, 0, Chain(), {}))
        best = next((state for state in states if not state.near), None)
        if best is not None and best.penalty is not None and best.rank[0]:
            # gradients of a few elements cannot tell a penalty's strength; the others have
            states = self._run(State((), 0, 0, Chain(), {}, penalty=best.penalty))
        return states

    def _run(self, start: State) -> list[State]:
        states = [start]
        for layer in reversed(range(self.point.depth)):
            given = [target for target in self.targets if target.layer == layer]
            if not given and not any(target.layer < layer for target in self.targets):
                break
            grown = [
                new
                for state in states
                for candidate in self._candidates(state, layer, given)
                for new in (self._observed if given else self._unobserved)(candidate, layer, given)
            ]
            states = self._best(grown) if given else grown
        return states

    @staticmethod
    def _best(states: list[State]) -> list[State]:
        """Return the states worth keeping, the best first; a worse one may yet be the only one that goes on."""
        states = sorted(states, key=lambda state: (state.rank, sum(state.distances.values())))
        kept: list[State] = []
        for near, most in ((False, KEPT), (True, KEPT // 4)):
            some = [state for state in states if state.near == near]
            if some:
                unexplained, cost = some[0].rank
                kept += [s for s in some if s.rank[0] <= unexplained + 1 and s.rank[1] <= cost + BUDGET][:most]
        return kept

    # ---- one layer ---------------------------------------------------------------------------------------------------

    def _candidates(self, state: State, layer: int, given: list[Target]) -> Iterator[Candidate]:
        budget = BUDGET - state.pending
        if layer == self.top:
            weight = self.point.factors[:, None]
            for (error, (da, joint)), (rows, share) in product(errors(self.point).items(), self.rows.items()):
                cost = (error != "") + (rows != "")
                changes = _changes(("error", error), ("rows", rows), layer=layer)
                factor = weight * share[:, None]
                yield Candidate(changes, cost, da * factor, None if joint is None else joint * factor, state)
            return
        for key, da in passes(self.point, layer, state.chain).items():
            if (key != "") <= budget:
                yield Candidate(_changes(("pass", key), layer=layer), int(key != ""), da, None, state)
        if given and f"{layer + 1}.weight" in self.probes:
            yield from self._updated_first(state, layer, given)

    def _updated_first(self, state: State, layer: int, given: list[Target]) -> Iterator[Candidate]:
        """Try the weight above as it is after its own update, with the learning rate that fits best."""
        above = next(t for t in self.targets if t.parameter == f"{layer + 1}.weight")
        da = passes(self.point, layer, state.chain)[""]
        change = after_update(self.point, layer, state.chain, above.views[0].array)
        rates = (
            [state.rate] if state.rate is not None else self._rates(da, change, layer, given, simple=state.cost == 0)
        )
        for rate in rates:
            cost = int(state.rate is None)
            if rate and cost <= BUDGET - state.pending:
                changes = (Change("pass", layer, "updated_first", rate),)
                yield Candidate(changes, cost, da + rate * change, None, state._replace(rate=rate))

    def _rates(self, da: Host, change: Host, layer: int, given: list[Target], *, simple: bool) -> list[float]:
        keys = None if simple else [""]
        bases, slopes = (apply_slopes(self.point, layer, part, None, keys) for part in (da, change))
        fitted: list[float] = []
        for target, key in product(given, bases):
            base, slope = self._gradient(target, bases[key]), self._gradient(target, slopes[key])
            if (base * slope).sum() ** 2 >= (1 - 1e-6) * (base**2).sum() * (slope**2).sum():
                continue  # in one direction: a rate would explain any factor
            for view in target.views:
                rate = _fit(view.array - base, slope) if view.array.any() else None
                if (
                    rate is None
                    or abs(rate) > MOST_RATE
                    or any(abs(rate - known) <= 1e-6 * abs(known) for known in fitted)
                ):
                    continue
                if np.abs(view.array - base - rate * slope).max() <= self._allowed(target, base).max():
                    fitted.append(rate)
        return fitted

    def _gradient(self, target: Target, delta: Host, input_key: str = "", rows: str = "") -> Host:
        """Return the gradient of a target from its delta."""
        share = None if rows == "averaged_first" else self.rows[rows]
        if target.kind == "weight":
            return weight_gradient(self.inputs[target.layer][input_key], delta, share)
        factor, then = bias_inputs(self.point, target.layer)[input_key]
        return then((delta * (factor * self.rows[rows])[:, None]).sum(axis=0))

    def _unobserved(self, candidate: Candidate, layer: int, given: list[Target]) -> Iterator[State]:
        state, budget = candidate.state, BUDGET - candidate.state.pending - candidate.cost
        if budget < 0:
            return
        deltas = apply_slopes(self.point, layer, candidate.da, candidate.joint, None if budget else FREE)
        for slope, delta in deltas.items():
            cost = candidate.cost + (slope not in FREE)
            changes = state.changes + candidate.changes + _changes(("slope", slope), layer=layer)
            chain = state.chain.add(layer, candidate.da, delta)
            yield state._replace(changes=changes, cost=state.cost + cost, pending=state.pending + cost, chain=chain)

    def _observed(self, candidate: Candidate, layer: int, given: list[Target]) -> Iterator[State]:
        state = candidate.state
        budget = BUDGET - state.pending - candidate.cost
        budget = min(budget, self._bound(sum(self._digits(target) for target in given)) - candidate.cost)
        shut = not any(view.array.any() for target in given for view in target.views)
        if shut:  # gradients of zero say that something is 0, and not how it became so
            budget = 0
        if budget < 0:
            return
        deltas = apply_slopes(self.point, layer, candidate.da, candidate.joint, None if budget else FREE)
        hits = {target.parameter: self._hits(target, deltas, candidate, budget) for target in given}
        found = [hit for some in hits.values() for hit in some]
        chain_slopes = [key for key in deltas if key in FREE or any(hit.slope == key for hit in found)]
        chain_scales = sorted({1.0, *(hit.scale for hit in found if self.scales.cost(hit.scale) <= budget)})
        for slope, scale in product(chain_slopes, chain_scales):
            own = (slope not in FREE) + self.scales.cost(scale)
            if own <= budget:
                yield from self._settle(candidate, layer, given, hits, deltas[slope], slope, scale, budget - own)

    def _settle(
        self,
        candidate: Candidate,
        layer: int,
        given: list[Target],
        hits: dict[str, list[Hit]],
        delta: Host,
        slope: str,
        scale: float,
        budget: int,
    ) -> Iterator[State]:
        """Yield the states in which da has this slope and scale, and each target its cheapest explanations."""
        state, choices = candidate.state, list[list[tuple[Target, int, Hit | None]]]()
        untouched = candidate.cost == 0 and slope in FREE and scale == 1
        for target in given:
            priced = [(hit.cost(slope) + self.scales.cost(hit.scale / scale), hit) for hit in hits[target.parameter]]
            priced = [
                pair
                for pair in priced
                if pair[0] <= min(budget, self.bounds[target.parameter]) or not pair[1].view.array.any()
            ]
            exact = [pair for pair in priced if pair[1].distance <= 1] or priced
            cheapest = min((cost for cost, _ in exact), default=0)
            options: list[tuple[int, Hit | None]] = []
            options += [(cost, hit) for cost, hit in exact if cost == cheapest][:4]
            if untouched and not any(hit.distance <= 1 for _, hit in exact):
                options.append((UNEXPLAINED, None))
            if not options:
                return
            choices.append([(target, cost, hit) for cost, hit in options])
        chain_cost = candidate.cost + (slope not in FREE) + self.scales.cost(scale)
        base = state.changes + candidate.changes + _changes(("slope", slope), layer=layer)
        base += _scale_changes("scale", layer, self.scales, scale)
        chain = state.chain.add(layer, candidate.da * scale, delta * scale)
        for combination in product(*choices):
            changes, cost, distances, penalty = base, state.cost + chain_cost, dict(state.distances), state.penalty
            for target, own, hit in combination:
                distances[target.parameter] = np.inf if hit is None else hit.distance
                if hit is not None:
                    cost += own
                    changes += self._own_changes(target, hit, slope, scale)
                    penalty = next((c.value for c in hit.extra if c.key == "penalty"), penalty)
            explained = all(hit is not None for _, _, hit in combination)
            pending = 0 if explained else state.pending + chain_cost
            yield State(changes, cost, pending, chain, distances, state.rate, penalty)

    def _own_changes(self, target: Target, hit: Hit, slope: str, scale: float) -> tuple[Change, ...]:
        kind, layer = target.kind, target.layer
        own = hit.slope != slope and not (hit.slope in FREE and slope in FREE)
        changes: tuple[Change, ...] = (Change(f"{kind} slope", layer, hit.slope or "right"),) if own else ()
        changes += _changes((f"{kind} input", hit.input), (f"{kind} rows", hit.rows), layer=layer)
        changes += _scale_changes(f"{kind} scale", layer, self.scales, hit.scale / scale)
        if hit.view.mistake:
            changes += (Change(f"{kind} end", layer, hit.view.mistake),)
        return changes + hit.extra

    # ---- one gradient ------------------------------------------------------------------------------------------------

    def _hits(self, target: Target, deltas: dict[str, Host], candidate: Candidate, budget: int) -> list[Hit]:
        layer = target.layer
        named = dict(deltas)
        if budget:
            above = candidate.state.chain.delta
            named |= {f"delta {m}": d for m, d in above.items() if d.shape == candidate.da.shape}
        stack = np.stack(list(named.values()))
        sums, input_keys = self._fingerprints(target, stack, budget)
        row_keys = (
            [*self.rows, "averaged_first"]
            if budget and target.kind == "weight" and self.point.rows > 1
            else list(self.rows)
        )
        hits = list[Hit]()
        for view in target.views:
            seen = self._seen(target, view.array)
            for v, i, r in self._near(sums, seen, target, view, len(row_keys)):
                slope, input_key, rows = list(named)[v], input_keys[i], row_keys[r]
                if (slope not in FREE) + (input_key != "") + (rows != "") <= budget + 1:
                    hits += self._scaled(target, view, stack[v], slope, input_key, rows)
        return hits or self._afterwards(target, deltas, candidate, budget)

    def _fingerprints(self, target: Target, stack: Host, budget: int) -> tuple[Host, list[str]]:
        """Return (slopes, inputs, rows, probes): every gradient, seen through the probes."""
        u, v = self.probes[target.parameter]
        shares = np.stack(list(self.rows.values()))
        if target.kind == "weight":
            choices = self.inputs[target.layer]
            keys = list(choices) if budget else [""]
            left = np.stack([choices[key] for key in keys]) @ u
            right = stack @ v
            pairs = right[:, None] * left[None]
            sums = (
                np.einsum("sibk,rb->sirk", pairs, shares, optimize=False)
                if len(shares) > 1
                else pairs.sum(axis=2)[:, :, None]
            )
            if budget and self.point.rows > 1:
                averaged = right.sum(axis=1)[:, None] * left.mean(axis=1)[None]
                sums = np.concatenate([sums, averaged[:, :, None]], axis=2)
            return sums, keys
        sums, keys = [], []
        for key, (factor, then) in bias_inputs(self.point, target.layer).items():
            if budget or not key:
                keys.append(key)
                sums.append(then(np.einsum("sbn,rb->srn", stack * factor[:, None], shares)) @ v)
        return np.stack(sums, axis=1), keys

    def _seen(self, target: Target, array: Host) -> Host:
        u, v = self.probes[target.parameter]
        return np.einsum("ik,ij,jk->k", u, array, v) if target.kind == "weight" else array @ v

    def _near(self, sums: Host, seen: Host, target: Target, view: View, n_rows: int) -> Iterable[tuple[int, int, int]]:
        """Return the places of gradients that are proportional to the user's, within reach of the fingerprints."""
        square = (sums * sums).sum(axis=-1)
        with np.errstate(all="ignore"):
            ratio = (sums @ seen) / square
            misfit = np.abs(ratio[..., None] * sums - seen).max(axis=-1)
        size = float(np.sqrt((view.array**2).sum())) + float(self.tolerance[target.parameter].max())
        reach = min(NEAR * self._relative(target, view.array), CLOSEST) * 8 * size
        if not view.array.any():
            reach = 8 * float(self.tolerance[target.parameter].max()) * np.sqrt(view.array.size)
        close = (np.isfinite(ratio) & (misfit <= reach)) if view.array.any() else square <= reach**2
        if close.any() and view.array.any():
            off = np.abs(ratio[close][:, None] / self.scales.values - 1).min(axis=1)
            close[close] = off <= 16 * min(NEAR * self._relative(target, view.array), CLOSEST)
        return [(int(v), int(i), int(r)) for v, i, r in np.argwhere(close)[:500]]

    def _relative(self, target: Target, array: Host) -> float:
        """What rounding may do, relative to the largest element."""
        top = float(np.abs(array).max())
        limit = float(self.tolerance[target.parameter].max())
        return min(max(limit / top if top else 1.0, 16 * self.eps), 1e-5 if self.eps < 1e-10 else 1e-4)

    def _allowed(self, target: Target, gradient: Host) -> Host:
        """What rounding may do to a gradient that need not be the right one, elementwise."""
        right = self.tolerance[target.parameter]
        return (
            np.maximum(np.abs(gradient).max() * self._relative(target, gradient), np.minimum(right, right.max()))
            if gradient.any()
            else right
        )

    def _scaled(self, target: Target, view: View, delta: Host, slope: str, input_key: str, rows: str) -> Iterator[Hit]:
        """Yield the hits at each scale that comes near enough."""
        gradient = self._gradient(target, delta, input_key, rows)
        top = float(np.abs(gradient).max())
        if top <= float(self.tolerance[target.parameter].max()):
            if not view.array.any():
                yield Hit(slope, input_key, rows, 1.0, view, 0.0)
            return
        for scale in self.scales.values:
            if abs(float(np.abs(view.array).max()) / (abs(scale) * top) - 1) > 0.1:
                continue
            distance = self._distance(
                target, view.array, scale * gradient, right=slope in FREE and not input_key and not rows and scale == 1
            )
            if distance <= self._reach(target, view.array):
                yield Hit(slope, input_key, rows, float(scale), view, distance)

    def _reach(self, target: Target, array: Host) -> float:
        """Return the distance up to which a gradient is near."""
        return max(1.0, min(NEAR, CLOSEST / self._relative(target, array)))

    def _distance(self, target: Target, array: Host, gradient: Host, *, right: bool = False) -> float:
        """Return how far the user's array is from a gradient, in units of what rounding may do."""
        off = np.abs(array - gradient)
        allowed = self.tolerance[target.parameter] if right else self._allowed(target, gradient)
        return float((off / np.maximum(allowed, 1e-300)).max())

    def _afterwards(self, target: Target, deltas: dict[str, Host], candidate: Candidate, budget: int) -> list[Hit]:
        """Return hits of a gradient to which something happened after it was computed."""
        hits = list[Hit]()
        for view in target.views:
            if not view.array.any():
                hits.append(Hit("", "", "", 1.0, view, 0.0, (Change(f"{target.kind} end", target.layer, "zero"),)))
                continue
            if budget < 1:
                return []
            for slope, input_key, rows in self._variants(target, deltas, budget - 1):
                gradient = self._gradient(target, deltas[slope], input_key, rows)
                left = budget - 1 - (slope not in FREE) - (input_key != "") - (rows != "")
                start = Hit(slope, input_key, rows, 1.0, view, np.inf)
                hits += self._penalized(target, start, gradient, candidate.state.penalty, left)
                if not start.cost("") and not candidate.cost:
                    hits += self._rounded(target, start, gradient)
        return hits

    def _variants(self, target: Target, deltas: dict[str, Host], budget: int) -> Iterator[tuple[str, str, str]]:
        """Yield slope, input and rows with at most one of them changed."""
        right = next(iter(key for key in FREE if key in deltas), "")
        yield from ((slope, "", "") for slope in deltas if slope in FREE or budget)
        if budget and right in deltas:
            choices = self.inputs[target.layer] if target.kind == "weight" else bias_inputs(self.point, target.layer)
            yield from ((right, key, "") for key in choices if key)
            yield from ((right, "", key) for key in self.rows if key)

    def _penalized(self, target: Target, start: Hit, gradient: Host, known: float | None, budget: int) -> Iterator[Hit]:
        """Yield hits of scale * gradient + strength * parameter, both fitted, or the strength known."""
        value, array = self.point.parameters[target.parameter], start.view.array
        for key, direction in (("penalty", value), ("absolute_penalty", np.sign(value))):
            given = known if key == "penalty" else None
            scale, strength = _fit_two(array, gradient, direction) if given is None else (1.0, given)
            if scale is None or strength is None or abs(strength) < 1e-12:
                continue
            scale = float(self.scales.values[np.argmin(np.abs(self.scales.values - scale))])
            if self.scales.cost(scale) > budget:
                continue
            if given is None:  # again, now that the scale is known exactly
                strength = _fit(array - scale * gradient, direction) or 0.0
            distance = self._distance(target, array, scale * gradient + strength * direction)
            if distance <= 1 and abs(strength) * np.abs(direction).max() > 8 * self._allowed(target, gradient).max():
                end = Change(f"{target.kind} end", target.layer, key, float(strength))
                yield start._replace(scale=scale, distance=distance, extra=(end,))

    def _rounded(self, target: Target, start: Hit, gradient: Host) -> Iterator[Hit]:
        """Yield the hit of a gradient cut off, or rounded to a few decimals."""
        site, array = f"{target.kind} end", start.view.array
        if target.integer and (np.trunc(gradient) == array).all():
            yield start._replace(distance=0.0, extra=(Change(site, target.layer, "truncated"),))
            return
        for digits in range(8):
            if np.abs(np.round(gradient, digits) - array).max() <= 4 * self.eps * np.abs(array).max():
                yield start._replace(distance=0.0, extra=(Change(site, target.layer, "rounded", digits),))
                return


def _changes(*pairs: tuple[str, str], layer: int) -> tuple[Change, ...]:
    return tuple(Change(site, layer, key) for site, key in pairs if key not in FREE)


def _scale_changes(site: str, layer: int, known: Scales, scale: float) -> tuple[Change, ...]:
    keys = known.keys(scale)
    return tuple(Change(site, layer, key) for key in keys[0]) if keys else ()


def _fit(array: Host, direction: Host) -> float | None:
    """Return the multiple of a direction that is nearest to an array, or None where there is too little to tell."""
    square = float((direction * direction).sum())
    if array.size < 3 or not square:
        return None
    return float((array * direction).sum()) / square


def _fit_two(array: Host, first: Host, second: Host) -> tuple[float | None, float | None]:
    """Return the multiples of two arrays whose sum is nearest to a third."""
    if array.size < 4:
        return None, None
    columns = np.stack([first.ravel(), second.ravel()], axis=1)
    (a, b), *_, singular = np.linalg.lstsq(columns, array.ravel(), rcond=None)
    return (float(a), float(b)) if singular[-1] > 1e-6 * singular[0] else (None, None)
