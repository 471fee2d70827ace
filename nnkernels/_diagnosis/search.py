"""From the output to the input: which changes of the right backward pass give the user's numbers.

A layer at a time, the search keeps every partial explanation whose gradients match so far. At a layer whose gradients
are given, few survive; so the number of mistakes is bounded between two such layers, `BUDGET`, and not over all.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from nnkernels._data import Host
from nnkernels._diagnosis.arrays import Target
from nnkernels._diagnosis.factors import FREE, Chain, Change, after_update, apply_slopes, errors, passes
from nnkernels._diagnosis.matching import UNEXPLAINED, Hit, Matching, Scales, fit
from nnkernels._diagnosis.point import Point

BUDGET = 2  #: mistakes on the way to one gradient, since the last layer whose gradients are given
MOST_RATE = 1e4  #: of a learning rate
KEPT = 60  #: partial explanations


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
        self.point, self.targets, self.top = point, targets, point.depth - 1
        self.match = Matching(point, targets, tolerance, eps)
        self.bounds = {t.parameter: self.match.bound(self.match.digits(t)) for t in targets}

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
            for (error, (da, joint)), (rows, share) in product(errors(self.point).items(), self.match.rows.items()):
                cost = (error != "") + (rows != "")
                changes = _changes(("error", error), ("rows", rows), layer=layer)
                factor = weight * share[:, None]
                yield Candidate(changes, cost, da * factor, None if joint is None else joint * factor, state)
            return
        for key, da in passes(self.point, layer, state.chain).items():
            if (key != "") <= budget:
                yield Candidate(_changes(("pass", key), layer=layer), int(key != ""), da, None, state)
        if given and f"{layer + 1}.weight" in self.bounds:
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
            base, slope = self.match.gradient(target, bases[key]), self.match.gradient(target, slopes[key])
            if (base * slope).sum() ** 2 >= (1 - 1e-6) * (base**2).sum() * (slope**2).sum():
                continue  # in one direction: a rate would explain any factor
            for view in target.views:
                rate = fit(view.array - base, slope) if view.array.any() else None
                if (
                    rate is None
                    or abs(rate) > MOST_RATE
                    or any(abs(rate - known) <= 1e-6 * abs(known) for known in fitted)
                ):
                    continue
                if np.abs(view.array - base - rate * slope).max() <= self.match.allowed(target, base):
                    fitted.append(rate)
        return fitted

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
        budget = min(budget, self.match.bound(sum(self.match.digits(target) for target in given)) - candidate.cost)
        shut = not any(view.array.any() for target in given for view in target.views)
        if shut:  # gradients of zero say that something is 0, and not how it became so
            budget = 0
        if budget < 0:
            return
        deltas = apply_slopes(self.point, layer, candidate.da, candidate.joint, None if budget else FREE)
        hits = {target.parameter: self._hits(target, deltas, candidate, budget) for target in given}
        found = [hit for some in hits.values() for hit in some]
        chain_slopes = [key for key in deltas if key in FREE or any(hit.slope == key for hit in found)]
        chain_scales = sorted({1.0, *(hit.scale for hit in found if self.match.scales.cost(hit.scale) <= budget)})
        for slope, scale in product(chain_slopes, chain_scales):
            own = (slope not in FREE) + self.match.scales.cost(scale)
            if own <= budget:
                yield from self._settle(candidate, layer, given, hits, deltas[slope], slope, scale, budget - own)

    def _hits(self, target: Target, deltas: dict[str, Host], candidate: Candidate, budget: int) -> list[Hit]:
        state = candidate.state
        return self.match.hits(
            target, deltas, state.chain, budget, known_penalty=state.penalty, untouched=candidate.cost == 0
        )

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
            options = self._options(target, hits[target.parameter], slope, scale, budget, untouched=untouched)
            if not options:
                return
            choices.append([(target, cost, hit) for cost, hit in options])
        chain_cost = candidate.cost + (slope not in FREE) + self.match.scales.cost(scale)
        base = state.changes + candidate.changes + _changes(("slope", slope), layer=layer)
        base += _scale_changes("scale", layer, self.match.scales, scale)
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

    def _options(
        self, target: Target, hits: list[Hit], slope: str, scale: float, budget: int, *, untouched: bool
    ) -> list[tuple[int, Hit | None]]:
        """Return the cheapest hits of a target with their costs; none of them, too, where nothing has been changed."""
        bound = min(budget, self.bounds[target.parameter])
        priced = [(hit.cost(slope) + self.match.scales.cost(hit.scale / scale), hit) for hit in hits]
        priced = [(cost, hit) for cost, hit in priced if cost <= bound or not hit.view.array.any()]
        exact = [(cost, hit) for cost, hit in priced if hit.distance <= 1]
        options: list[tuple[int, Hit | None]] = []
        if priced:
            cheapest = min(cost for cost, _ in exact or priced)
            options += [(cost, hit) for cost, hit in exact or priced if cost == cheapest][:4]
        if untouched and not exact:
            options.append((UNEXPLAINED, None))
        return options

    def _own_changes(self, target: Target, hit: Hit, slope: str, scale: float) -> tuple[Change, ...]:
        kind, layer = target.kind, target.layer
        own = hit.slope != slope and not (hit.slope in FREE and slope in FREE)
        changes: tuple[Change, ...] = (Change(f"{kind} slope", layer, hit.slope or "right"),) if own else ()
        changes += _changes((f"{kind} input", hit.input), (f"{kind} rows", hit.rows), layer=layer)
        changes += _scale_changes(f"{kind} scale", layer, self.match.scales, hit.scale / scale)
        if hit.view.mistake:
            changes += (Change(f"{kind} end", layer, hit.view.mistake),)
        return changes + hit.extra


def _changes(*pairs: tuple[str, str], layer: int) -> tuple[Change, ...]:
    return tuple(Change(site, layer, key) for site, key in pairs if key not in FREE)


def _scale_changes(site: str, layer: int, known: Scales, scale: float) -> tuple[Change, ...]:
    keys = known.keys(scale)
    return tuple(Change(site, layer, key) for key in keys[0]) if keys else ()
