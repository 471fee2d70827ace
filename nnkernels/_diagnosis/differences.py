"""check_gradients: derivatives of any function, by complex step or extrapolated differences, each with its error."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from nnkernels._data import Host, to_numpy
from nnkernels._diagnosis.arrays import EPS32, EPS64
from nnkernels._diagnosis.report import Finding, Report
from nnkernels._errors import DataError, ShapeError

FIRST_STEP, LEVELS = 1e-2, 16  #: steps 1e-2, 5e-3, ... 3e-7, relative to the parameter where that is above 1
SAFETY = 8  #: how many estimated errors a difference must exceed to count
RELATIVE = {EPS64: 1e-6, EPS32: 2e-4}  #: of the terms of a derivative: what the gradient's own rounding may do
FEW = 24  #: elements that are all checked, whatever the directional tests say
MOST = 400  #: elements of one parameter that are checked one by one


class Derivative(NamedTuple):
    """A directional derivative with an estimate of its error; `kink` is the jump of the slope, if there is one."""

    value: float
    error: float
    kink: tuple[float, float] | None = None


class Misuse(Exception):
    """The functions cannot be checked; the finding says why."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.message)


class Packed:
    """Parameters as one flat float64 vector, and back into what the user gave."""

    def __init__(self, parameters: Any) -> None:
        self._keys = list(parameters) if isinstance(parameters, Mapping) else []
        self._kind: type = dict if isinstance(parameters, Mapping) else type(parameters)
        if isinstance(parameters, Mapping):
            self.names, values = [str(key) for key in self._keys], list(parameters.values())
        elif isinstance(parameters, (list, tuple)) and not all(isinstance(v, (int, float)) for v in parameters):
            self.names, values = [f"parameters[{i}]" for i in range(len(parameters))], list(parameters)
        else:
            self.names, values, self._kind = ["parameters"], [parameters], np.ndarray
        arrays = [to_numpy(v, name) for v, name in zip(values, self.names, strict=True)]
        for array, name in zip(arrays, self.names, strict=True):
            if array.dtype.kind not in "fiub":
                raise DataError(f"{name} must be real numbers, but its dtype is {array.dtype}")
            if not np.isfinite(array).all():
                raise DataError(f"{name} has values that are not finite; check at a point where all are")
        if not sum(array.size for array in arrays):
            raise ValueError("parameters is empty; there is nothing to check")
        self.integers = [name for name, a in zip(self.names, arrays, strict=True) if a.dtype.kind in "iub"]
        self.shapes = [array.shape for array in arrays]
        ends = np.cumsum([array.size for array in arrays])
        self.slices = [slice(int(e - a.size), int(e)) for e, a in zip(ends, arrays, strict=True)]
        self.flat = np.concatenate([array.astype(np.float64).ravel() for array in arrays])

    def unpack(self, flat: Host) -> Any:
        """Return fresh arrays in the user's structure."""
        parts = [flat[s].reshape(shape).copy() for s, shape in zip(self.slices, self.shapes, strict=True)]
        if self._kind is dict:
            return dict(zip(self._keys, parts, strict=True))
        return parts[0] if self._kind is np.ndarray else self._kind(parts)

    def repack(self, value: Any) -> tuple[Host, float]:
        """Return a gradient in the user's structure as a flat vector, and its precision."""
        if isinstance(value, Mapping):
            missing = [name for name in self.names if name not in {str(key) for key in value}]
            if missing:
                raise KeyError(f"gradient returned no {missing[0]!r}; it must return {', '.join(self.names)}")
            by_name = {str(key): part for key, part in value.items()}
            parts = [by_name[name] for name in self.names]
        elif isinstance(value, (list, tuple)) and len(self.names) > 1:
            parts = list(value)
        else:
            parts = [value]
        if len(parts) != len(self.names):
            raise ShapeError(f"gradient returned {len(parts)} arrays for {len(self.names)} parameters")
        flats, eps = [], EPS64
        for part, name, shape in zip(parts, self.names, self.shapes, strict=True):
            array = to_numpy(part, f"the gradient of {name}")
            if array.size != int(np.prod(shape)) or (array.shape != shape and array.ndim > 1 and len(shape) > 1):
                message = f"The gradient of {name} has the shape {array.shape}, and {name} has {shape}."
                remedy = "Return each gradient in its parameter's shape; sum over the rows of the batch."
                raise Misuse(Finding("gradient_shape", name, message, f"{array.shape} against {shape}", remedy))
            if array.dtype.kind == "f" and array.dtype.itemsize < 8:
                eps = EPS32
            flats.append(array.astype(np.float64).ravel())
        return np.concatenate(flats), eps


