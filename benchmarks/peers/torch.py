"""PyTorch: a Module with its optimizer, the same by hand in place, both compiled, and both as CUDA graphs.

`device` is the CPU or a GPU. On a GPU a run is timed by the GPU's events, its data are there before it begins, and
what the L2 cache holds of an earlier run is flushed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.copies import Copies
from benchmarks.gpu import FLUSH_BYTES, seconds_of
from benchmarks.operations import Operation
from benchmarks.peers import missing
from benchmarks.problem import Many, Problem
from benchmarks.workers import Absent, Fresh, Measured

GRAPH_STEPS = 64  #: of a CUDA graph, at most; more would only be longer to capture


def available() -> str | None:
    """Return why PyTorch cannot be used, or None."""
    return missing("torch")


def _torch(device: str, precision: str = "float32") -> Any:
    """Return the module, told how many threads it has, and the precision of its products."""
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise Absent(f"this PyTorch, {torch.__version__}, finds no GPU")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return torch


def _timed(torch: Any, device: str, loop: Callable[[], None], weights: Callable[[], Any]) -> Callable[[], Any]:
    """Return a run: the loop, whose time is that of the GPU where there is one, then the weights."""
    if device == "cpu":

        def run() -> Any:
            loop()
            return weights()

        return run
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device).zero_()
    torch.cuda.synchronize()

    def by_events() -> Measured:
        start.record()
        loop()
        stop.record()
        stop.synchronize()
        return Measured(start.elapsed_time(stop) / 1e3, weights())

    return by_events


def module(problem: Problem, *, device: str = "cpu", compiled: bool = False) -> Fresh:
    """`nn.Sequential`, a loss from `nn.functional`, `torch.optim`: what its users write."""
    torch = _torch(device, problem.precision)
    x, t, order = _data(torch, problem, device)
    loss = _loss(torch, problem)
    build = torch.compile if compiled else lambda function: function

    def forward(net: Any, x: Any, t: Any) -> Any:
        return loss(net(x), t)

    call = build(forward)

    def fresh() -> Callable[[], Any]:
        _torch(device, problem.precision)
        net = _module(torch, problem).to(device)
        optimizer = _optimizer(torch, problem, net)

        def loop() -> None:
            for number in range(problem.steps):
                rows = None if order is None else order[number]
                optimizer.zero_grad()
                (call(net, x, t) if rows is None else call(net, x[rows], t[rows])).backward()
                optimizer.step()

        return _timed(torch, device, loop, lambda: _weights(net))

    if compiled:
        _try(fresh)
    return fresh


def _optimizer(torch: Any, problem: Problem, net: Any, **options: Any) -> Any:
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    return kinds[problem.optimizer](net.parameters(), lr=problem.lr, **options)


def copies(many: Copies) -> Fresh:
    """`torch.func`: the gradient of a functional network, vmapped over an ensemble's weights; updates in place."""
    torch = _torch("cpu")
    problem = many.one
    x, t = torch.from_numpy(problem.x), torch.from_numpy(problem.t)
    order = torch.from_numpy(many.order.astype("int64"))
    activations = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}

    def loss(parameters: Any, x: Any, t: Any) -> Any:
        a = x
        for layer, weight, bias in problem.by_layer(list(parameters)):
            a = a @ weight if bias is None else a @ weight + bias
            a = activations.get(layer.activation, lambda z: z)(a)
        squares = (a - t) ** 2
        return squares.mean() if problem.loss == "mean_squared_error" else squares.sum(1).mean() / 2

    gradient = torch.func.vmap(torch.func.grad(loss))

    def fresh() -> Callable[[], Any]:
        parameters = [torch.from_numpy(array.copy()) for array in many.start]
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        optimizer = kinds[problem.optimizer](parameters, lr=problem.lr)

        def run() -> Any:
            for number in range(problem.steps):
                rows = order[:, number]
                for parameter, slope in zip(parameters, gradient(tuple(parameters), x[rows], t[rows]), strict=True):
                    parameter.grad = slope
                optimizer.step()
            return many.picked([parameter.numpy() for parameter in parameters])

        return run

    return fresh


