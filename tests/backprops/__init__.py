"""Backward passes as learners write them, in their own NumPy, right and wrong. Nothing here uses nnkernels."""

from typing import Any, NamedTuple

import numpy as np


class Problem(NamedTuple):
    """A network as (n_in, n_out, activation, bias) per layer, its loss, and what its data are like."""

    layers: tuple[tuple[int, int, str, bool], ...]
    loss: str
    rows: int
    targets: str = "real"
    reduction: str = "mean"


PROBLEMS = {
    # sin(x) with ten sigmoids and no biases
    "sine": Problem(((1, 10, "sigmoid", False), (10, 1, "identity", False)), "half_squared_error", 25, reduction="sum"),
    "sine with biases": Problem(((1, 8, "tanh", True), (8, 1, "identity", True)), "mean_squared_error", 30),
    # exclusive or, as everyone begins
    "xor": Problem(((2, 4, "sigmoid", True), (4, 1, "sigmoid", True)), "half_squared_error", 6, "binary", "sum"),
    "two outputs": Problem(
        ((2, 3, "sigmoid", True), (3, 2, "sigmoid", True)), "half_squared_error", 5, reduction="sum"
    ),
    "logistic": Problem(((4, 5, "relu", True), (5, 1, "sigmoid", True)), "binary_cross_entropy", 12, "binary"),
    "digits": Problem(((6, 5, "sigmoid", True), (5, 3, "softmax", True)), "categorical_cross_entropy", 14, "one-hot"),
    "digits, deep": Problem(
        ((5, 6, "relu", True), (6, 4, "tanh", True), (4, 3, "softmax", True)),
        "categorical_cross_entropy",
        10,
        "one-hot",
    ),
    "regression, deep": Problem(
        ((3, 4, "tanh", True), (4, 4, "sigmoid", True), (4, 2, "identity", True)), "mean_squared_error", 9
    ),
    "square": Problem(
        ((3, 4, "tanh", True), (4, 4, "tanh", True), (4, 4, "tanh", True), (4, 2, "identity", True)),
        "half_squared_error",
        7,
        reduction="sum",
    ),
    "softmax, squared": Problem(((3, 4, "tanh", True), (4, 3, "softmax", True)), "half_squared_error", 8, "one-hot"),
    "one row": Problem(((3, 4, "sigmoid", True), (4, 2, "sigmoid", True)), "half_squared_error", 1),
}


class Case(NamedTuple):
    """A learner's code: a function of the parameters (W0, b0, W1, ...), x and t that returns gradients."""

    name: str
    problem: Problem
    gradients: Any
    codes: frozenset[str]

    def data(self, dtype=np.float64):
        """Return parameters by name, x and t: the same for the same case."""
        rng = np.random.default_rng(sum(map(ord, self.name)))
        parameters = {}
        for number, (n_in, n_out, _, bias) in enumerate(self.problem.layers):
            parameters[f"{number}.weight"] = rng.normal(0, 1.2 / np.sqrt(n_in), (n_in, n_out)).astype(dtype)
            if bias:
                parameters[f"{number}.bias"] = rng.normal(0, 0.4, n_out).astype(dtype)
        n_in, n_out = self.problem.layers[0][0], self.problem.layers[-1][1]
        x = rng.normal(size=(self.problem.rows, n_in)).astype(dtype)
        if self.problem.targets == "one-hot":
            t = np.eye(n_out)[rng.integers(0, n_out, self.problem.rows)]
        elif self.problem.targets == "binary":
            t = rng.integers(0, 2, (self.problem.rows, n_out))
        else:
            t = rng.normal(size=(self.problem.rows, n_out))
        return parameters, x, t.astype(dtype)

    def run(self, parameters, x, t):
        """Return the learner's gradients by parameter name."""
        names = {f"{'W' if name.endswith('weight') else 'b'}{name[0]}": value for name, value in parameters.items()}
        found = self.gradients(**names, x=x, t=t)
        return {f"{key[-1]}.{'weight' if key[1] == 'W' else 'bias'}": value for key, value in found.items()}


CASES: list[Case] = []


def case(problem, *codes):
    """Add a function to the corpus; without codes it is right."""

    def add(function):
        CASES.append(Case(function.__name__, PROBLEMS[problem], function, frozenset(codes)))
        return function

    return add


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
