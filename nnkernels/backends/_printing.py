"""Prints the formula tables as kernels: what every dialect shares.

A backend's ``printing.py`` says how its dialect writes a constant, a function and a loop; this module says which
statements a kernel needs and how the files are put together. `python -m nnkernels.backends` runs it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from nnkernels._formulas import ACTIVATIONS, LOSSES, OPTIMIZERS, Formula

HEADER = '''"""{title}

Printed from nnkernels/_formulas.py by `python -m nnkernels.backends`: edit the formulas, not this file.
"""
'''

Statements = list[tuple[str, ast.expr]]


class Dialect(ast.NodeTransformer):
    """How a backend writes an expression; a subclass writes whole kernels.

    The expressions of the formula language are Python's own, so a dialect is a tree transformation, and `ast.unparse`
    takes care of the parentheses.
    """

    functions: Mapping[str, str]  #: the language's functions as the backend spells them
    preambles: Mapping[str, str]  #: the imports at the top of each file

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def write(self, expression: ast.expr) -> str:
        """Return an expression as the backend's source."""
        return ast.unparse(ast.fix_missing_locations(self.visit(expression)))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.parse(self.names.get(node.id, node.id), mode="eval").body

    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name)
        arguments = [self.visit(argument) for argument in node.args]
        return ast.Call(ast.parse(self.functions[node.func.id], mode="eval").body, arguments, [])

    @classmethod
    def activation(cls, name: str, formula: Formula) -> str:
        """Source of ``<name>_forward``."""
        raise NotImplementedError

    @classmethod
    def loss(cls, name: str, formula: Formula) -> str:
        """Source of ``<name>_forward`` and ``<name>_backward``."""
        raise NotImplementedError

    @classmethod
    def optimizer(cls, name: str, formula: Formula) -> str:
        """Source of ``<name>_update``."""
        raise NotImplementedError

    @classmethod
    def files(cls) -> dict[str, str]:
        """Return the backend's printed files: name -> source."""
        tables = {
            "activations": ("Activations: z -> a, and the accurate slope da/dz.", ACTIVATIONS, cls.activation),
            "losses": ("Elementwise losses: the weighted sum of a batch, and its slope.", LOSSES, cls.loss),
            "optimizers": ("Optimizer updates on flat parameter buffers.", OPTIMIZERS, cls.optimizer),
        }
        return {
            f"{name}.py": HEADER.format(title=title)
            + cls.preambles[name]
            + "".join("\n\n" + write(key, formula) for key, formula in table.items())
            for name, (title, table, write) in tables.items()
        }


def needed(statements: Statements, results: Iterable[str]) -> Statements:
    """Return the statements that `results` depend on, in order."""
    wanted, kept = set(results), []
    for name, expression in reversed(statements):
        if name in wanted:
            wanted |= {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
            kept.append((name, expression))
    return kept[::-1]


def signature(name: str, arguments: Iterable[str]) -> str:
    """Write the head of a kernel; one too long for a line is broken as a formatter would."""
    head = f"def {name}({', '.join(arguments)}) -> None:\n"
    if len(head) <= 121:
        return head
    return f"def {name}(\n    {', '.join(arguments)}\n) -> None:\n"


def assignments(
    dialect: Callable[[Mapping[str, str]], Dialect],
    statements: Statements,
    stores: Mapping[str, str] = MappingProxyType({}),
    names: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """One line a statement: `stores` says where a result goes, `names` how an operand is written."""
    return [f"{stores.get(name, name)} = {dialect(names).write(tree)}" for name, tree in statements]


def lines(code: Iterable[str], indent: int) -> str:
    """Join lines of code at an indentation."""
    return "".join(f"{' ' * indent}{line}\n" for line in code)


def without(statements: Statements, name: str) -> Statements:
    """Return statements in which a name is zero, and what it multiplies is gone."""
    return [(target, _Without(name).visit(copy.deepcopy(tree))) for target, tree in statements]


class _Without(ast.NodeTransformer):
    """An expression in which a name is zero."""

    def __init__(self, name: str) -> None:
        self.name = name

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(0) if node.id == self.name else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left: ast.expr = self.visit(node.left)
        right: ast.expr = self.visit(node.right)
        nothing = [isinstance(side, ast.Constant) and side.value == 0 for side in (left, right)]
        if isinstance(node.op, ast.Mult) and any(nothing):
            return ast.Constant(0)
        if isinstance(node.op, ast.Add) and any(nothing):
            return right if nothing[0] else left
        if isinstance(node.op, ast.Sub) and nothing[1]:
            return left
        return ast.BinOp(left, node.op, right)