def by_hand(problem: Problem, *, device: str = "cpu", compiled: bool = False) -> Fresh:
    """Forward, backward and update written out, in place, without autograd."""
    torch = _torch(device, problem.precision)
    x, t, order = _data(torch, problem, device)
    step = _hand_step(torch, problem, compiled)

    def fresh() -> Callable[[], Any]:
        _torch(device, problem.precision)
        parameters = [torch.from_numpy(array.copy()).to(device) for array in problem.start]

        def loop() -> None:
            with torch.inference_mode():
                for number in range(problem.steps):
                    if order is None:
                        step(parameters, x, t)
                    else:
                        step(parameters, x.index_select(0, order[number]), t.index_select(0, order[number]))

        return _timed(torch, device, loop, lambda: _to_host(parameters))

    if compiled:
        _try(fresh)
    return fresh


# ---- CUDA graphs -----------------------------------------------------------------------------------------------------


def graphs(problem: Problem, *, device: str, compiled: bool = False) -> Fresh:
    """The steps by hand, as many of them as may be in one CUDA graph, which is replayed."""
    torch = _torch(device, problem.precision)
    x, t, order = _data(torch, problem, device)
    step = _hand_step(torch, problem, compiled)
    start = [torch.from_numpy(array).to(device) for array in problem.start]
    parameters = [array.clone() for array in start]

    def one(rows: Any) -> None:
        with torch.inference_mode():
            if rows is None:
                step(parameters, x, t)
            else:
                step(parameters, x.index_select(0, rows), t.index_select(0, rows))

    def reset() -> None:
        for array, first in zip(parameters, start, strict=True):
            array.copy_(first)

    return _replayed(torch, problem, device, one, reset, order, lambda: _to_host(parameters))


def module_graphs(problem: Problem, *, device: str) -> Fresh:
    """The Module and its optimizer, as many steps as may be in one CUDA graph, which is replayed."""
    torch = _torch(device, problem.precision)
    x, t, order = _data(torch, problem, device)
    loss, net = _loss(torch, problem), _module(torch, problem).to(device)
    start = [array.detach().clone() for array in net.parameters()]
    options = {"capturable": True} if problem.optimizer == "adam" else {}
    optimizer = _optimizer(torch, problem, net, **options)

    def one(rows: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(net(x if rows is None else x[rows]), t if rows is None else t[rows]).backward()
        optimizer.step()

    def reset() -> None:
        with torch.no_grad():
            for array, first in zip(net.parameters(), start, strict=True):
                array.copy_(first)
            for state in optimizer.state.values():
                for array in state.values():
                    array.zero_()

    return _replayed(torch, problem, device, one, reset, order, lambda: _weights(net))


def _replayed(
    torch: Any,
    problem: Problem,
    device: str,
    one: Callable[[Any], None],
    reset: Callable[[], None],
    order: Any,
    weights: Callable[[], Any],
) -> Fresh:
    """Capture as many steps as divide the run; a run copies their rows into place and replays, again and again."""
    if device == "cpu":
        raise Absent("CUDA graphs are of a GPU")
    length = max(count for count in range(1, GRAPH_STEPS + 1) if problem.steps % count == 0)
    rows = None if order is None else order[:length].clone()

    def steps(count: int) -> None:
        for number in range(count):
            one(None if rows is None else rows[number])

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # what is made when first called must be there before the capture
        steps(min(3, length))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps(length)

    def loop() -> None:
        for first in range(0, problem.steps, length):
            if rows is not None:
                rows.copy_(order[first : first + length])
            graph.replay()

    def fresh() -> Callable[[], Any]:
        reset()
        return _timed(torch, device, loop, weights)

    return fresh


# ---- many networks ---------------------------------------------------------------------------------------------------


def many(problem: Many, *, device: str = "cpu", compiled: bool = False) -> Fresh:
    """`torch.func`: the gradient of one network's loss, mapped over all networks."""
    torch = _torch(device)
    x, t, order = _data(torch, problem, device)
    rates = [torch.from_numpy(problem.rates).to(device).reshape(-1, *[1] * (a.ndim - 1)) for a in problem.start]
    loss = _loss(torch, problem)

    def of_one(parameters: tuple[Any, ...], x: Any, t: Any) -> Any:
        a = x
        for layer, weight, bias in problem.by_layer(list(parameters)):
            z = a @ weight if bias is None else a @ weight + bias
            a = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}.get(layer.activation, lambda z: z)(z)
        return loss(a, t)

    slopes = torch.func.vmap(torch.func.grad(of_one))

    def step(parameters: tuple[Any, ...], rows: Any) -> tuple[Any, ...]:
        gradients = slopes(parameters, x[rows][:, None], t[rows][:, None])
        return tuple(p - rate * g for p, rate, g in zip(parameters, rates, gradients, strict=True))

    call = torch.compile(step) if compiled else step

    def fresh() -> Callable[[], Any]:
        parameters = tuple(torch.from_numpy(array.copy()).to(device) for array in problem.start)

        def loop() -> None:
            nonlocal parameters
            for number in range(problem.steps):
                parameters = call(parameters, order[number])

        return _timed(torch, device, loop, lambda: _to_host(parameters))

    if compiled:
        _try(fresh)
    return fresh


