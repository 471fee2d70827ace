"""TensorFlow: the whole run as one function compiled by XLA, and Keras' fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import missing
from benchmarks.problem import Problem
from benchmarks.workers import Fresh


def available() -> str | None:
    """Return why TensorFlow cannot be used, or None."""
    return missing("tensorflow")


def _tensorflow() -> Any:
    import tensorflow as tf

    threads = int(os.environ["OMP_NUM_THREADS"])
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def function(problem: Problem) -> Fresh:
    """`tf.function(jit_compile=True)` around the loop over the steps."""
    tf = _tensorflow()
    x, t = tf.constant(problem.x), tf.constant(problem.t)
    order = None if problem.order is None else tf.constant(problem.order.astype(np.int32))

    @tf.function(jit_compile=True)
    def whole(state: Any) -> Any:
        def body(number: Any, state: Any) -> Any:
            rows = None if order is None else order[number]
            batch = (x, t) if rows is None else (tf.gather(x, rows), tf.gather(t, rows))
            return number + 1, _step(tf, problem, number, state, *batch)

        return tf.while_loop(lambda number, _: number < problem.steps, body, (tf.constant(0), state))[1][0]

    def fresh() -> Callable[[], Any]:
        parameters = [tf.constant(array) for array in problem.start]
        zeros = [tf.zeros_like(array) for array in parameters]
        state = [parameters] if problem.optimizer == "sgd" else [parameters, zeros, zeros]
        return lambda: [array.numpy() for array in whole(state)]

    return fresh


def keras(problem: Problem) -> Fresh:
    """`Model.fit` over the rows in the given order."""
    _tensorflow()
    import keras

    # one epoch over the batches of all steps: an epoch costs much more than a step
    order = np.tile(np.arange(problem.batch), problem.steps) if problem.order is None else problem.order.ravel()
    x, t = problem.x[order], problem.t[order]
    keras.config.set_floatx(problem.dtype)
    layers = [
        keras.layers.Dense(layer.n_out, "linear" if layer.activation == "identity" else layer.activation, layer.bias)
        for layer in problem.layers
    ]
    model = keras.Sequential([keras.Input((problem.layers[0].n_in,)), *layers])
    kinds = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
    optimizer = kinds[problem.optimizer](problem.lr)
    model.compile(optimizer, _loss(keras, problem))

    def fresh() -> Callable[[], Any]:
        model.set_weights(problem.start)
        for variable in optimizer.variables:
            if "learning_rate" not in variable.path:
                variable.assign(keras.ops.zeros_like(variable))

        def run() -> Any:
            model.fit(x, t, batch_size=problem.batch, shuffle=False, verbose=0)
            return model.get_weights()

        return run

    return fresh


def _loss(keras: Any, problem: Problem) -> Any:
    if problem.loss == "categorical_cross_entropy":
        return "categorical_crossentropy"
    if problem.loss == "mean_squared_error":
        return "mean_squared_error"
    rows = problem.batch if problem.reduction == "mean" else 1
    return lambda t, p: keras.ops.sum(keras.ops.square(p - t)) * (0.5 / rows)


def _step(tf: Any, problem: Problem, number: Any, state: Any, x: Any, t: Any) -> Any:
    """Return the state after a step."""
    parameters = state[0]
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        value = _value(tf, problem, parameters, x, t)
    gradients = tape.gradient(value, parameters)
    if problem.optimizer == "sgd":
        return [[p - problem.lr * g for p, g in zip(parameters, gradients, strict=True)]]
    count = tf.cast(number + 1, problem.dtype)
    m = [0.9 * a + 0.1 * g for a, g in zip(state[1], gradients, strict=True)]
    v = [0.999 * a + 0.001 * g * g for a, g in zip(state[2], gradients, strict=True)]
    rate, root = problem.lr / (1 - 0.9**count), tf.sqrt(1 - 0.999**count)
    new = [p - rate * a / (tf.sqrt(b) / root + 1e-8) for p, a, b in zip(parameters, m, v, strict=True)]
    return [new, m, v]


def _value(tf: Any, problem: Problem, parameters: Any, x: Any, t: Any) -> Any:
    kinds = {"sigmoid": tf.sigmoid, "tanh": tf.tanh, "relu": tf.nn.relu}
    a = x
    for layer, weight, bias in problem.by_layer(parameters):
        a = a @ weight if bias is None else a @ weight + bias
        a = kinds[layer.activation](a) if layer.activation in kinds else a
    if problem.loss == "categorical_cross_entropy":
        rows = tf.nn.softmax_cross_entropy_with_logits(t, a)
    elif problem.loss == "half_squared_error":
        rows = 0.5 * tf.reduce_sum((a - t) ** 2, 1)
    else:
        rows = tf.reduce_mean((a - t) ** 2, 1)
    return tf.reduce_mean(rows) if problem.reduction == "mean" else tf.reduce_sum(rows)
