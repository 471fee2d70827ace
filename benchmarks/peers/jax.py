"""JAX: the whole run in one call, and a call a step. Buffers are donated, the data and the order are on the device.

Which device that is, the benchmark says with JAX_PLATFORMS.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.copies import Copies
from benchmarks.gpu import FLUSH_BYTES
from benchmarks.operations import Operation
from benchmarks.peers import missing
from benchmarks.problem import Many, Problem
from benchmarks.workers import Fresh, Measured

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

    with _products(problem.precision):
        compiled = jax.jit(whole, donate_argnums=0).lower(_start(problem), x, t, order).compile()

    def fresh() -> Callable[[], Any]:
        state = jax.block_until_ready(_start(problem))
        _flush()
        return lambda: _weights(jax.block_until_ready(compiled(state, x, t, order)))

    return fresh


def _products(precision: str) -> Any:
    """Return a context for products of that precision: on a GPU, what JAX takes for float32 is tf32."""
    import jax

    if jax.default_backend() == "cpu":
        return nullcontext()
    return jax.default_matmul_precision({"float32": "float32", "tf32": "tensorfloat32"}[precision])


def _flush() -> None:
    """Leave nothing of an earlier run in a GPU's cache."""
    import jax
    import jax.numpy as jnp

    if jax.default_backend() != "cpu":
        jax.block_until_ready(jnp.zeros(FLUSH_BYTES, jnp.uint8))


def copies(many: Copies) -> Fresh:
    """`lax.scan` over steps of all networks: a step of one, vmapped."""
    import jax
    import jax.numpy as jnp

    one, problem = jax.vmap(_step(many.one)), many.one
    x, t = jax.device_put(problem.x), jax.device_put(problem.t)
    order = jax.device_put(np.ascontiguousarray(many.order.transpose(1, 0, 2)))

    def start() -> Any:
        state = _start(replace(problem, start=many.start))
        return state if len(state) == 1 else (*state[:-1], jnp.zeros(many.networks, jnp.int32))

    def whole(state: Any, x: Any, t: Any, order: Any) -> Any:
        return jax.lax.scan(lambda state, rows: (one(state, x[rows], t[rows]), None), state, order)[0]

    compiled = jax.jit(whole, donate_argnums=0).lower(start(), x, t, order).compile()

    def fresh() -> Callable[[], Any]:
        state = jax.block_until_ready(start())
        return lambda: many.picked(_weights(jax.block_until_ready(compiled(state, x, t, order))))

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


def many(problem: Many, *, columns: bool = False) -> Fresh:
    """One jitted call: `lax.scan` over the steps of all networks, `vmap` over the networks.

    With `columns`, written by hand for 1-h-1 networks: the networks are the last axis of every array, where the
    compiler fuses best.
    """
    import jax

    x, t, order = (jax.device_put(array) for array in (problem.x, problem.t, problem.rows[: problem.steps]))
    rates = jax.device_put(problem.rates)
    one = _columns_step(problem) if columns else _many_step(problem)

    def whole(parameters: Any, x: Any, t: Any, order: Any, rates: Any) -> Any:
        return jax.lax.scan(lambda p, rows: (one(p, x[rows], t[rows], rates), None), parameters, order)[0]

    def start() -> Any:
        arrays = [array[:, :, 0] if array.shape[2] == 1 else array[:, 0] for array in problem.start]
        host = [array.T for array in arrays] if columns else problem.start
        return [jax.device_put(np.array(array, order="C")) for array in host]

    def to_host(parameters: Any) -> Any:
        arrays = [np.asarray(array) for array in jax.block_until_ready(parameters)]
        if not columns:
            return arrays
        return [array.T.reshape(old.shape) for array, old in zip(arrays, problem.start, strict=True)]

    compiled = jax.jit(whole, donate_argnums=0).lower(start(), x, t, order, rates).compile()

    def fresh() -> Callable[[], Any]:
        parameters = jax.block_until_ready(start())
        return lambda: to_host(compiled(parameters, x, t, order, rates))

    return fresh


def _many_step(problem: Many) -> Callable[..., Any]:
    import jax

    slopes = jax.vmap(jax.grad(_loss(problem)))

    def step(parameters: Any, x: Any, t: Any, rates: Any) -> Any:
        gradients = slopes(parameters, x[:, None], t[:, None])
        return [p - rates.reshape(-1, *[1] * (p.ndim - 1)) * g for p, g in zip(parameters, gradients, strict=True)]

    return step


def _columns_step(problem: Many) -> Callable[..., Any]:
    """Return the step of sigmoid 1-h-1 networks without biases; weights are (h, networks)."""
    import jax

    def step(parameters: Any, x: Any, t: Any, rates: Any) -> Any:
        w1, w2 = parameters
        a = jax.nn.sigmoid(w1 * x[:, 0])
        delta = rates * ((w2 * a).sum(0) - t[:, 0])
        return [w1 - delta * w2 * a * (1 - a) * x[:, 0], w2 - delta * a]

    return step


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

    dtype, lr, loss = problem.dtype, problem.lr, _loss(problem)

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


def _loss(problem: Problem) -> Callable[..., Any]:
    """Return the loss of a batch, as a function of parameters and batch."""
    import jax
    import jax.numpy as jnp

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

    return loss


def operation(op: Operation) -> Fresh:
    """One jitted call, waited for; on a GPU calls on inputs that take turns, so that they are in no cache."""
    import jax

    with _products(op.precision):
        compiled = jax.jit(_function(op)).lower(**op.arrays()).compile()
    if op.cold:
        return _in_turns(op, compiled)
    arrays = {name: jax.device_put(array) for name, array in op.arrays().items()}

    def run() -> Any:
        results: Any = []
        for _ in range(op.loops):
            results = jax.block_until_ready(compiled(**arrays))
        return [np.asarray(array) for array in results]

    return lambda: run


def _in_turns(op: Operation, compiled: Any) -> Fresh:
    """Calls that are not waited for one by one: JAX has no events that would leave out the launch."""
    import jax

    host = op.arrays()
    nbytes = sum(array.nbytes for array in host.values())
    copies = [{name: jax.device_put(array) for name, array in host.items()} for _ in range(1 + FLUSH_BYTES // nbytes)][
        : op.loops
    ]

    def run() -> Measured:
        results: Any = []
        start = time.perf_counter()
        for number in range(op.loops):
            results = compiled(**copies[number % len(copies)])
        jax.block_until_ready(results)
        return Measured(time.perf_counter() - start, [np.asarray(array) for array in results])

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
