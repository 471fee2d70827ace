"""PyTorch: a Module with its optimizer, the same by hand in place, and both compiled."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.many import Many
from benchmarks.operations import Operation
from benchmarks.peers import missing
from benchmarks.problem import Problem
from benchmarks.workers import Absent, Fresh


def available() -> str | None:
    """Return why PyTorch cannot be used, or None."""
    return missing("torch")


def _torch() -> Any:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return torch


def module(problem: Problem, *, compiled: bool = False) -> Fresh:
    """`nn.Sequential`, a loss from `nn.functional`, `torch.optim`: what its users write."""
    torch = _torch()
    x, t, order = _data(torch, problem)
    loss = _loss(torch, problem)
    build = torch.compile if compiled else lambda function: function

    def forward(net: Any, x: Any, t: Any) -> Any:
        return loss(net(x), t)

    call = build(forward)

    def fresh() -> Callable[[], Any]:
        net = _module(torch, problem)
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        optimizer = kinds[problem.optimizer](net.parameters(), lr=problem.lr)

        def run() -> Any:
            for number in range(problem.steps):
                rows = None if order is None else order[number]
                optimizer.zero_grad()
                (call(net, x, t) if rows is None else call(net, x[rows], t[rows])).backward()
                optimizer.step()
            return _weights(net, problem)

        return run

    if compiled:
        _try(fresh)
    return fresh


def vmapped(many: Many) -> Fresh:
    """`torch.func`: the gradient of a functional network, vmapped over an ensemble's weights; updates in place."""
    torch = _torch()
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


def by_hand(problem: Problem, *, compiled: bool = False) -> Fresh:
    """Forward, backward and update written out, in place, without autograd."""
    torch = _torch()
    if problem.optimizer != "sgd":
        raise Absent("written by hand for plain SGD only")
    x, t, order = _data(torch, problem)
    step = _hand_step(torch, problem)
    if compiled:
        step = torch.compile(step)

    def fresh() -> Callable[[], Any]:
        parameters = [torch.from_numpy(array.copy()) for array in problem.start]

        def run() -> Any:
            with torch.inference_mode():
                for number in range(problem.steps):
                    if order is None:
                        step(parameters, x, t)
                    else:
                        step(parameters, x.index_select(0, order[number]), t.index_select(0, order[number]))
            return [array.numpy() for array in parameters]

        return run

    if compiled:
        _try(fresh)
    return fresh


def _try(fresh: Fresh) -> None:
    """Run once: a compiler that does not work here says so now."""
    try:
        fresh()()
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        raise Absent(f"torch.compile does not work here: {type(error).__name__}: {lines[0]}"[:160]) from None


def _data(torch: Any, problem: Problem) -> tuple[Any, Any, Any]:
    order = None if problem.order is None else torch.from_numpy(problem.order.copy())
    return torch.from_numpy(problem.x), torch.from_numpy(problem.t), order


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


def _weights(net: Any, problem: Problem) -> Any:
    arrays = [array.detach().numpy() for array in net.parameters()]
    return [array.T if array.ndim == 2 else array for array in arrays]


def _loss(torch: Any, problem: Problem) -> Callable[[Any, Any], Any]:
    functional = torch.nn.functional
    rows = problem.batch if problem.reduction == "mean" else 1
    if problem.loss == "categorical_cross_entropy":
        return functional.cross_entropy
    if problem.loss == "mean_squared_error":
        return functional.mse_loss
    return lambda p, t: functional.mse_loss(p, t, reduction="sum") * (0.5 / rows)


def _hand_step(torch: Any, problem: Problem) -> Callable[..., None]:
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

    return step


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


def operation(op: Operation) -> Fresh:
    """One call, into arrays made before where PyTorch lets one; losses with autograd."""
    torch = _torch()
    arrays = {name: torch.from_numpy(array) for name, array in op.arrays().items()}
    call = _function(torch, op, arrays)

    def run() -> Any:
        results: Any = []
        for _ in range(op.loops):
            results = call()
        return [array.detach().numpy() for array in results]

    return lambda: run


def _function(torch: Any, op: Operation, arrays: dict[str, Any]) -> Callable[[], Any]:
    if op.name == "matmul_forward":
        out = torch.empty(op.shape[0], op.shape[2])
        return lambda: [torch.addmm(arrays["b"], arrays["x"], arrays["w"], out=out)]
    if op.name == "matmul_backward":
        x, w, dz = arrays["x"], arrays["w"], arrays["dz"]
        dx, dw, db = torch.empty_like(x), torch.empty_like(w), torch.empty(op.shape[2])
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
