"""Whole-run CUDA programs that stand for all others: every form, activation, loss and optimizer, and what they mix."""

from functools import cache

import numpy as np
import pytest
import ways
from emulator.host import pretended

import nnkernels as nnk
from nnkernels._recipe import Recipe
from nnkernels.backends.cupy.codegen import block, choice, rows, units

ROWS, STEPS = 41, 7


def chain(*parts, dropout=0.0):
    """Return layers of (n_in, (n_out, activation), ...)."""
    sizes = [parts[0], *(n for n, _ in parts[1:])]
    return [
        nnk.Dense(n_in, n_out, activation=name, dropout=dropout if place < len(parts) - 2 else 0.0)
        for place, (n_in, (n_out, name)) in enumerate(zip(sizes[:-1], parts[1:], strict=True))
    ]


#: form and lanes, layers, loss, optimizer, batch
PROGRAMS = {
    "rows": (
        lambda recipe: rows.write(recipe, 1),
        chain(2, (4, "silu"), (3, "gelu")),
        nnk.Huber(),
        nnk.SGD(0.1, momentum=0.9, nesterov=True, l1=0.01),
        1,
    ),
    "rows of 8 lanes": (
        lambda recipe: rows.write(recipe, 8),
        chain(3, (4, "elu"), (2, "softmax"), dropout=0.2),
        nnk.CategoricalCrossEntropy(),
        nnk.SGD(0.1, momentum=0.9, clip_norm=0.3, weight_decay=0.1),
        19,
    ),
    "units": (
        units.write,
        chain(1, (10, "sigmoid"), (1, "sigmoid")),
        nnk.HalfSquaredError(),
        nnk.SGD(0.5),
        1,
    ),
    "units of three layers": (
        units.write,
        chain(2, (12, "tanh"), (4, "relu"), (2, "softmax"), dropout=0.2),
        nnk.CategoricalCrossEntropy(),
        nnk.AdamW(0.01, clip_norm=0.3, weight_decay=0.1),
        4,
    ),
    "block": (
        block.write,
        chain(2, (20, "softplus"), (17, "leaky_relu"), (3, "softmax"), dropout=0.2),
        nnk.CategoricalCrossEntropy(),
        nnk.Adam(0.01, clip_norm=0.3, l2=0.01),
        5,
    ),
    "block of two warps a row": (
        block.write,
        chain(3, (65, "tanh"), (2, "sigmoid")),
        nnk.BinaryCrossEntropy(),
        nnk.RMSprop(0.003, clip_value=0.05),
        20,
    ),
    "block in global memory": (
        block.write,
        chain(30, (90, "tanh"), (80, "identity")),
        nnk.MeanSquaredError(),
        nnk.Adam(0.001),
        3,
    ),
}


@cache
def written(name, dtype):
    """Return a program, and whether a network of that dtype can get it."""
    write, layers, loss, optimizer, batch = PROGRAMS[name]
    settings = {"n_rows": ROWS, "batch": batch, "sampling": "permutation", "weighted": False}
    recipe = Recipe.of(tuple(layers), loss, optimizer, dtype=dtype, **settings)
    program = write(recipe)
    return program, program.registers <= choice.MOST_REGISTERS


@cache
def problem(name):
    """Return a program's network, data and arguments of fit."""
    _, layers, loss, optimizer, batch = PROGRAMS[name]
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(ROWS, layers[0].n_in)), rng.uniform(size=(ROWS, layers[-1].n_out))
    if isinstance(loss, nnk.CategoricalCrossEntropy):
        y = rng.integers(0, layers[-1].n_out, len(y))
    arguments = {"loss": loss, "optimizer": optimizer, "batch_size": batch, "steps": STEPS, "sampling": "permutation"}
    return ways.Problem(layers, x, y, arguments)


@cache
def expected(name, dtype):
    return ways.reference(problem(name), dtype)


def check_program(name, dtype, *, order=("forward", 0), **settings):
    """Train by a program on an emulated GPU of its own, and compare with composed NumPy."""
    with pytest.MonkeyPatch.context() as patch, pretended(schedule=order[0], seed=order[1], **settings) as emulator:
        patch.setattr(choice, "generated", lambda recipe, networks=1: PROGRAMS[name][0](recipe))
        outcome = ways.trained(*problem(name), device="cuda", dtype=dtype, plan="generated")
    assert "run" in emulator.launched
    distance = ways.distance(outcome, expected(name, dtype))
    assert distance < ways.closeness(dtype), f"{name} is off by {distance:.2g}"