class Checked:
    """The user's two functions, called with copies, and watched.

    Parameters
    ----------
    function, gradient : callable
        The loss and its gradient.
    packed : Packed
        The parameters.
    """

    def __init__(self, function: Callable[[Any], Any], gradient: Callable[[Any], Any], packed: Packed) -> None:
        self.function, self.gradient, self.packed, self.single = function, gradient, packed, False

    def loss(self, flat: Host) -> Any:
        """Return the loss, a float or a complex number."""
        given = self.packed.unpack(flat)
        try:
            value = self.function(given)
        except Exception as error:
            if np.iscomplexobj(flat):
                raise
            raise DataError(f"function(parameters) raised {type(error).__name__}: {error}") from error
        self._unchanged("function", given, flat)
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "fiubc":
            raise Misuse(
                Finding(
                    "not_scalar",
                    None,
                    "The function must return the loss, one real number; it returns something else.",
                    f"it returned {type(value).__name__} of shape {array.shape}",
                    "return np.mean((prediction - target)**2)   # one number, not the predictions or one loss a row",
                )
            )
        self.single = self.single or (array.dtype.kind == "f" and array.dtype.itemsize < 8)
        return array.reshape(()).item()

    def slope(self, flat: Host) -> tuple[Host, float]:
        """Return the gradient and its precision."""
        given = self.packed.unpack(flat)
        try:
            value = self.gradient(given)
        except Exception as error:
            raise DataError(f"gradient(parameters) raised {type(error).__name__}: {error}") from error
        self._unchanged("gradient", given, flat)
        return self.packed.repack(value)

    def _unchanged(self, which: str, given: Any, flat: Host) -> None:
        parts = (
            list(given.values()) if isinstance(given, dict) else given if isinstance(given, (list, tuple)) else [given]
        )
        now = np.concatenate([np.asarray(part).ravel() for part in parts])
        if now.shape != flat.shape or not (now == flat).all():
            message = f"The {which} changes the parameters it is given, so that every later call sees others."
            remedy = "Write w = w - rate * g, which makes a new array, and not w -= rate * g; or copy first."
            raise Misuse(Finding("mutates", None, message, "the arrays differ after one call", remedy))


def check(function: Any, gradient: Any, parameters: Any, rng: Any) -> Report:
    """Compare a gradient with the derivatives of its function; see `nnkernels.check_gradients`."""
    for name, value in (("function", function), ("gradient", gradient)):
        if not callable(value):
            raise TypeError(f"{name} must be a function of the parameters, not {type(value).__name__}")
    packed = Packed(parameters)
    checked, generator = Checked(function, gradient, packed), np.random.default_rng(rng)
    title = "gradient check"
    untold = dict.fromkeys(packed.names, "cannot be told")
    if packed.integers:
        return Report(title, [_integers(packed)], untold)
    try:
        slope, eps = _preconditions(checked, packed, generator)
    except Misuse as misuse:
        return Report(title, [misuse.finding], untold)
    return _compare(checked, packed, slope, eps, generator)


# ---- can it be checked at all ----------------------------------------------------------------------------------------


def _integers(packed: Packed) -> Finding:
    names = ", ".join(packed.integers)
    message = f"{names} has an integer dtype: every step of a training, and of a check, is cut off to whole numbers."
    return Finding(
        "integer_parameters",
        packed.integers[0],
        message,
        "its dtype holds no fractions",
        f"{packed.integers[0]} = {packed.integers[0]}.astype(float)",
    )


def _preconditions(checked: Checked, packed: Packed, rng: np.random.Generator) -> tuple[Host, float]:
    """Return the gradient and its precision, or raise what makes a check meaningless."""
    here = packed.flat
    there = here + rng.normal(size=here.shape) * 0.1 * (1 + np.abs(here))
    value, again = checked.loss(here), checked.loss(here)
    if not np.isfinite(value):
        raise Misuse(
            Finding(
                "not_finite",
                None,
                "The loss is not finite here.",
                f"it is {value}",
                "Check at other parameters, or look for log(0) and overflowing exp.",
            )
        )
    if value != again:
        raise Misuse(_random("The function", value, again))
    slope, eps = checked.slope(here)
    twice, _ = checked.slope(here)
    if not np.isfinite(slope).all():
        place = packed.names[next(i for i, s in enumerate(packed.slices) if not np.isfinite(slope[s]).all())]
        count = int((~np.isfinite(slope)).sum())
        raise Misuse(
            Finding(
                "not_finite",
                place,
                f"The gradient of {place} is not finite.",
                f"{count} of {slope.size} elements",
                "Look for a division by 0, log(0) or an overflowing exp.",
            )
        )
    if not (slope == twice).all():
        raise Misuse(_random("The gradient", float(np.abs(slope).max()), float(np.abs(twice - slope).max())))
    moved = checked.loss(there)
    late, _ = checked.slope(here)
    if checked.loss(here) != value:
        raise Misuse(_cached("function", "the same parameters give another loss after a call with others"))
    if not np.allclose(late, slope, rtol=1e-12, atol=0):
        raise Misuse(
            _cached("gradient", "it changes when the function has been called with other parameters in between")
        )
    if moved == value and slope.any() and checked.loss(2 * here - there) == value:
        raise Misuse(
            _cached("function", "other parameters give the same loss, bit for bit, and the gradient is not zero")
        )
    return slope, max(eps, EPS32 if checked.single else EPS64)


