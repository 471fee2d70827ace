"""Random networks and runs, and the comparison of every way to run them."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
from tolerances import relative

import nnkernels as nnk
from nnkernels._formulas import ACTIVATIONS
from nnkernels._plan import Work
from nnkernels._recipe import Recipe
from nnkernels.backends.numba import threads, training

LOSSES = {
    "half_squared_error": nnk.HalfSquaredError,
    "mean_squared_error": nnk.MeanSquaredError,
    "absolute_error": nnk.AbsoluteError,
    "huber": nnk.Huber,
    "poisson": nnk.Poisson,
    "binary_cross_entropy": nnk.BinaryCrossEntropy,
    "categorical_cross_entropy": nnk.CategoricalCrossEntropy,
}
#: last activations that each loss takes; the others take any
LAST = {
    "poisson": ["identity", "softplus", "sigmoid", "softmax"],
    "binary_cross_entropy": ["identity", "sigmoid"],
    "categorical_cross_entropy": ["identity", "softmax"],
}
SAMPLINGS = ("permutation", "replacement", "sequential")


# ---- problems --------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """A network, its data, and the other arguments of fit."""

    layers: list[nnk.Dense]
    x: Any
    y: Any
    arguments: dict[str, Any]

    def __repr__(self):
        chain = " -> ".join(
            f"{'b' * layer.bias}{layer.n_out} {layer.activation}{f' drop {layer.dropout}' * bool(layer.dropout)}"
            for layer in self.layers
        )
        arguments = {name: value for name, value in self.arguments.items() if not isinstance(value, np.ndarray)}
        arguments["weighted"] = self.arguments.get("sample_weight") is not None
        return f"Problem({self.layers[0].n_in} -> {chain}; {len(self.x)} rows; {arguments})"


@st.composite
def optimizers(draw):
    """An optimizer with some of the things that an optimizer can have."""
    extras = {
        "l1": draw(st.sampled_from([0, 0, 0.01])),
        "l2": draw(st.sampled_from([0, 0, 0.1])),
        "clip_value": draw(st.sampled_from([None, None, 0.05])),
        "clip_norm": draw(st.sampled_from([None, None, 0.3])),
        "weight_decay": draw(st.sampled_from([0, 0, 0.01])),
        "schedule": draw(st.sampled_from(["constant", nnk.WarmUp(5, nnk.CosineSchedule(40)), "inverse_scaling"])),
    }
    kind = draw(st.sampled_from(["sgd", "sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"]))
    return {
        "sgd": nnk.SGD(0.05, **extras),
        "momentum": nnk.SGD(0.02, momentum=0.9, **extras),
        "nesterov": nnk.SGD(0.02, momentum=0.8, nesterov=True, **extras),
        "adam": nnk.Adam(0.01, **extras),
        "adamw": nnk.AdamW(0.01, **extras),
        "rmsprop": nnk.RMSprop(0.003, **extras),
    }[kind]


@st.composite
def problems(draw, widest=20, most_rows=60, most_steps=40):
    """A network, its data, and the arguments of fit."""
    widths = draw(st.lists(st.integers(1, widest), min_size=2, max_size=5))
    widths[0] = draw(st.integers(1, min(9, widest)))
    loss = draw(st.sampled_from(list(LOSSES)))
    if loss == "categorical_cross_entropy":
        widths[-1] = max(widths[-1], 2)
    last = draw(st.sampled_from(LAST.get(loss, [*ACTIVATIONS, "softmax"])))
    bias = draw(st.sampled_from([True, True, False]))
    layers = []
    for number, (n_in, n_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        hidden = number < len(widths) - 2
        activation = draw(st.sampled_from(list(ACTIVATIONS))) if hidden else last
        dropout = draw(st.sampled_from([0.0, 0.0, 0.0, 0.25])) if hidden else 0.0
        layers.append(nnk.Dense(n_in, n_out, activation=activation, bias=bias, dropout=dropout))
    n_rows = draw(st.integers(1, most_rows))
    batch = draw(st.one_of(st.just(1), st.just(n_rows), st.integers(1, n_rows)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x, y = rng.normal(size=(n_rows, widths[0])), rng.normal(size=(n_rows, widths[-1]))
    settings = {"reduction": draw(st.sampled_from(["mean", "mean", "sum"]))}
    if loss == "categorical_cross_entropy":
        y = rng.integers(0, widths[-1], n_rows)
        settings["class_weight"] = draw(st.sampled_from([None, None, [*rng.uniform(0.1, 2, widths[-1])]]))
    elif loss == "binary_cross_entropy":
        y = rng.uniform(size=y.shape)
        if widths[-1] == 1 and draw(st.booleans()):
            y, settings["class_weight"] = y.round(), [0.5, 2.0]
    elif loss == "poisson":
        y = rng.integers(0, 4, y.shape)
    elif loss == "huber":
        settings["delta"] = draw(st.sampled_from([1.0, 0.4]))
    arguments = {
        "loss": LOSSES[loss](**settings),
        "optimizer": draw(optimizers()),
        "batch_size": batch,
        "steps": draw(st.integers(1, most_steps)),
        "sampling": draw(st.sampled_from(SAMPLINGS)),
        "sample_weight": draw(st.sampled_from([None, None, 1])) and rng.uniform(0, 2, n_rows),
    }
    return Problem(layers, x, y, arguments)


# ---- runs ------------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What a run left: parameters by name and logged losses, which are NaN where it diverged, at a step."""

    parameters: dict[str, Any]
    loss: Any
    diverged: int | None = None


