"""A small compiler: a subset of Python over SIMD vectors, translated to LLVM.

Whole-run training is written in this language, by hand (`mathematics.py`, `generic.py`) or by a generator (`units.py`,
`rows.py`); LLVM comes with Numba, whose own compiler is not needed for it. A program is Python text: functions,
assignments, ``for i in range(...)``, ``while``, ``if``, arithmetic, and the functions of `INTRINSICS`. One lane width
and one real type hold for the whole program. A value is

- a number that is written down, which takes the type of what it meets;
- ``int`` (64 bits), ``real`` (the program's float32 or float64), ``double``, or a truth value;
- a vector of the program's lanes of one of these: ``load(p, i)``, or what a scalar becomes when it meets a vector;
- an array, which stands for its first element: ``p[i]``, ``load(p, i)``, ``store(p, i, v)``.

A function is compiled where it is called, with the types it is called with, so that one text serves scalars and
vectors. Products and sums are contracted to fused multiply-adds; nothing is reassociated and NaN is kept, so that the
same text gives the same bits and a number that is none is noticed. ``>>``, ``//`` and ``%`` take integers as unsigned.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from llvmlite import ir

FLAGS = ("contract", "nsz")
INT, HALF, BOOL, DOUBLE = ir.IntType(64), ir.IntType(32), ir.IntType(1), ir.DoubleType()
REALS = {"float32": ir.FloatType(), "float64": DOUBLE}


class Target(NamedTuple):
    """What a program is compiled for: its real type and the lanes of its vectors."""

    dtype: str
    lanes: int

    @property
    def real(self) -> ir.Type:
        """The real type."""
        return REALS[self.dtype]

    @property
    def annotations(self) -> dict[str, ir.Type]:
        """How the arguments of an exported function are annotated."""
        return {
            "int": INT,
            "real": self.real,
            "double": DOUBLE,
            "ints": INT.as_pointer(),
            "reals": self.real.as_pointer(),
            "doubles": DOUBLE.as_pointer(),
            "words": HALF.as_pointer(),
            "object": INT.as_pointer(),  # one of Python's, as the 64-bit words that it consists of
        }


class LanguageError(Exception):
    """A program that is not one: a mistake in this package, with the line that makes it."""


def translate(source: str, target: Target, library: Iterable[Path] = ()) -> str:
    """Return the LLVM assembly of a program.

    Parameters
    ----------
    source : str
        The program; every function whose arguments are annotated is exported, with its result, if that is, too.
    target : Target
        Real type and lanes.
    library : iterable of Path
        Files whose functions the program may call.
    """
    functions: dict[str, ast.FunctionDef] = {}
    for path in library:
        functions |= _functions(path.read_text())
    own = _functions(source)
    functions |= own
    module = ir.Module("nnkernels")
    for function in own.values():
        if function.args.args and all(argument.annotation for argument in function.args.args):
            _export(module, function, functions, target)
    return str(module)


@cache
def _functions(source: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def _export(module: ir.Module, node: ast.FunctionDef, functions: Mapping[str, ast.FunctionDef], target: Target) -> None:
    types = [target.annotations[ast.unparse(argument.annotation)] for argument in node.args.args if argument.annotation]
    result = target.annotations[ast.unparse(node.returns)] if node.returns else ir.VoidType()
    function = ir.Function(module, ir.FunctionType(result, types), node.name)
    function.attributes.add("nounwind")
    entry, body = function.append_basic_block("entry"), function.append_basic_block("body")
    for argument, description in zip(function.args, node.args.args, strict=True):
        argument.name = description.arg
        if isinstance(argument.type, ir.PointerType):
            argument.add_attribute("noalias")
    context = Context(target, ir.IRBuilder(body), ir.IRBuilder(entry), functions)
    value = context.call(node, list(function.args))
    if node.returns:
        context.build.ret(context.convert(value, result))
    else:
        context.build.ret_void()
    context.entry.branch(body)


class Context:
    """Where code is being written: the builder, the entry block for variables, and the functions there are."""

    def __init__(
        self, target: Target, build: ir.IRBuilder, entry: ir.IRBuilder, functions: Mapping[str, ast.FunctionDef]
    ) -> None:
        self.target, self.build, self.entry, self.functions = target, build, entry, functions

    # ---- types -------------------------------------------------------------------------------------------------------

    def vector(self, element: ir.Type) -> ir.VectorType:
        """Return the vector type of an element type."""
        return ir.VectorType(element, self.target.lanes)

    def typed(self, value: Any) -> ir.Value:
        """Return a value whose type is settled: a number written down is an int or a real."""
        if isinstance(value, ir.Value):
            return value
        if isinstance(value, bool):
            return ir.Constant(BOOL, int(value))
        return ir.Constant(INT if isinstance(value, int) else self.target.real, value)

    def convert(self, value: Any, to: ir.Type) -> ir.Value:
        """Return a number as a type, a scalar as a vector."""
        if not isinstance(value, ir.Value):
            if isinstance(to, ir.VectorType):
                return ir.Constant(to, [_literal(value, to.element)] * to.count)
            return ir.Constant(to, _literal(value, to))
        if value.type == to:
            return value
        if isinstance(to, ir.VectorType) and not isinstance(value.type, ir.VectorType):
            if value.type == INT and to.element == HALF:
                value = self.build.trunc(value, HALF)
            if value.type == to.element:
                undefined = ir.Constant(to, ir.Undefined)
                first = self.build.insert_element(undefined, value, ir.Constant(HALF, 0))
                zeros = ir.Constant(ir.VectorType(HALF, to.count), [0] * to.count)
                return self.build.shuffle_vector(first, undefined, zeros)
        raise LanguageError(f"a {value.type} is no {to}")

    def unify(self, *values: Any) -> list[ir.Value]:
        """Return values as one type: that of a vector among them, else that of a scalar."""
        types = [value.type for value in values if isinstance(value, ir.Value)]
        vectors = [type_ for type_ in types if isinstance(type_, ir.VectorType)]
        if not types:
            real = any(isinstance(value, float) for value in values)
            return [self.convert(value, self.target.real if real else INT) for value in values]
        return [self.convert(value, (vectors or types)[0]) for value in values]

    # ---- functions ---------------------------------------------------------------------------------------------------

    def call(self, node: ast.FunctionDef, arguments: list[Any]) -> Any:
        """Compile a function's body here."""
        if len(arguments) != len(node.args.args):
            raise LanguageError(f"{node.name} takes {len(node.args.args)} arguments, not {len(arguments)}")
        scope = _Scope(self)
        for description, argument in zip(node.args.args, arguments, strict=True):
            scope.constants[description.arg] = argument
        scope.settle(node)
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if body and isinstance(body[-1], ast.Return):
            scope.run(body[:-1])
            assert body[-1].value is not None
            return scope.value(body[-1].value)
        scope.run(body)
        return None


