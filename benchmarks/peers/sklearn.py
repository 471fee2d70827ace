"""scikit-learn's MLP, where the case is one that it can express: it always has biases, and few losses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import missing
from benchmarks.problem import Problem
from benchmarks.workers import Absent, Fresh


def available() -> str | None:
    """Return why scikit-learn cannot be used, or None."""
    return missing("sklearn", "scikit-learn")


def fit(problem: Problem) -> Fresh:
    """`fit` from the given start, over the rows in the given order."""
    _model(problem)  # says at once if it cannot be expressed
    x, t = problem.x, problem.t
    if problem.order is not None:
        x, t = x[problem.order.ravel()], t[problem.order.ravel()]
    epochs = problem.steps if problem.order is None else 1
    classes = problem.loss == "categorical_cross_entropy"
    target = t.argmax(1) if classes else t if t.shape[1] > 1 else t[:, 0]

    def fresh() -> Callable[[], Any]:
        model = _model(problem)
        _start(model, problem)
        model.set_params(max_iter=epochs)

        def run() -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it has not converged: it was not meant to
                model.fit(x, target)
            return _weights(model, problem)

        return run

    return fresh


def _model(problem: Problem) -> Any:
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    last = problem.layers[-1].activation
    softmax = problem.loss == "categorical_cross_entropy"
    if last != ("softmax" if softmax else "identity"):
        raise Absent("has no sigmoid output with a squared error")
    if problem.layers[0].activation == "identity" or len({layer.activation for layer in problem.layers[:-1]}) > 1:
        raise Absent("has one activation for all hidden layers")
    # its squared error is half of ours where there is one output; Adam's eps is scaled with the gradient
    scale = problem.layers[-1].n_out / 2 if problem.loss == "mean_squared_error" else 1.0
    names = {"sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}
    return (MLPClassifier if softmax else MLPRegressor)(
        hidden_layer_sizes=tuple(layer.n_out for layer in problem.layers[:-1]),
        activation=names[problem.layers[0].activation],
        solver=problem.optimizer,
        learning_rate_init=problem.lr if problem.optimizer == "adam" else problem.lr / scale,
        momentum=0.0,
        nesterovs_momentum=False,
        alpha=0.0,
        epsilon=1e-8 * scale,
        batch_size=problem.batch,
        shuffle=False,
        warm_start=True,
        max_iter=1,
        tol=0.0,
        n_iter_no_change=10**9,
    )


def _start(model: Any, problem: Problem) -> None:
    """Let it set itself up on a batch that cannot move it, then give it the start."""
    rows = np.arange(max(problem.batch, problem.layers[-1].n_out)) % len(problem.x)
    x = np.zeros_like(problem.x[rows])
    if problem.loss == "categorical_cross_entropy":
        target: Any = rows % problem.layers[-1].n_out
    else:
        target = problem.t[rows] if problem.t.shape[1] > 1 else problem.t[rows, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, target)
    if hasattr(model, "_optimizer"):
        del model._optimizer  # a fresh one, as for every other row
    for number, (_, weight, bias) in enumerate(problem.by_layer(problem.start)):
        model.coefs_[number][...] = weight
        model.intercepts_[number][...] = 0 if bias is None else bias
    model.t_ = 0
    model.n_iter_ = 0


def _weights(model: Any, problem: Problem) -> Any:
    arrays = []
    for layer, weight, bias in zip(problem.layers, model.coefs_, model.intercepts_, strict=True):
        arrays += [weight, bias] if layer.bias else [weight]
    return arrays