def _random(what: str, first: float, second: float) -> Finding:
    return Finding(
        "not_deterministic",
        None,
        f"{what} gives different values for the same parameters: differences of it mean nothing.",
        f"{first!r} and {second!r}",
        "Fix the seed inside the function, switch dropout and shuffling off, and use the same batch in every call.",
    )


def _cached(which: str, evidence: str) -> Finding:
    return Finding(
        "cached",
        None,
        f"The {which} does not depend on its argument alone: it uses stored parameters, or a stored forward pass.",
        evidence,
        "Compute everything from the argument: run the forward pass inside the function, with its parameters.",
    )


# ---- derivatives -----------------------------------------------------------------------------------------------------


def derivative(checked: Checked, here: Host, direction: Host, noise: float, *, complex_step: bool) -> Derivative:
    """Return the derivative of the loss along a direction."""
    by_difference = _extrapolate(checked, here, direction, noise)
    if complex_step:
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error")
                value = checked.loss(here + 1e-30j * direction)
        except (Misuse, Exception):
            return by_difference
        exact = float(np.imag(value)) / 1e-30
        # abs, maximum of complex numbers, .real: a complex step may be wrong, and then the difference tells
        if np.iscomplexobj(value) and abs(exact - by_difference.value) <= SAFETY * by_difference.error + 1e-9 * abs(
            exact
        ):
            return Derivative(exact, 1e-13 * abs(exact), by_difference.kink)
    return by_difference


def _extrapolate(checked: Checked, here: Host, direction: Host, noise: float) -> Derivative:
    """Return central differences at halved steps, extrapolated (Ridders, 1982), where the error estimate is least."""
    size = float(np.abs(direction).max()) or 1.0
    moving = direction != 0
    unit = float(np.abs(here[moving]).max(initial=1.0)) / size
    center, best, rows = checked.loss(here), Derivative(np.nan, np.inf), list[list[float]]()
    sides: list[tuple[float, float, float]] = []
    for level in range(LEVELS):
        h = FIRST_STEP * unit / 2**level
        up, down = checked.loss(here + h * direction), checked.loss(here - h * direction)
        if not (np.isfinite(up) and np.isfinite(down)):
            rows.clear()
            continue
        row = [(up - down) / (2 * h)]
        sides.append((h, (up - center) / h, (center - down) / h))
        for order, before in enumerate(rows[-1] if rows else [], start=1):
            row.append(row[-1] + (row[-1] - before) / (4**order - 1))
            error = max(abs(row[-1] - row[-2]), abs(row[-1] - before)) + 2 * noise / h
            if error < best.error:
                best = Derivative(row[-1], error)
        rows.append(row[:5])
    if not rows:
        return best
    return best._replace(kink=_kink(sides, noise))


def _kink(sides: list[tuple[float, float, float]], noise: float) -> tuple[float, float] | None:
    """Return the slopes on both sides if they stay apart while the step shrinks."""
    usable = [side for side in sides if abs(side[1] - side[2]) > 50 * noise / side[0]]
    if len(usable) < 6:
        return None
    gaps = [abs(up - down) for _, up, down in usable[-4:]]
    return usable[-1][1:] if gaps[-1] > 0.7 * gaps[0] else None  # a smooth function's would be an eighth


def noise_of(checked: Checked, here: Host, rng: np.random.Generator) -> float:
    """Return how far neighboring values of the loss are off a smooth curve, as float32 inside a function makes them."""
    direction = rng.normal(size=here.shape)
    steps = 1e-6 * (1 + np.abs(here).max()) * np.arange(8)
    values = np.array([checked.loss(here + step * direction) for step in steps])
    third = np.abs(np.diff(values, 3)).max() / 4.5  # of white noise, the root of 20
    floor = (EPS32 if checked.single else EPS64) * np.abs(values).max()
    return float(max(third, floor))


