"""Every kernel as a program of the vector language: what it reads and writes, and the formula for a vector of elements.

A program has one function, `apply`. It checks its arrays, or leaves the call to the kernel's loop; cuts out the part
that is to be done; and goes through it a vector at a time, the last one masked.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import NamedTuple

from nnkernels._formulas import ACTIVATIONS, LOSSES, OPTIMIZERS, parse
from nnkernels.backends._printing import assignments
from nnkernels.backends.numba.codegen.formulas import VectorDialect, function_source


class Arguments(NamedTuple):
    """A kernel's arguments, in the order of its program: those given by position, and those given by name."""

    positional: tuple[str, ...]
    named: tuple[str, ...]
    read: tuple[str, ...]
    written: tuple[str, ...]
    numbers: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All names."""
        return self.positional + self.named

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays of reals, once each."""
        return tuple(name for name in self.all if name in self.read or name in self.written)


_ACTIVATION = Arguments(("z",), ("out",), ("z",), ("out",))
_LOSS = Arguments(("p", "t", "weight"), ("out",), ("p", "t"), ("out",))
_BY_HAND = {
    "activation_backward": Arguments(("da", "slope"), ("out",), ("da", "slope"), ("out",)),
    "penalty_backward": Arguments(("w",), ("l1", "l2", "out"), ("w", "out"), ("out",), ("l1", "l2")),
    "clip_by_value": Arguments(("g", "limit"), (), ("g",), ("g",), ("limit",)),
    "clip_by_norm": Arguments(("g", "limit"), (), ("g",), ("g",), ("limit",)),
    "softmax_forward": _ACTIVATION,
    "softmax_backward": Arguments(("da", "a"), ("out",), ("da", "a"), ("out",)),
}
_STATEMENT = {  # of the elementwise ones; the others are in `programs/kernels.py`
    "activation_backward": "out = da * slope",
    "penalty_backward": "out = out + (l1 * sign(w) + l2 * w)",
    "clip_by_value": "g = min(max(g, -limit), limit)",
}


def arguments(name: str, *, slope: bool = False) -> Arguments:
    """Return the arguments of a kernel; an activation's with its slope, if asked for."""
    base = name.rpartition("_")[0]
    if name in _BY_HAND:
        return _BY_HAND[name]
    if base in ACTIVATIONS:
        return _ACTIVATION._replace(named=("out", "slope"), written=("out", "slope")) if slope else _ACTIVATION
    if base in OPTIMIZERS:
        formula = OPTIMIZERS[base]
        arrays = ("p", "g", *formula.state)
        named = ("lr", "step", *formula.scalars)
        return Arguments(arrays, named, arrays, ("p", *formula.state), formula.scalars)
    scalars = LOSSES[base].scalars if base in LOSSES else ()
    return _LOSS._replace(named=("out", *scalars), numbers=scalars)


def adds_up(name: str) -> bool:
    """Tell whether a kernel adds a sum over its rows to `out`."""
    return name.endswith("_forward") and arguments(name).positional == _LOSS.positional


def source(name: str, *, slope: bool = False) -> str:
    """Return a kernel's program."""
    base = name.rpartition("_")[0]
    takes = arguments(name, slope=slope)
    if base in ACTIVATIONS:
        body = assignments(_Dialect, ACTIVATIONS[base].statements())
        results = ["a", "slope"][: len(takes.written)]
        return function_source("each", ["z"], ACTIVATIONS[base].summary, body, results) + _elementwise(takes)
    if base in OPTIMIZERS:
        return _optimizer(base, takes)
    if name in _STATEMENT:
        each = function_source("each", [*takes.read, *takes.numbers], name, [_STATEMENT[name]], [*takes.written])
        return each + _elementwise(takes)
    return _rows(name, takes) if name in _BY_HAND else _loss(name, takes)