class _Scope:
    """The names of one function while it is compiled: arguments that are never assigned to, and variables."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.constants: dict[str, Any] = {}
        self.variables: dict[str, ir.Value] = {}

    def settle(self, node: ast.FunctionDef) -> None:
        """Make variables of the arguments that the function assigns to, before a branch can."""
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and part.id in self.constants:
                value = self.context.typed(self.constants[part.id])
                if not isinstance(value.type, ir.PointerType):
                    del self.constants[part.id]
                    self.variables[part.id] = self._variable(part.id, value)

    def run(self, body: Iterable[ast.stmt]) -> None:
        """Compile statements."""
        for statement in body:
            try:
                getattr(self, f"_{type(statement).__name__}")(statement)
            except (LanguageError, AttributeError, KeyError, TypeError, ValueError, AssertionError) as error:
                if isinstance(error, LanguageError) and "line:" in str(error):
                    raise
                raise LanguageError(f"{error!r}\nline: {ast.unparse(statement).splitlines()[0]}") from error

    # ---- statements --------------------------------------------------------------------------------------------------

    def _Assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        (target,) = node.targets
        if isinstance(target, ast.Tuple):
            for element, part in zip(target.elts, value, strict=True):
                self._assign(element, part)
        else:
            self._assign(target, value)

    def _assign(self, target: ast.expr, value: Any) -> None:
        build = self.context.build
        if isinstance(target, ast.Subscript):
            pointer = self.element(self.value(target.value), self.value(target.slice))
            build.store(self.context.convert(value, pointer.type.pointee), pointer)
            return
        assert isinstance(target, ast.Name)
        name = target.id
        if isinstance(value, ir.Value) and isinstance(value.type, ir.PointerType):
            self.constants[name] = value  # an array is a name for good
            return
        if name in self.variables:
            build.store(self.context.convert(value, self.variables[name].type.pointee), self.variables[name])
        else:
            self.variables[name] = self._variable(name, self.context.typed(value))

    def _variable(self, name: str, value: ir.Value) -> ir.Value:
        slot = self.context.entry.alloca(value.type, name=name)
        self.context.build.store(value, slot)
        return slot

    def _AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Subscript):  # its index is computed once
            pointer = self.element(self.value(node.target.value), self.value(node.target.slice))
            value = _binary(self.context, node.op, self.context.build.load(pointer), self.value(node.value))
            self.context.build.store(self.context.convert(value, pointer.type.pointee), pointer)
            return
        assert isinstance(node.target, ast.Name)
        name = ast.Name(node.target.id, ast.Load())
        self._assign(node.target, _binary(self.context, node.op, self.value(name), self.value(node.value)))

    def _Expr(self, node: ast.Expr) -> None:
        self.value(node.value)

    def _Pass(self, node: ast.Pass) -> None:
        pass

    def _For(self, node: ast.For) -> None:
        assert isinstance(node.iter, ast.Call)
        bounds = [self.value(argument) for argument in node.iter.args]
        start, stop, step = {1: [0, *bounds, 1], 2: [*bounds, 1], 3: bounds}[len(bounds)]
        start, stop, step = (self.context.convert(bound, INT) for bound in (start, stop, step))
        assert isinstance(node.target, ast.Name)
        self._assign(node.target, start)
        slot = self.variables[node.target.id]

        def advance() -> None:
            build = self.context.build
            build.store(build.add(build.load(slot), step, flags=("nsw",)), slot)

        build = self.context.build
        self._loop(lambda: self.context.build.icmp_signed("<", build.load(slot), stop), node.body, advance)

    def _While(self, node: ast.While) -> None:
        self._loop(lambda: self.value(node.test), node.body, lambda: None)

    def _loop(self, test: Callable[[], ir.Value], body: list[ast.stmt], advance: Callable[[], None]) -> None:
        build = self.context.build
        head, inside, after = (build.append_basic_block(name) for name in ("head", "loop", "after"))
        build.branch(head)
        build.position_at_end(head)
        build.cbranch(test(), inside, after)
        build.position_at_end(inside)
        self.run(body)
        advance()
        build.branch(head)
        build.position_at_end(after)

    def _If(self, node: ast.If) -> None:
        build, condition = self.context.build, self.value(node.test)
        if not isinstance(condition, ir.Value):
            self.run(node.body if condition else node.orelse)
            return
        then, otherwise, after = (build.append_basic_block(name) for name in ("then", "else", "after"))
        build.cbranch(condition, then, otherwise)
        for block, body in ((then, node.body), (otherwise, node.orelse)):
            build.position_at_end(block)
            self.run(body)
            build.branch(after)
        build.position_at_end(after)

    # ---- expressions -------------------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Any:
        """Compile an expression."""
        return getattr(self, f"_{type(node).__name__}")(node)

    def _Constant(self, node: ast.Constant) -> Any:
        return node.value

    def _Name(self, node: ast.Name) -> Any:
        if node.id in self.variables:
            return self.context.build.load(self.variables[node.id])
        if node.id == "LANES":
            return self.context.target.lanes
        return self.constants[node.id]

    def _Tuple(self, node: ast.Tuple) -> Any:
        return tuple(self.value(element) for element in node.elts)

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return self.context.build.not_(value) if isinstance(value, ir.Value) else not value
        assert isinstance(node.op, ast.USub)
        if not isinstance(value, ir.Value):
            return -value
        return self.context.build.fneg(value, flags=FLAGS) if _is_real(value) else self.context.build.neg(value)

    def _BinOp(self, node: ast.BinOp) -> Any:
        return _binary(self.context, node.op, self.value(node.left), self.value(node.right))

    def _Compare(self, node: ast.Compare) -> Any:
        assert len(node.ops) == 1, "a chain of comparisons"
        left, right = self.value(node.left), self.value(node.comparators[0])
        sign = {ast.Lt: "<", ast.Gt: ">", ast.LtE: "<=", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}[
            type(node.ops[0])
        ]
        if not isinstance(left, ir.Value) and not isinstance(right, ir.Value):
            return _COMPARED[sign](left, right)
        left, right = self.context.unify(left, right)
        if not _is_real(left):
            return self.context.build.icmp_signed(sign, left, right)
        compare = self.context.build.fcmp_unordered if sign == "!=" else self.context.build.fcmp_ordered
        return compare(sign, left, right)

    def _Subscript(self, node: ast.Subscript) -> Any:
        return self.context.build.load(self.element(self.value(node.value), self.value(node.slice)))

    def element(self, pointer: ir.Value, index: Any) -> ir.Value:
        """Return the address of an array's element."""
        return self.context.build.gep(pointer, [self.context.convert(index, INT)], inbounds=True)

    def _Call(self, node: ast.Call) -> Any:
        assert isinstance(node.func, ast.Name)
        assert not node.keywords, "arguments have no names"
        arguments = [self.value(argument) for argument in node.args]
        if node.func.id in self.context.functions:
            return self.context.call(self.context.functions[node.func.id], arguments)
        from nnkernels.backends.numba.intrinsics import INTRINSICS

        return INTRINSICS[node.func.id](self.context, *arguments)


