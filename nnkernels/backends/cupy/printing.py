"""How CUDA C++ writes a formula: a device function for one element, a kernel over all of them, and its caller."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from nnkernels._formulas import ACTIVATIONS, FUNCTIONS, LOSSES, OPTIMIZERS, Formula, parse
from nnkernels.backends._printing import Dialect, Statements, lines, needed, signature

IMPORTS = """
from __future__ import annotations

from nnkernels.backends.cupy.launch import {names}
from nnkernels.backends.protocol import Array
"""
HEADER = """// {title}
//
// Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""
WIDTH = 120


class CudaDialect(Dialect):
    """Constants carry the type `real`: a bare 0.5 is a double, and float kernels would compute in double."""

    functions = {name: name for name in FUNCTIONS} | {
        "abs": "absolute",
        "exp": "exponential",
        "min": "minimum",
        "max": "maximum",
    }
    preambles = dict.fromkeys(("activations", "optimizers"), IMPORTS.format(names="elementwise")) | {
        "losses": IMPORTS.format(names="elementwise, summed")
    }

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Call(ast.Name("real"), [node], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if isinstance(node.op, ast.Pow):
            raise NotImplementedError("CUDA C++ has no **")
        if isinstance(node.op, ast.Div) and isinstance(node.left, ast.Constant) and node.left.value == 1:
            return ast.Call(ast.Name("reciprocal"), [self.visit(node.right)], [])
        return self.generic_visit(node)

    # ---- the callers, in Python

    @classmethod
    def activation(cls, name: str, formula: Formula) -> str:
        return (
            signature(f"{name}_forward", ["z: Array", "*", "out: Array", "slope: Array | None = None"])
            + lines([f'"""{formula.summary}"""'], 4)
            + lines([f'elementwise("{name}_forward", z.dtype, z.size, out, slope, z)'], 4)
            + "\n\n"
            + signature(
                f"bias_{name}_forward", ["z: Array", "b: Array", "*", "out: Array", "slope: Array | None = None"]
            )
            + lines([f'"""{name}_forward of z + b."""', "n = z.shape[-1]"], 4)
            + lines([f'elementwise("bias_{name}_forward", z.dtype, z.size, out, slope, z, b, z.shape[-2] * n, n)'], 4)
        )

    @classmethod
    def loss(cls, name: str, formula: Formula) -> str:
        scalars = list(formula.scalars)
        arguments = ["p: Array", "t: Array", "weight: Array", "*", "out: Array", *(f"{s}: float" for s in scalars)]
        given = ", ".join(["out", "p", "t", "weight"])
        return (
            signature(f"{name}_forward", arguments)
            + lines([f'"""{formula.summary}"""'], 4)
            + lines([f'summed("{name}_forward", p, {", ".join([given, "*p.shape[-2:]", *scalars])})'], 4)
            + "\n\n"
            + signature(f"{name}_backward", arguments)
            + lines([f'"""Slope of {name} with respect to p."""'], 4)
            + lines(
                [f'elementwise("{name}_backward", p.dtype, p.size, {", ".join([given, "p.shape[-1]", *scalars])})'], 4
            )
        )

    @classmethod
    def optimizer(cls, name: str, formula: Formula) -> str:
        arrays, scalars = ["p", "g", *formula.state], list(formula.scalars)
        given = ", ".join([*arrays, "lr", "step", *scalars, "p.size // lr.size"])
        typed = [*(f"{array}: Array" for array in arrays), "*", "lr: Array", "step: Array"]
        return (
            signature(f"{name}_update", [*typed, *(f"{scalar}: float" for scalar in scalars)])
            + lines([f'"""{formula.summary}"""'], 4)
            + lines([f'elementwise("{name}_update", p.dtype, p.size, {given})'], 4)
        )

    # ---- device functions and kernels, in CUDA C++

    @classmethod
    def files(cls) -> dict[str, str]:
        """Return the printed files: the callers, the formulas as device functions, and the kernels."""
        kernels = {
            "activations.cu": ("Activations: z -> a, and the accurate slope da/dz.", ACTIVATIONS, _activation),
            "losses.cu": ("Elementwise losses: the weighted sum of a batch, and its slope.", LOSSES, _loss),
            "optimizers.cu": ("Optimizer updates on flat parameter buffers.", OPTIMIZERS, _optimizer),
        }
        formulas = HEADER.format(title="The formulas, for one element: what every kernel and whole-run program calls.")
        formulas += "".join(activation_function(*item) for item in ACTIVATIONS.items())
        formulas += "".join(loss_function(*item) for item in LOSSES.items())
        formulas += "".join(optimizer_function(*item) for item in OPTIMIZERS.items())
        return (
            super().files()
            | {"formulas.cu": formulas}
            | {
                name: HEADER.format(title=title) + "".join(write(*item) for item in table.items())
                for name, (title, table, write) in kernels.items()
            }
        )


def _constants(statements: Statements) -> list[str]:
    names = [name for name, _ in statements]
    written = []
    for number, (name, tree) in enumerate(statements):
        kind = "" if name in names[:number] else "real " if name in names[number + 1 :] else "const real "
        written.append(f"{kind}{name} = {CudaDialect({}).write(tree)};")
    return written


def _function(summary: str, head: str, arguments: Iterable[str], body: Iterable[str]) -> str:
    return (
        f"\n// {summary}\n"
        + call_lines(f"__device__ __forceinline__ {head}(", arguments, ") {")
        + lines(body, 4)
        + "}\n"
    )


def call_lines(start: str, arguments: Iterable[str], end: str) -> str:
    """Write a call or a parameter list, broken after a comma where a line is full."""
    text, line = "", start
    parts = list(arguments)
    for number, part in enumerate(parts):
        piece = part + (", " if number < len(parts) - 1 else end)
        if len(line + piece.rstrip()) > WIDTH:
            text, line = text + line.rstrip() + "\n", " " * len(start)
        line += piece
    return text + line.rstrip() + "\n"


def activation_function(name: str, formula: Formula) -> str:
    """Return ``<name>_at(z)``, which returns the activation and its slope."""
    body = _constants(needed(formula.statements(), ["a", "slope"]))
    return _function(formula.summary, f"Activated {name}_at", ["real z"], [*body, "return {a, slope};"])


def loss_function(name: str, formula: Formula) -> str:
    """Return ``<name>_at(p, t, n, ...)``, which returns an output's loss and its slope."""
    arguments = ["real p", "real t", "real n", *(f"real {scalar}" for scalar in formula.scalars)]
    body = _constants(needed(formula.statements(), ["loss", "slope"]))
    return _function(formula.summary, f"Lost {name}_at", arguments, [*body, "return {loss, slope};"])


def optimizer_function(name: str, formula: Formula, statements: Statements | None = None) -> str:
    """Return ``<name>_at(p, g, state..., numbers...)``, which changes p and the state; `statements` replace its own."""
    statements = formula.statements() if statements is None else statements
    changed = ("p", *formula.state)
    numbers = ["lr", *(pair[0] for pair in parse(formula.once)), *formula.scalars]
    arguments = ["real &p", "real g", *(f"real &{array}" for array in formula.state), *(f"real {n}" for n in numbers)]
    body = [
        f"{'' if target in changed else 'const real '}{target} = {CudaDialect({}).write(tree)};"
        for target, tree in statements
    ]
    return _function(formula.summary, f"void {name}_at", arguments, body)


def _kernel(name: str, arguments: Iterable[str], body: Iterable[str], bounds: str = "") -> str:
    return "\n" + call_lines(f'extern "C" __global__ void {bounds}{name}(', arguments, ") {") + lines(body, 4) + "}\n"


def _activation(name: str, formula: Formula) -> str:
    def body(z: str) -> list[str]:
        inner = [f"const Activated y = {name}_at({z});", "if (slope) slope[i] = y.slope;", "out[i] = y.a;"]
        return ["FOR_EACH(i, size) {", *(f"    {line}" for line in inner), "}"]

    arrays = ["real *out", "real *OPTIONAL slope", "const real *z"]
    sizes = ["int64 per_network", "int64 n", "int64 size"]
    return _kernel(f"{name}_forward", [*arrays, "int64 size"], body("z[i]")) + _kernel(
        f"bias_{name}_forward",
        [*arrays, "const real *bias", *sizes],
        body("z[i] + bias[i / per_network * n + i % n]"),
    )


def _loss(name: str, formula: Formula) -> str:
    numbers = [f"double {scalar}" for scalar in formula.scalars]
    call = f"{name}_at({', '.join(['p[i]', 't[i]', 'real(n)', *(f'real({s})' for s in formula.scalars)])})"
    arrays = ["const real *p", "const real *t", "const real *weight"]
    forward = [
        "__shared__ double scratch[SUM_THREADS / 32];",
        "const int64 size = rows * n, end = (blockIdx.x + 1) * size;",
        "real total = 0;",
        "#pragma unroll 1  // four copies of the division by n would spill",
        "for (int64 i = blockIdx.x * size + threadIdx.x; i < end; i += SUM_THREADS)",
        f"    total += weight[i / n] * {call}.loss;",
        "const double sum = over_block<SUM_THREADS>(double(total), scratch, Add());",
        "if (threadIdx.x == 0) out[blockIdx.x] += sum;",
    ]
    return _kernel(
        f"{name}_forward",
        ["double *out", *arrays, "int64 rows", "int64 n", *numbers],
        forward,
        "__launch_bounds__(SUM_THREADS) ",
    ) + _kernel(
        f"{name}_backward",
        ["real *out", *arrays, "int64 n", *numbers, "int64 size"],
        [f"FOR_EACH(i, size) out[i] = weight[i / n] * {call}.slope;"],
    )


def _optimizer(name: str, formula: Formula) -> str:
    once = parse(formula.once)
    arrays = ["real *p", "const real *g", *(f"real *{array}" for array in formula.state)]
    arrays += ["const real *lr", "const int64 *step"]
    numbers = [f"double {scalar}" for scalar in formula.scalars]
    given = ["p[i]", "g[i]", *(f"{array}[i]" for array in formula.state), "lr[i / per_rate]"]
    given += [name for name, _ in once] + [f"real({scalar})" for scalar in formula.scalars]
    body = []
    if once:  # in float64, once a block
        body += [f"__shared__ real once[{len(once)}];", "if (threadIdx.x == 0) {"]
        body += [f"    const double {name} = {_Once({}).write(tree)};" for name, tree in once]
        body += [f"    once[{k}] = real({name});" for k, (name, _) in enumerate(once)]
        body += ["}", "__syncthreads();"]
        body += [f"const real {', '.join(f'{name} = once[{k}]' for k, (name, _) in enumerate(once))};"]
    body += call_lines(f"FOR_EACH(i, size) {name}_at(", given, ");").rstrip().split("\n")
    return _kernel(f"{name}_update", [*arrays, *numbers, "int64 per_rate", "int64 size"], body)


class _Once(CudaDialect):
    """Statements on scalars, in float64: bare constants, and pow."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if isinstance(node.op, ast.Pow):
            return ast.Call(ast.Name("pow"), [self.visit(node.left), self.visit(node.right)], [])
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.parse("double(step[0])", mode="eval").body if node.id == "step" else node