class _Dialect(VectorDialect):
    """Formulas with a cheaper exponential where an argument cannot be positive, and powers."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if ast.unparse(node).startswith("exp(-abs("):
            (argument,) = node.args
            assert isinstance(argument, ast.UnaryOp)
            return ast.Call(ast.Name("exp_of_minus"), [self.visit(argument.operand)], [])
        return super().visit_Call(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if isinstance(node.op, ast.Pow):
            return ast.Call(ast.Name("power"), [self.visit(node.left), self.visit(node.right)], [])
        return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))


# ---- the parts of a program ------------------------------------------------------------------------------------------


def _apply(takes: Arguments, checks: Iterable[str], body: Iterable[str]) -> str:
    """Return `apply`: the checks of the arrays, what they need to agree in, and what is then done."""
    typed = ", ".join(f"{name}: {'double' if name in takes.numbers else 'object'}" for name in takes.all)
    kinds = {"lr": "1", "step": "3", "out": "2" if takes.written == () else "1"}
    dense = [
        f"dense({name}, call, {kinds.get(name, '1')}, {1281 if name in takes.written or name == 'out' else 257})"
        for name in takes.all
        if name not in takes.numbers
    ]
    head = [
        f"def apply(call: ints, {typed}) -> int:",
        '    """0 when all is done; see `dense` and `verdict`."""',
        "    left = 1",
        f"    if {' + '.join(dense)} == {len(dense)}:",
    ]
    return "\n".join([*head, *_indented(checks, 2), *_indented(body, 4), "    return left"]) + "\n"


def _indented(lines: Iterable[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


def _agreeing(sizes: Iterable[str], elements: str) -> list[str]:
    """Return the checks that numbers of elements agree."""
    return [
        f"if {' & '.join(f'({size})' for size in sizes)}:",
        f"    left = verdict(call, {elements})",
        "    if left == 0:",
    ]


def _pointers(names: Iterable[str]) -> list[str]:
    return [f"{name}_at = reals_at({name}[2])" for name in names]


def _span(takes: Arguments, store: str, given: Iterable[str]) -> str:
    """Return `all_<store>`: the whole vectors from `first` to `last`, and where they end."""
    loads = ", ".join([f"load({name}, i)" for name in takes.read] + list(given))
    stores = [f"        {store}({name}, i, {name}_new)" for name in takes.written]
    return "\n".join(
        [
            f"def all_{store}({', '.join([*takes.arrays, *given])}, first, last):",
            "    for i in range(first, last - LANES + 1, LANES):",
            f"        {', '.join(f'{name}_new' for name in takes.written)} = each({loads})",
            *stores,
            "    return last - (last - first) % LANES\n\n\n",
        ]
    )


def _some(takes: Arguments, given: Iterable[str]) -> str:
    """Return `some`: less than a vector of elements."""
    loads = ", ".join([f"load_first({name}, i, count)" for name in takes.read] + list(given))
    return "\n".join(
        [
            f"def some({', '.join([*takes.arrays, *given])}, i, count):",
            "    if count > 0:",
            f"        {', '.join(f'{name}_new' for name in takes.written)} = each({loads})",
            *(f"        store_first({name}, i, {name}_new, count)" for name in takes.written),
            "\n\n",
        ]
    )


def _elementwise(takes: Arguments) -> str:
    arrays, reals = [f"{name}_at" for name in takes.arrays], [f"real({name})" for name in takes.numbers]
    given = ", ".join([*arrays, *reals])
    functions = _some(takes, takes.numbers) + _span(takes, "store", takes.numbers)
    first, *others = takes.arrays
    size = f"size_of({first})"
    checks = _agreeing([f"size_of({name}) == {size}" for name in others] or ["left == 1"], size)
    body = [f"size = size_of({first})", *_pointers(takes.arrays)]
    body += ["first, last = cut(size, 1024, call, 0), cut(size, 1024, call, 1)"]
    if not set(takes.read) & set(takes.written):
        functions += _span(takes, "stream", takes.numbers)
        body += [f"if streams(call, size, {first}, {takes.written[0]}, {takes.written[-1]}):"]
        body += [f"    head = min(until_aligned({takes.written[0]}, first), last - first)"]
        body += [f"    some({given}, first, head)"]
        body += [f"    first = all_stream({given}, first + head, last)", "    fence()"]
    body += [f"first = all_store({given}, first, last)", f"some({given}, first, last - first)"]
    return functions + _apply(takes, checks, body)


def _optimizer(name: str, takes: Arguments) -> str:
    formula = OPTIMIZERS[name]
    once = assignments(_Dialect, parse(formula.once), {}, {"step": "now"})
    numbers = ["lr", *formula.scalars, *dict(parse(formula.once))]
    body = assignments(_Dialect, formula.statements())
    each = function_source("each", [*takes.arrays, *numbers], formula.summary, body, [*takes.written])
    pointers = [f"{name}_at" for name in takes.arrays]
    given = ", ".join([*pointers, "rates[network]", *(f"real({number})" for number in numbers[1:])])
    checks = _agreeing(
        [*(f"size_of({name}) == size_of(p)" for name in takes.arrays[1:]), "size_of(lr) > 0", "size_of(step) == 1"],
        "size_of(p)",
    )
    work = [
        "now = ints_at(step[2])[0]",
        "rates = reals_at(lr[2])",
        *_pointers(takes.arrays),
        *once,
        "size = size_of(p) // size_of(lr)",
        "for network in range(size_of(lr)):",
        "    first, last = network * size + cut(size, 1024, call, 0), network * size + cut(size, 1024, call, 1)",
        f"    first = all_store({given}, first, last)",
        f"    some({given}, first, last - first)",
    ]
    return each + _some(takes, numbers) + _span(takes, "store", numbers) + _apply(takes, checks, work)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _rows(name: str, takes: Arguments) -> str:
    """Return the program of a kernel of rows that is written by hand."""
    first, *others = takes.arrays
    size = f"size_of({first})"
    checks = _agreeing([f"size_of({name}) == {size}" for name in others] or ["left == 1"], size)
    body = [f"n = last_length({first})", f"rows = size_of({first}) // n", *_pointers(takes.arrays)]
    given = ", ".join([*(f"{name}_at" for name in takes.arrays), "n", *takes.numbers])
    body += [f"{name}_of_rows({given}, cut(rows, LANES, call, 0), cut(rows, LANES, call, 1))"]
    return _apply(takes, checks, body)


_LOSS_OF_ROWS = """
def {base}_forward_of_rows(p, t, weight, n, {numbers}first, last):
    sums = double(splat(real(0.0)))
    rest = n % LANES
    if n == 1:
        for i in range(first, last - LANES + 1, LANES):
            sums = sums + double(load(weight, i) * each(load(p, i), load(t, i), real(n){given}))
        rest = (last - first) % LANES
        i = last - rest
        last = first
        losses = load_first(weight, i, rest) * each(load_first(p, i, rest), load_first(t, i, rest), real(n){given})
        sums = sums + double(where(below(rest), losses, 0))
    for row in range(first, last):
        for k in range(row * n, (row + 1) * n - LANES + 1, LANES):
            sums = sums + double(weight[row] * each(load(p, k), load(t, k), real(n){given}))
        if rest > 0:
            i = (row + 1) * n - rest
            losses = weight[row] * each(load_first(p, i, rest), load_first(t, i, rest), real(n){given})
            sums = sums + double(where(below(rest), losses, 0))
    return lane(total(sums), 0)