def network(layers, start, *, device, dtype):
    """Return a network whose first parameters are float32 numbers in either dtype."""
    net = nnk.Sequential(*layers, device=device, dtype=dtype, rng=5)
    net.parameters.update(nnk.Sequential(*layers, device="numpy", dtype="float32", rng=5).parameters.to_host())
    if start is not None:
        net.parameters.flat[...] *= start
    return net


def trained(layers, x, y, arguments, *, device, dtype, plan, start=None):
    """Train and return the outcome; `start` is multiplied to the first parameters."""
    net = network(layers, start, device=device, dtype=dtype)
    try:
        history = net.fit(x, y, **arguments, plan=plan)
    except nnk.DivergenceError as error:
        return Outcome(net.parameters.to_host(), np.array([np.nan]), error.step)
    return Outcome(net.parameters.to_host(), history.loss)


def distance(first, second):
    """Return the largest difference of two outcomes, relative to 1 plus the largest number of its kind."""
    if first.diverged != second.diverged:
        return np.inf
    pairs = [(first.parameters[name], value) for name, value in second.parameters.items()]
    pairs += [(first.loss, second.loss)] * (first.diverged is None)
    return max(np.abs(one - other).max() / (1 + np.abs(other).max()) for one, other in pairs)


def reference(problem, dtype, start=None):
    """Return the outcome of composed NumPy in float64, on data that are rounded to a dtype."""
    layers, x, y, arguments = problem
    x, y = (np.asarray(part).astype(dtype) if np.asarray(part).dtype.kind == "f" else part for part in (x, y))
    return trained(
        layers,
        x,
        y,
        arguments,
        device="numpy",
        dtype="float64",
        plan="composed",
        start=start,
    )


def rounding_decides(problem, dtype, expected):
    """Tell whether a run hangs on how numbers are rounded: at a kink, or where small differences grow.

    The reference then ends elsewhere if its first parameters are changed by a few units in the last place.
    """
    few = 8 * np.finfo(dtype).eps
    size = sum(layer.n_parameters for layer in problem.layers)
    starts = [1 + few * np.random.default_rng(seed).uniform(-1, 1, size) for seed in range(12)]
    return any(distance(reference(problem, dtype, start), expected) > closeness(dtype) / 4 for start in starts)


def closeness(dtype):
    """Return how near to each other the ways are."""
    return relative(dtype, "short trajectory")


# ---- other programs, other threads -----------------------------------------------------------------------------------


@contextmanager
def program_of(write: Callable[[Recipe], Any]):
    """Let plan="generated" run the program that `write` returns for a recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "written", lambda recipe, way: write(recipe))
        yield


@contextmanager
def gang_of(count):
    """Let every whole run whose program has parts use so many threads; yields how many each of its calls used."""
    together, used = threads.together, []

    def counted(call, number):
        used.append(number)
        together(call, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "worth_threads", True)
        patch.setattr(threads, "count", lambda: count)
        patch.setattr(threads, "together", counted)
        yield used