# ---- what they share -------------------------------------------------------------------------------------------------


def _try(fresh: Fresh) -> None:
    """Run once: a compiler that does not work here says so now."""
    try:
        fresh()()
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        raise Absent(f"torch.compile does not work here: {type(error).__name__}: {lines[0]}"[:160]) from None


def _data(torch: Any, problem: Problem, device: str) -> tuple[Any, Any, Any]:
    order = None if problem.order is None else torch.from_numpy(problem.order.astype(np.int64)).to(device)
    return torch.from_numpy(problem.x).to(device), torch.from_numpy(problem.t).to(device), order


def _module(torch: Any, problem: Problem) -> Any:
    kinds = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
    parts = []
    for layer, weight, bias in problem.by_layer(problem.start):
        linear = torch.nn.Linear(layer.n_in, layer.n_out, bias=layer.bias, dtype=getattr(torch, problem.dtype))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T.copy()))
            if bias is not None:
                linear.bias.copy_(torch.from_numpy(bias))
        parts.append(linear)
        if layer.activation in kinds:
            parts.append(kinds[layer.activation]())
    return torch.nn.Sequential(*parts)


def _to_host(arrays: Any) -> list[Any]:
    return [array.detach().cpu().numpy() for array in arrays]


def _weights(net: Any) -> Any:
    return [array.T if array.ndim == 2 else array for array in _to_host(net.parameters())]


def _loss(torch: Any, problem: Problem) -> Callable[[Any, Any], Any]:
    functional = torch.nn.functional
    rows = problem.batch if problem.reduction == "mean" else 1
    if problem.loss == "categorical_cross_entropy":
        return functional.cross_entropy
    if problem.loss == "mean_squared_error":
        return functional.mse_loss
    return lambda p, t: functional.mse_loss(p, t, reduction="sum") * (0.5 / rows)


def _hand_step(torch: Any, problem: Problem, compiled: bool = False) -> Callable[..., None]:
    if problem.optimizer != "sgd":
        raise Absent("written by hand for plain SGD only")
    share = problem.lr / (problem.batch if problem.reduction == "mean" else 1)
    if problem.loss == "mean_squared_error":
        share *= 2 / problem.layers[-1].n_out

    def step(parameters: list[Any], x: Any, t: Any) -> None:
        layers, outs = problem.by_layer(parameters), [x]
        for layer, weight, bias in layers:
            z = outs[-1] @ weight if bias is None else torch.addmm(bias, outs[-1], weight)
            outs.append(_activate(torch, layer.activation, z))
        delta = (outs[-1] - t).mul_(share)
        for number in reversed(range(len(layers))):
            layer, weight, bias = layers[number]
            delta = _times_slope(layer.activation, outs[number + 1], delta)
            before = delta @ weight.T if number else None
            weight.addmm_(outs[number].T, delta, alpha=-1)
            if bias is not None:
                bias.sub_(delta.sum(0))
            delta = before

    return torch.compile(step) if compiled else step