# ---- the comparison --------------------------------------------------------------------------------------------------


def _compare(checked: Checked, packed: Packed, slope: Host, eps: float, rng: np.random.Generator) -> Report:
    here, noise = packed.flat, noise_of(checked, packed.flat, rng)
    findings, status, notes = list[Finding](), dict[str, str](), list[str]()
    relative = RELATIVE[eps]

    def judge(direction: Host) -> tuple[str, Derivative, float]:
        found = derivative(checked, here, direction, noise, complex_step=True)
        mine = float(slope @ direction)
        terms = float(np.abs(slope * direction).sum())
        return _verdict(found, mine, relative * max(terms, abs(found.value))), found, mine

    for name, part in zip(packed.names, packed.slices, strict=True):
        directions = [np.zeros_like(here) for _ in range(2)]
        for direction in directions:
            direction[part] = rng.choice([-1.0, 1.0], part.stop - part.start)
        verdicts = [judge(direction)[0] for direction in directions]
        count = part.stop - part.start
        if verdicts == ["agrees"] * 2 and count > FEW:
            status[name] = "agrees"
            continue
        elements = list(_elements(part, rng))
        judged = {i: judge(np.eye(1, len(here), i)[0]) for i in elements}
        wrong = [i for i in elements if judged[i][0] == "differs"]
        untold = [i for i in elements if judged[i][0].startswith("cannot")]
        if wrong:
            status[name] = "differs"
            findings.append(_differs(packed, name, part, wrong, judged, len(elements)))
        elif untold:
            status[name] = f"{judged[untold[0]][0]} ({len(untold)} of {len(elements)} elements)"
        elif count > MOST and "differs" in verdicts:
            status[name] = "differs"
            found, mine = judge(directions[verdicts.index("differs")])[1:]
            findings.append(
                Finding(
                    "gradient_differs",
                    name,
                    f"The gradient of {name} is not the derivative of the function along a random direction.",
                    f"yours {mine:.10g}, measured {found.value:.10g} (error {found.error:.1e})",
                    "nnkernels.diagnose(...) names the wrong factor of a network of dense layers",
                )
            )
        else:
            status[name] = "agrees"
    return Report("gradient check", findings, status, notes)


def _elements(part: slice, rng: np.random.Generator) -> Iterator[int]:
    count = part.stop - part.start
    chosen = np.arange(count) if count <= MOST else np.sort(rng.choice(count, MOST, replace=False))
    return (part.start + int(i) for i in chosen)


def _verdict(found: Derivative, mine: float, allowed: float) -> str:
    """Tell whether a derivative agrees; never a difference that the measurement itself may have made."""
    off = abs(mine - found.value)
    if found.kink is not None:
        low, high = sorted(found.kink)
        within = low - SAFETY * found.error - allowed <= mine <= high + SAFETY * found.error + allowed
        return "cannot be told: kink" if within else "differs"
    if off <= SAFETY * found.error + allowed:
        blind = found.error > 0.1 * max(abs(mine), abs(found.value)) and abs(mine) > SAFETY * found.error
        return "cannot be told: noise" if blind else "agrees"
    if found.error > 0.02 * abs(found.value) and off <= 50 * found.error:
        return "cannot be told: kink or noise within the step"
    return "differs"


def _differs(
    packed: Packed,
    name: str,
    part: slice,
    wrong: list[int],
    judged: dict[int, tuple[str, Derivative, float]],
    checked: int,
) -> Finding:
    worst = max(wrong, key=lambda i: abs(judged[i][2] - judged[i][1].value))
    _, found, mine = judged[worst]
    shape = packed.shapes[packed.names.index(name)]
    index = tuple(int(i) for i in np.unravel_index(worst - part.start, shape)) if shape else ()
    ratios = [judged[i][2] / judged[i][1].value for i in wrong if judged[i][1].value]
    constant = ""
    if len(ratios) == len(wrong) == checked and np.ptp(ratios) <= 1e-5 * max(map(abs, ratios)):
        constant = f"; the ratio is {np.mean(ratios):.6g} everywhere"
    return Finding(
        "gradient_differs",
        name,
        f"The gradient of {name} is not the derivative of the function.",
        f"{len(wrong)} of {checked} elements differ; at {list(index)}: yours {mine:.10g}, measured {found.value:.10g} "
        f"(error {found.error:.1e}){constant}",
        "nnkernels.diagnose(...) names the wrong factor of a network of dense layers",
    )
