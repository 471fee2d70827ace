"""Random networks and runs, and the comparison of every way to run them."""

import hypothesis.strategies as st
import numpy as np

import nnkernels as nnk
from nnkernels._formulas import ACTIVATIONS

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
def problems(draw):
    """A network, its data, and the arguments of fit."""
    widths = draw(st.lists(st.integers(1, 20), min_size=2, max_size=5))
    widths[0] = draw(st.integers(1, 9))
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
    n_rows = draw(st.integers(1, 60))
    batch = draw(st.one_of(st.just(1), st.just(n_rows), st.integers(1, n_rows)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x, y = rng.normal(size=(n_rows, widths[0])), rng.normal(size=(n_rows, widths[-1]))
    if loss == "categorical_cross_entropy":
        y = rng.integers(0, widths[-1], n_rows)
    elif loss == "binary_cross_entropy":
        y = rng.uniform(size=y.shape)
    elif loss == "poisson":
        y = rng.integers(0, 4, y.shape)
    arguments = {
        "loss": LOSSES[loss](reduction=draw(st.sampled_from(["mean", "mean", "sum"]))),
        "optimizer": draw(optimizers()),
        "batch_size": batch,
        "steps": draw(st.integers(1, 40)),
        "sampling": draw(st.sampled_from(["permutation", "replacement", "sequential"])),
        "sample_weight": draw(st.sampled_from([None, None, 1])) and rng.uniform(0, 2, n_rows),
    }
    return layers, x, y, arguments


def trained(layers, x, y, arguments, *, device, dtype, plan):
    """Train and return the parameters and the losses; None where the run diverges."""
    net = nnk.Sequential(*layers, device=device, dtype=dtype, rng=5)
    try:
        history = net.fit(x, y, **arguments, plan=plan)
    except nnk.DivergenceError:
        return None
    return net.parameters.to_host(), history.loss
