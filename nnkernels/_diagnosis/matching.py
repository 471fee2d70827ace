"""Is this gradient the user's? Fingerprints first, then the numbers, in units of what rounding may do.

A gradient sum_b x_b delta_b^T, seen through a few random vectors u and v, is sum_b (x_b u)(delta_b v): one
multiplication a row tells most candidates from the user's numbers, whatever the scale between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from nnkernels._data import Host
from nnkernels._diagnosis.arrays import Target, View
from nnkernels._diagnosis.factors import (
    FREE,
    Chain,
    Change,
    backprop,
    bias_inputs,
    inputs,
    row_choices,
    scales,
    weight_gradient,
)
from nnkernels._diagnosis.point import Point

NEAR = 1000.0  #: how much closer than any other an explanation must be
CLOSEST = 2e-3  #: relative to the largest element, beyond which nothing is near
UNEXPLAINED = 100  #: costs more than any explanation
CAPS = (2e-5, 1e-9)  #: what rounding can be relative to the largest element, at most: of float32, of float64
PROBES = 4


def nothing(right: Host, eps: float) -> float:
    """Return the size below which a gradient is zero to rounding, beside the right one."""
    return 128 * eps * float(np.abs(right).max(initial=0)) + 1e-300


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
        """Return the number of factors in a value, with the sign thrown in; more than any budget if there are none.

        The error the wrong way round, with a sum for a mean, is so common that both leave room for a third mistake.
        """
        keys = self.keys(value)
        if not keys:
            return UNEXPLAINED
        return max(len(keys[0]) - ("sign" in keys[0]), min(len(keys[0]), 1))


class Matching:
    """The user's gradients at one point, and what is compared with them.

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
        self.point, self.tolerance, self.eps = point, tolerance, eps
        self.scales, self.rows = Scales(point), row_choices(point.rows)
        self.inputs = [inputs(point, layer) for layer in range(point.depth)]
        right = backprop(point)
        self.nothing = {t.parameter: nothing(right[t.parameter], eps) for t in targets}
        rng = np.random.default_rng(0)
        self.probes = {t.parameter: self._probe(rng, t) for t in targets}

    def _probe(self, rng: np.random.Generator, target: Target) -> tuple[Host, Host]:
        shape = self.point.parameters[target.parameter].shape
        return rng.normal(size=(shape[0], PROBES)), rng.normal(size=(shape[-1], PROBES))

    def digits(self, target: Target) -> float:
        """Return how many digits of the user's numbers an explanation has to hit."""
        array = target.views[0].array
        return float(-np.log10(self._relative(target, array)) * array.size) if array.any() else 0.0

    @staticmethod
    def bound(digits: float) -> int:
        """Return how many mistakes so many digits can prove: each has some 300 choices, and one may hit by chance."""
        return int((digits - 1.5) / 2.5)

    def gradient(self, target: Target, delta: Host, input_key: str = "", rows: str = "") -> Host:
        """Return the gradient of a target from its delta."""
        share = None if rows == "averaged_first" else self.rows[rows]
        if target.kind == "weight":
            return weight_gradient(self.inputs[target.layer][input_key], delta, share)
        factor, then = bias_inputs(self.point, target.layer)[input_key]
        return then((delta * (factor * self.rows[rows])[:, None]).sum(axis=0))

    def hits(
        self,
        target: Target,
        deltas: dict[str, Host],
        above: Chain,
        budget: int,
        *,
        known_penalty: float | None,
        untouched: bool,
    ) -> list[Hit]:
        """Return how a target can be made from the deltas of its layer, with at most so many changes of its own.

        Parameters
        ----------
        target : Target
            The user's gradient.
        deltas : dict of str to ndarray
            delta of the layer, by the choice of its slope.
        above : Chain
            The layers above, whose deltas may have been taken in its place.
        budget : int
            Number of changes.
        known_penalty : float or None
            The strength of a penalty that other weights have told.
        untouched : bool
            Whether all is right so far; only then is a gradient compared rounded.
        """
        named = dict(deltas)
        if budget:
            shape = next(iter(deltas.values())).shape
            named |= {f"delta {m}": delta for m, delta in above.delta.items() if delta.shape == shape}
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
        return hits or self._afterwards(target, deltas, budget, known_penalty=known_penalty, untouched=untouched)

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
            reach = 8 * self.nothing[target.parameter] * np.sqrt(view.array.size)
        close = (np.isfinite(ratio) & (misfit <= reach)) if view.array.any() else square <= reach**2
        if close.any() and view.array.any():
            off = np.abs(ratio[close][:, None] / self.scales.values - 1).min(axis=1)
            close[close] = off <= 16 * min(NEAR * self._relative(target, view.array), CLOSEST)
        return [(int(v), int(i), int(r)) for v, i, r in np.argwhere(close)[:500]]

    def _relative(self, target: Target, array: Host) -> float:
        """What rounding may do, relative to the largest element."""
        top = float(np.abs(array).max())
        limit = float(self.tolerance[target.parameter].max())
        return min(max(limit / top if top else 1.0, 16 * self.eps), CAPS[self.eps < 1e-10])

    def allowed(self, target: Target, gradient: Host) -> float:
        """What rounding may do to a gradient that is not the right one: relative to its largest element, and little."""
        return float(np.abs(gradient).max()) * self._relative(target, gradient)

    def _scaled(self, target: Target, view: View, delta: Host, slope: str, input_key: str, rows: str) -> Iterator[Hit]:
        """Yield the hits at each scale that comes near enough."""
        gradient = self.gradient(target, delta, input_key, rows)
        top = float(np.abs(gradient).max())
        if top <= self.nothing[target.parameter]:
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
        allowed = self.tolerance[target.parameter] if right else self.allowed(target, gradient)
        return float((off / np.maximum(allowed, 1e-300)).max())

    def _afterwards(
        self, target: Target, deltas: dict[str, Host], budget: int, *, known_penalty: float | None, untouched: bool
    ) -> list[Hit]:
        """Return hits of a gradient to which something happened after it was computed."""
        hits = list[Hit]()
        for view in target.views:
            if not view.array.any():
                hits.append(Hit("", "", "", 1.0, view, 0.0, (Change(f"{target.kind} end", target.layer, "zero"),)))
                continue
            if budget < 1:
                return []
            for slope, input_key, rows in self._variants(target, deltas, budget - 1):
                gradient = self.gradient(target, deltas[slope], input_key, rows)
                left = budget - 1 - (slope not in FREE) - (input_key != "") - (rows != "")
                start = Hit(slope, input_key, rows, 1.0, view, np.inf)
                hits += self._penalized(target, start, gradient, known_penalty, left)
                if not start.cost("") and untouched:
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
            scale, strength = fit_two(array, gradient, direction) if given is None else (1.0, given)
            if scale is None or strength is None or abs(strength) < 1e-12:
                continue
            scale = float(self.scales.values[np.argmin(np.abs(self.scales.values - scale))])
            if self.scales.cost(scale) > budget:
                continue
            if given is None:  # again, now that the scale is known exactly
                strength = fit(array - scale * gradient, direction) or 0.0
            distance = self._distance(target, array, scale * gradient + strength * direction)
            if distance <= 1 and abs(strength) * np.abs(direction).max() > 8 * self.allowed(target, gradient):
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


def fit(array: Host, direction: Host) -> float | None:
    """Return the multiple of a direction that is nearest to an array, or None where there is too little to tell."""
    square = float((direction * direction).sum())
    if array.size < 3 or not square:
        return None
    return float((array * direction).sum()) / square


def fit_two(array: Host, first: Host, second: Host) -> tuple[float | None, float | None]:
    """Return the multiples of two arrays whose sum is nearest to a third."""
    if array.size < 4:
        return None, None
    columns = np.stack([first.ravel(), second.ravel()], axis=1)
    (a, b), *_, singular = np.linalg.lstsq(columns, array.ravel(), rcond=None)
    return (float(a), float(b)) if singular[-1] > 1e-6 * singular[0] else (None, None)
