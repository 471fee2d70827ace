"""JAX: the whole run in one call, and a call a step. Buffers are donated, the data and the order are on the device."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.many import Many
from benchmarks.operations import Operation
from benchmarks.peers import missing
from benchmarks.problem import Problem
from benchmarks.workers import Fresh

os.environ.setdefault("JAX_ENABLE_X64", "1")  # float64 problems; float32 ones stay float32, all arrays have a dtype


def available() -> str | None:
    """Return why JAX cannot be used, or None."""
    return missing("jax")


def scan(problem: Problem) -> Fresh:
    """One jitted call: `lax.scan` over the order, or `fori_loop` where every step takes all rows.

    Not unrolled: on a CPU the loop then no longer is one fused kernel, and a step takes four times as long.
    """
    import jax

    x, t = jax.device_put(problem.x), jax.device_put(problem.t)
    order = None if problem.order is None else jax.device_put(problem.order.astype(np.int32))
    one = _step(problem)

    def whole(state: Any, x: Any, t: Any, order: Any) -> Any:
        if order is None:
            return jax.lax.fori_loop(0, problem.steps, lambda _, state: one(state, x, t), state)
        if problem.batch == 1:  # a scalar index is a slice, where a vector of one index is a gather
            return jax.lax.scan(lambda state, i: (one(state, x[i][None], t[i][None]), None), state, order[:, 0])[0]
        return jax.lax.scan(lambda state, rows: (one(state, x[rows], t[rows]), None), state, order)[0]

    compiled = jax.jit(whole, donate_argnums=0).lower(_start(problem), x, t, order).compile()

    def fresh() -> Callable[[], Any]:
        state = jax.block_until_ready(_start(problem))
        return lambda: _weights(jax.block_until_ready(compiled(state, x, t, order)))

    return fresh


def vmapped(many: Many) -> Fresh:
    """`lax.scan` over steps of all networks: a step of one, vmapped."""
    import jax
    import jax.numpy as jnp

    one, problem = jax.vmap(_step(many.one)), many.one
    x, t = jax.device_put(problem.x), jax.device_put(problem.t)
    order = jax.device_put(np.ascontiguousarray(many.order.transpose(1, 0, 2)))

    def start() -> Any:
        state = _start(replace(problem, start=many.start))
        return state if len(state) == 1 else (*state[:-1], jnp.zeros(many.n, jnp.int32))

    def whole(state: Any, x: Any, t: Any, order: Any) -> Any:
        return jax.lax.scan(lambda state, rows: (one(state, x[rows], t[rows]), None), state, order)[0]

    compiled = jax.jit(whole, donate_argnums=0).lower(start(), x, t, order).compile()

    def fresh() -> Callable[[], Any]:
        state = jax.block_until_ready(start())
        return lambda: many.picked(_weights(jax.block_until_ready(compiled(state, x, t, order))))

    return fresh


def columns(many: Many) -> Fresh:
    """1-10-1 written out with networks as columns: what XLA can fuse best."""
    import jax
    import jax.numpy as jnp

    problem, rate = many.one, jnp.asarray(many.one.lr, many.dtype)
    x, t = jax.device_put(problem.x[:, 0]), jax.device_put(problem.t[:, 0])
    order = jax.device_put(np.ascontiguousarray(many.order[:, :, 0].T))
    starts = [np.ascontiguousarray(array.reshape(many.n, 10).T) for array in many.start]

    def one(state: Any, rows: Any) -> Any:
        a, b = state
        now, target = x[rows], t[rows]
        s = jax.nn.sigmoid(a * now)
        error = (b * s).sum(0) - target
        return (a - rate * error * b * s * (1 - s) * now, b - rate * error * s), None

    def whole(state: Any, order: Any) -> Any:
        return jax.lax.scan(one, state, order)[0]

    def start() -> Any:
        return tuple(jnp.array(array) for array in starts)

    compiled = jax.jit(whole, donate_argnums=0).lower(start(), order).compile()

    def fresh() -> Callable[[], Any]:
        state = jax.block_until_ready(start())

        def run() -> Any:
            a, b = (np.asarray(array).T for array in jax.block_until_ready(compiled(state, order)))
            return many.picked([a[:, None, :], b[:, :, None]])

        return run

    return fresh


def step(problem: Problem) -> Fresh:
    """One jitted call a step, the usual way to write it."""
    import jax

    x, t = jax.device_put(problem.x), jax.device_put(problem.t)
    one = _step(problem)

    @partial(jax.jit, donate_argnums=0)
    def call(state: Any, rows: Any) -> Any:
        return one(state, x, t) if rows is None else one(state, x[rows], t[rows])

    def fresh() -> Callable[[], Any]:
        start = jax.block_until_ready(_start(problem))

        def run() -> Any:
            state = start
            for number in range(problem.steps):
                state = call(state, None if problem.order is None else problem.order[number])
            return _weights(jax.block_until_ready(state))

        return run

    return fresh


def _start(problem: Problem) -> Any:
    """Return fresh buffers of parameters and state; a run gives them away."""
    import jax
    import jax.numpy as jnp

    parameters = [jnp.array(array) for array in problem.start]
    if problem.optimizer == "sgd":
        return (parameters,)
    zeros = [jnp.zeros_like(array) for array in parameters]
    return parameters, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.int32)


def _weights(state: Any) -> Any:
    return [np.asarray(array) for array in state[0]]


def _step(problem: Problem) -> Callable[[Any, Any, Any], Any]:
    """Return a step of training, as a function of state and batch."""
    import jax
    import jax.numpy as jnp

    dtype, lr = problem.dtype, problem.lr

    def loss(parameters: list[Any], x: Any, t: Any) -> Any:
        a = x
        for layer, weight, bias in problem.by_layer(parameters):
            a = a @ weight if bias is None else a @ weight + bias
            a = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}.get(layer.activation, lambda z: z)(a)
        if problem.loss == "categorical_cross_entropy":
            rows = -(t * jax.nn.log_softmax(a)).sum(1)
        elif problem.loss == "half_squared_error":
            rows = 0.5 * ((a - t) ** 2).sum(1)
        else:
            rows = ((a - t) ** 2).mean(1)
        return rows.mean() if problem.reduction == "mean" else rows.sum()

    def sgd(state: Any, x: Any, t: Any) -> Any:
        (parameters,) = state
        gradients = jax.grad(loss)(parameters, x, t)
        return ([p - jnp.asarray(lr, dtype) * g for p, g in zip(parameters, gradients, strict=True)],)

    def adam(state: Any, x: Any, t: Any) -> Any:
        parameters, m, v, count = state
        gradients = jax.grad(loss)(parameters, x, t)
        count = count + 1
        number = count.astype(dtype)
        rate = lr / (1 - jnp.asarray(0.9, dtype) ** number)
        root = jnp.sqrt(1 - jnp.asarray(0.999, dtype) ** number)
        m = [0.9 * a + 0.1 * g for a, g in zip(m, gradients, strict=True)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, gradients, strict=True)]
        new = [p - rate * a / (jnp.sqrt(b) / root + 1e-8) for p, a, b in zip(parameters, m, v, strict=True)]
        return new, m, v, count

    return sgd if problem.optimizer == "sgd" else adam


def operation(op: Operation) -> Fresh:
    """One jitted call, waited for."""
    import jax

    arrays = {name: jax.device_put(array) for name, array in op.arrays().items()}
    compiled = jax.jit(_function(op)).lower(**arrays).compile()

    def run() -> Any:
        results: Any = []
        for _ in range(op.loops):
            results = jax.block_until_ready(compiled(**arrays))
        return [np.asarray(array) for array in results]

    return lambda: run


def _function(op: Operation) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    def backward(x: Any, w: Any, dz: Any) -> Any:
        return dz @ w.T, x.T @ dz, dz.sum(0)

    def pair(z: Any, da: Any) -> Any:
        a, back = jax.vjp(jax.nn.sigmoid, z)
        return a, back(da)[0]

    def rows(p: Any, t: Any) -> Any:
        d = p - t
        elementwise = {
            "half_squared_error": lambda: p.shape[1] * d**2 / 2,
            "mean_squared_error": lambda: d**2,
            "absolute_error": lambda: jnp.abs(d),
            "huber": lambda: jnp.where(jnp.abs(d) <= 1, d**2 / 2, jnp.abs(d) - 0.5),
            "poisson": lambda: jnp.exp(p) - t * p,
            "poisson_rate": lambda: p - t * jnp.log(p),
            "binary_cross_entropy": lambda: jnp.logaddexp(0, p) - t * p,
            "categorical_cross_entropy": lambda: -p.shape[1] * t * jax.nn.log_softmax(p),
        }
        return elementwise[op.name]().mean(1)

    def loss(p: Any, t: Any, weight: Any) -> Any:
        return jax.value_and_grad(lambda p: (weight * rows(p, t)).sum())(p)

    functions = {
        "matmul_forward": lambda x, w, b: (x @ w + b,),
        "matmul_backward": backward,
        "sigmoid_forward": lambda z: (jax.nn.sigmoid(z),),
        "sigmoid_pair": pair,
    }
    return functions.get(op.name, loss)