def _times_slope(name: str, a: Any, delta: Any) -> Any:
    if name == "sigmoid":
        return delta.mul_(a).mul_(1 - a)
    if name == "tanh":
        return delta.mul_(1 - a * a)
    return delta.mul_(a > 0) if name == "relu" else delta


def _activate(torch: Any, name: str, z: Any) -> Any:
    kinds = {"sigmoid": torch.sigmoid_, "tanh": torch.tanh_, "relu": torch.relu_}
    if name == "softmax":
        return torch.softmax(z, 1)
    return kinds[name](z) if name in kinds else z


def operation(op: Operation, *, device: str = "cpu") -> Fresh:
    """One call, into arrays made before where PyTorch lets one; losses with autograd."""
    torch = _torch(device, op.precision)
    arrays = {name: torch.from_numpy(array).to(device) for name, array in op.arrays().items()}
    call = _function(torch, op, arrays)
    if device != "cpu":
        return _cold_operation(torch, op, call, device)

    def run() -> Any:
        results: Any = []
        for _ in range(op.loops):
            results = call()
        return _to_host(results)

    return lambda: run


def _cold_operation(torch: Any, op: Operation, call: Callable[[], Any], device: str) -> Fresh:
    scrap = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def run() -> Measured:
        _torch(device, op.precision)
        results: list[Any] = []

        def keep() -> None:
            results[:] = call()

        event = lambda: torch.cuda.Event(enable_timing=True)  # noqa: E731
        elapsed = lambda start, stop: start.elapsed_time(stop)  # noqa: E731
        return Measured(seconds_of(keep, op.loops, event, scrap.zero_, elapsed), _to_host(results))

    return lambda: run


def _function(torch: Any, op: Operation, arrays: dict[str, Any]) -> Callable[[], Any]:
    if op.name == "matmul_forward":
        out = arrays["x"].new_empty(op.shape[0], op.shape[2])
        return lambda: [torch.addmm(arrays["b"], arrays["x"], arrays["w"], out=out)]
    if op.name == "matmul_backward":
        x, w, dz = arrays["x"], arrays["w"], arrays["dz"]
        dx, dw, db = torch.empty_like(x), torch.empty_like(w), x.new_empty(op.shape[2])
        return lambda: [torch.mm(dz, w.T, out=dx), torch.mm(x.T, dz, out=dw), torch.sum(dz, 0, out=db)]
    if op.name.startswith("sigmoid"):
        z, da = arrays["z"], arrays.get("da")
        a, dz = torch.empty_like(z), torch.empty_like(z)
        if da is None:
            return lambda: [torch.sigmoid(z, out=a)]
        backward = torch.ops.aten.sigmoid_backward.grad_input
        return lambda: [torch.sigmoid(z, out=a), backward(da, a, grad_input=dz)]
    p, loss = arrays["p"].requires_grad_(), _loss_function(torch, op.name)

    def call() -> Any:
        p.grad = None
        value = loss(p, arrays["t"])
        value.backward()
        return [value, p.grad]

    return call


def _loss_function(torch: Any, name: str) -> Callable[[Any, Any], Any]:
    functional = torch.nn.functional
    return {
        "half_squared_error": lambda p, t: functional.mse_loss(p, t, reduction="sum") * (0.5 / len(p)),
        "mean_squared_error": functional.mse_loss,
        "absolute_error": functional.l1_loss,
        "huber": functional.huber_loss,
        "poisson": functional.poisson_nll_loss,
        "poisson_rate": lambda p, t: functional.poisson_nll_loss(p, t, log_input=False, eps=0.0),
        "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
        "categorical_cross_entropy": functional.cross_entropy,
    }[name]