"""
_SLOPE_OF_ROWS = """
def {base}_backward_of_rows(p, t, weight, out, n, {numbers}first, last):
    rest = n % LANES
    if n == 1:
        for i in range(first, last - LANES + 1, LANES):
            store(out, i, load(weight, i) * each(load(p, i), load(t, i), real(n){given}))
        rest = (last - first) % LANES
        i = last - rest
        last = first
        slopes = load_first(weight, i, rest) * each(load_first(p, i, rest), load_first(t, i, rest), real(n){given})
        store_first(out, i, slopes, rest)
    for row in range(first, last):
        for k in range(row * n, (row + 1) * n - LANES + 1, LANES):
            store(out, k, weight[row] * each(load(p, k), load(t, k), real(n){given}))
        if rest > 0:
            i = (row + 1) * n - rest
            slopes = weight[row] * each(load_first(p, i, rest), load_first(t, i, rest), real(n){given})
            store_first(out, i, slopes, rest)


"""


def _loss(name: str, takes: Arguments) -> str:
    base, _, kind = name.rpartition("_")
    sums = kind == "forward"
    functions = ""
    if base in LOSSES:
        body, result = assignments(_Dialect, LOSSES[base].statements()), "loss" if sums else "slope"
        functions = function_source("each", ["p", "t", "n", *takes.numbers], LOSSES[base].summary, body, [result])
        numbers = "".join(f"{number}, " for number in takes.numbers)
        given = "".join(f", {number}" for number in takes.numbers)
        functions += (_LOSS_OF_ROWS if sums else _SLOPE_OF_ROWS).format(base=base, numbers=numbers, given=given)
    return functions + (_sum_over_rows(name, takes) if sums else _backward(name, takes))


def _backward(name: str, takes: Arguments) -> str:
    given = "".join(f"real({number}), " for number in takes.numbers)
    checks = _agreeing(["size_of(t) == size_of(p)", "size_of(out) == size_of(p)", _SHARES], "size_of(p)")
    body = ["rows = size_of(weight)", "n = size_of(p) // max(rows, 1)", *_pointers(("p", "t", "weight", "out"))]
    bounds = "cut(rows, LANES, call, 0), cut(rows, LANES, call, 1)"
    body += [f"{name}_of_rows(p_at, t_at, weight_at, out_at, n, {given}{bounds})"]
    return _apply(takes, checks, body)


_SHARES = "size_of(p) % max(size_of(weight), 1) == 0"


def _sum_over_rows(name: str, takes: Arguments) -> str:
    given = "".join(f"real({number}), " for number in takes.numbers)
    checks = _agreeing(["size_of(t) == size_of(p)", "size_of(out) > 0", _SHARES], "size_of(p)")
    body = [
        "n = size_of(p) // max(size_of(weight), 1)",
        "rows = size_of(weight) // size_of(out)",
        *_pointers(("p", "t", "weight")),
        "sums = doubles_at(out[2])",
        "for network in range(size_of(out)):",
        "    first, last = network * rows + cut(rows, LANES, call, 0), network * rows + cut(rows, LANES, call, 1)",
        f"    sums[network] += {name}_of_rows(p_at, t_at, weight_at, n, {given}first, last)",
    ]
    return _apply(takes._replace(written=()), checks, body)