def _literal(value: Any, to: ir.Type) -> Any:
    if isinstance(to, (ir.FloatType, ir.DoubleType)):
        return float(value)
    if value != int(value):
        raise LanguageError(f"{value} is no integer")
    return int(value)


def _is_real(value: ir.Value) -> bool:
    element = value.type.element if isinstance(value.type, ir.VectorType) else value.type
    return isinstance(element, (ir.FloatType, ir.DoubleType))


_FOLDED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_COMPARED = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_REAL = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"}
_INTEGER = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "udiv",
    ast.Mod: "urem",
    ast.LShift: "shl",
    ast.RShift: "lshr",
    ast.BitAnd: "and_",
    ast.BitOr: "or_",
    ast.BitXor: "xor",
}


def _binary(context: Context, op: ast.operator, left: Any, right: Any) -> Any:
    if not isinstance(left, ir.Value) and not isinstance(right, ir.Value):
        return _FOLDED[type(op)](left, right)
    if isinstance(left, ir.Value) and isinstance(left.type, ir.PointerType):  # an array further on
        assert isinstance(op, ast.Add)
        return context.build.gep(left, [context.convert(right, INT)], inbounds=True)
    left, right = context.unify(left, right)
    if _is_real(left):
        return getattr(context.build, _REAL[type(op)])(left, right, flags=FLAGS)
    return getattr(context.build, _INTEGER[type(op)])(left, right)
