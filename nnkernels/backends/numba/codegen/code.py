"""Lines of a program in the vector language, written in order, with what is known about their numbers done."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

Index = int | str  #: a number that is known when a program is written, or an expression


class Code:
    """Lines of a program, written in order.

    The methods that write a block are generators: what a Python ``for`` over them writes is the block's body, so that a
    generator of programs has the shape of the program that it writes.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, *lines: str) -> None:
        """Write lines at the present depth."""
        self.lines += ["    " * self.depth + _folded(line) if line else "" for line in lines]

    def block(self, head: str) -> Iterator[None]:
        """Write what a ``for`` over this writes as the body of `head`."""
        self(head)
        self.depth += 1
        yield
        self.depth -= 1

    def range(
        self, name: str, stop: Index, step: int = 1, *, start: Index = 0, unroll: bool = False
    ) -> Iterator[Index]:
        """Write a loop, or its body once for each value; yields the loop's variable as it stands in an expression."""
        if unroll or (isinstance(start, int) and isinstance(stop, int) and stop - start <= step):
            yield from range(int(start), int(stop), step)
            return
        bounds = f"{start}, {stop}, {step}" if step != 1 else f"{start}, {stop}" if start else f"{stop}"
        for _ in self.block(f"for {name} in range({bounds}):"):
            yield name

    @property
    def text(self) -> str:
        """All that was written."""
        return "\n".join(self.lines) + "\n"


def plus(index: Index, more: int) -> Index:
    """Return an index further on, done where it is known."""
    if isinstance(index, int):
        return index + more
    return f"({index} + {more})" if more else index


def share(n: int) -> tuple[str, str]:
    """Return the bounds of a thread's share of n things."""
    return f"{n} * thread // threads", f"{n} * (thread + 1) // threads"


def tiles(n: int, largest: int) -> list[tuple[int, int, int]]:
    """Cut n into tiles of at most `largest`, as even as can be: (start, stop, size) of each run of equal tiles."""
    size, longer = divmod(n, -(-n // largest))
    split = longer * (size + 1)
    return [(start, stop, tile) for start, stop, tile in ((0, split, size + 1), (split, n, size)) if stop > start]


class _Folding(ast.NodeTransformer):
    """Integer arithmetic that is known when a program is written."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        a, b = _known(left), _known(right)
        if isinstance(node.op, ast.Mult):
            if a is not None and b is not None:
                return ast.Constant(a * b)
            unchanged = right if a == 1 else left if b == 1 else ast.BinOp(left, node.op, right)
            return ast.Constant(0) if 0 in (a, b) else unchanged
        if isinstance(node.op, ast.Add):
            return _sum(left, right, a, b)
        return ast.BinOp(left, node.op, right)


def _known(node: ast.expr) -> int | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _sum(left: ast.expr, right: ast.expr, a: int | None, b: int | None) -> ast.expr:
    if a is not None and b is not None:
        return ast.Constant(a + b)
    if b is not None and isinstance(left, ast.BinOp) and isinstance(left.op, ast.Add):
        inner = _known(left.right)
        if inner is not None:  # (a + 3) + 4
            return ast.BinOp(left.left, ast.Add(), ast.Constant(inner + b)) if inner + b else left.left
    return right if a == 0 else left if b == 0 else ast.BinOp(left, ast.Add(), right)


def _folded(line: str) -> str:
    """Return a line with its known arithmetic done; one that is only part of a statement stays as it is."""
    code, mark, comment = line.partition("  # ")
    if code.startswith("#") or code.endswith(":"):
        return line
    tree: Any = _Folding().visit(ast.parse(code))
    return ast.unparse(ast.fix_missing_locations(tree)) + mark + comment
