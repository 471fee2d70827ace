"""The functions that the language of `language.py` is born with; each writes a few LLVM instructions.

``INTRINSICS`` maps their names to functions of (context, arguments), whose docstrings say what a program gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from nnkernels.backends.numba.language import BOOL, DOUBLE, FLAGS, HALF, INT, Context

INTRINSICS: dict[str, Callable[..., Any]] = {}


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add a function to the language, under its own name without the underscore that keeps it from Python's."""
    INTRINSICS[function.__name__.rstrip("_")] = function
    return function


# ---- memory ----------------------------------------------------------------------------------------------------------


@intrinsic
def load(c: Context, array: ir.Value, index: Any) -> ir.Value:
    """Lanes of elements, the first at `index`."""
    element = array.type.pointee
    pointer = c.build.gep(array, [c.convert(index, INT)], inbounds=True)
    value = c.build.load(c.build.bitcast(pointer, c.vector(element).as_pointer()))
    value.align = _bytes(element)
    return value


@intrinsic
def store(c: Context, array: ir.Value, index: Any, value: Any) -> None:
    """Write a vector, its first lane at `index`."""
    element = array.type.pointee
    vector = c.convert(value, c.vector(element))
    pointer = c.build.gep(array, [c.convert(index, INT)], inbounds=True)
    c.build.store(vector, c.build.bitcast(pointer, vector.type.as_pointer())).align = _bytes(element)


def _masked(c: Context, name: str, array: ir.Value, index: Any, count: Any, *value: Any) -> ir.Value:
    """Call LLVM's masked load or store of the first `count` lanes."""
    element = array.type.pointee
    vector = c.vector(element)
    pointer = c.build.gep(array, [c.convert(index, INT)], inbounds=True)
    pointer = c.build.bitcast(pointer, vector.as_pointer())
    mask, align = below(c, count), _half(_bytes(element))
    arguments = [pointer, align, mask, ir.Constant(vector, None)]
    type_ = ir.FunctionType(vector, [argument.type for argument in arguments])
    if value:
        arguments = [c.convert(value[0], vector), pointer, align, mask]
        type_ = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    return c.build.call(_declared(c, f"llvm.masked.{name}.{_suffix(vector)}.p0", type_), arguments)


@intrinsic
def load_first(c: Context, array: ir.Value, index: Any, count: Any) -> ir.Value:
    """The first `count` lanes of elements from `index` on, in the others zeros; nothing beyond them is read."""
    return _masked(c, "load", array, index, count)


@intrinsic
def store_first(c: Context, array: ir.Value, index: Any, value: Any, count: Any) -> None:
    """Write the first `count` lanes of a vector."""
    _masked(c, "store", array, index, count, value)


@intrinsic
def stream(c: Context, array: ir.Value, index: Any, value: Any) -> None:
    """Write a vector past the caches, to an address that is a multiple of its size."""
    vector = c.convert(value, c.vector(array.type.pointee))
    pointer = c.build.gep(array, [c.convert(index, INT)], inbounds=True)
    instruction = c.build.store(vector, c.build.bitcast(pointer, vector.type.as_pointer()))
    instruction.align = c.target.lanes * _bytes(vector.type.element)
    instruction.set_metadata("nontemporal", c.build.module.add_metadata([_half(1)]))


@intrinsic
def prefetch(c: Context, array: ir.Value, index: Any) -> None:
    """Ask for the cache line of an element that will be read soon; any address may be asked for."""
    pointer = c.build.gep(array, [c.convert(index, INT)])
    address = c.build.bitcast(pointer, ir.IntType(8).as_pointer())
    arguments = [address, _half(0), _half(3), _half(1)]  # to read, into the first cache, data
    type_ = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    c.build.call(_declared(c, "llvm.prefetch.p0", type_), arguments)


@intrinsic
def fence(c: Context) -> None:
    """What was streamed is seen by whoever sees what is written after this."""
    c.build.fence("seq_cst")


@intrinsic
def reals_at(c: Context, address: ir.Value) -> ir.Value:
    """The array of reals at an address."""
    return c.build.inttoptr(address, c.target.real.as_pointer())


@intrinsic
def doubles_at(c: Context, address: ir.Value) -> ir.Value:
    """The array of doubles at an address."""
    return c.build.inttoptr(address, DOUBLE.as_pointer())


@intrinsic
def ints_at(c: Context, address: ir.Value) -> ir.Value:
    """The array of integers at an address."""
    return c.build.inttoptr(address, INT.as_pointer())


@intrinsic
def gather(c: Context, array: ir.Value, index: ir.Value) -> ir.Value:
    """Lanes of elements at a vector of indices."""
    result: ir.Value = ir.Constant(c.vector(array.type.pointee), ir.Undefined)
    for lane_ in range(c.target.lanes):
        pointer = c.build.gep(array, [c.build.extract_element(index, _half(lane_))], inbounds=True)
        result = c.build.insert_element(result, c.build.load(pointer), _half(lane_))
    return result


@intrinsic
def buffer(c: Context, size: int) -> ir.Value:
    """A new array of reals that lives as long as the call; in registers, if all its indices are written down."""
    array = c.entry.alloca(ir.ArrayType(c.target.real, size))
    array.align = 64
    return c.build.bitcast(array, c.target.real.as_pointer())


# ---- vectors ---------------------------------------------------------------------------------------------------------


@intrinsic
def splat(c: Context, value: Any) -> ir.Value:
    """A scalar in every lane."""
    value = c.typed(value)
    return value if isinstance(value.type, ir.VectorType) else c.convert(value, c.vector(value.type))


@intrinsic
def lane(c: Context, vector: ir.Value, number: Any) -> ir.Value:
    """One lane, as a scalar."""
    return c.build.extract_element(vector, c.convert(number, INT))


@intrinsic
def lanes(c: Context) -> ir.Value:
    """0, 1, 2, ... as integers, one a lane."""
    return ir.Constant(c.vector(INT), list(range(c.target.lanes)))


@intrinsic
def below(c: Context, count: Any) -> ir.Value:
    """Truth values: the first `count` lanes."""
    return c.build.icmp_signed("<", lanes(c), c.convert(c.convert(count, INT), c.vector(INT)))


def _butterfly(c: Context, vector: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    n, distance = c.target.lanes, c.target.lanes // 2
    while distance:
        partners = ir.Constant(ir.VectorType(HALF, n), [i ^ distance for i in range(n)])
        vector = combine(vector, c.build.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), partners))
        distance //= 2
    return vector


@intrinsic
def total(c: Context, vector: ir.Value) -> ir.Value:
    """The sum of the lanes, in every lane."""
    return _butterfly(c, vector, lambda a, b: c.build.fadd(a, b, flags=FLAGS))


@intrinsic
def largest(c: Context, vector: ir.Value) -> ir.Value:
    """The largest lane, in every lane; NaN if one of them is."""

    def larger(a: ir.Value, b: ir.Value) -> ir.Value:
        return where(c, c.build.fcmp_unordered("!=", a, a), a, where(c, c.build.fcmp_ordered(">", a, b), a, b))

    return _butterfly(c, vector, larger)


@intrinsic
def totals(c: Context, *vectors: ir.Value) -> ir.Value:
    """Lane i is the sum of the lanes of the i-th vector; fewer vectors than lanes leave zeros.

    A tree: at each level two vectors become one that holds halves of both, so that n sums cost about 3 n operations.
    """
    n = c.target.lanes
    level: list[ir.Value | None] = [*vectors, *[None] * (n - len(vectors))]
    distance = n // 2
    while distance:
        half = len(level) // 2
        merged: list[ir.Value | None] = []
        for first, second in zip(level[:half], level[half:], strict=True):
            if first is None:
                merged.append(None)
                continue
            other = second if second is not None else ir.Constant(first.type, None)
            low = [i if not i & distance else n + i - distance for i in range(n)]
            high = [i + distance if not i & distance else n + i for i in range(n)]
            parts = [
                c.build.shuffle_vector(first, other, ir.Constant(ir.VectorType(HALF, n), mask)) for mask in (low, high)
            ]
            merged.append(c.build.fadd(*parts, flags=FLAGS))
        level, distance = merged, distance // 2
    (result,) = level
    assert result is not None
    return result


@intrinsic
def any_(c: Context, condition: ir.Value) -> ir.Value:
    """Whether a truth value holds in some lane."""
    packed = c.build.bitcast(condition, ir.IntType(c.target.lanes))
    return c.build.icmp_unsigned("!=", packed, ir.Constant(packed.type, 0))


@intrinsic
def interleave(c: Context, first: ir.Value, second: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The lanes of two vectors in turns: the first half of them, and the second."""
    n = c.target.lanes
    turns = [i // 2 + n * (i % 2) for i in range(2 * n)]
    masks = (ir.Constant(ir.VectorType(HALF, n), part) for part in (turns[:n], turns[n:]))
    low, high = (c.build.shuffle_vector(first, second, mask) for mask in masks)
    return low, high


@intrinsic
def where(c: Context, condition: ir.Value, first: Any, second: Any) -> ir.Value:
    """``first`` where the condition holds, else ``second``."""
    first, second = c.unify(first, second)
    if isinstance(condition.type, ir.VectorType) and not isinstance(first.type, ir.VectorType):
        first, second = splat(c, first), splat(c, second)
    return c.build.select(condition, first, second)


# ---- arithmetic ------------------------------------------------------------------------------------------------------


def _llvm(c: Context, name: str, *arguments: ir.Value) -> ir.Value:
    type_ = arguments[0].type
    function = _declared(c, f"llvm.{name}.{_suffix(type_)}", ir.FunctionType(type_, [type_] * len(arguments)))
    return c.build.call(function, arguments)


@intrinsic
def fma(c: Context, a: Any, b: Any, d: Any) -> ir.Value:
    """``a * b + d``, rounded once where the machine can."""
    return _llvm(c, "fmuladd", *c.unify(a, b, d))


@intrinsic
def sqrt(c: Context, value: Any) -> ir.Value:
    """Square root."""
    return _llvm(c, "sqrt", c.typed(value))


@intrinsic
def abs_(c: Context, value: Any) -> ir.Value:
    """Magnitude."""
    return _llvm(c, "fabs", c.typed(value))


@intrinsic
def floor(c: Context, value: Any) -> ir.Value:
    """Next integer below."""
    return _llvm(c, "floor", c.typed(value))


@intrinsic
def rint(c: Context, value: Any) -> ir.Value:
    """Nearest integer."""
    return _llvm(c, "rint", c.typed(value))


@intrinsic
def min_(c: Context, value: Any, limit: Any) -> ir.Value:
    """The smaller one; NaN if `value` is."""
    return _limited(c, value, "<", limit)


@intrinsic
def max_(c: Context, value: Any, limit: Any) -> ir.Value:
    """The larger one; NaN if `value` is."""
    return _limited(c, value, ">", limit)


def _limited(c: Context, value: Any, sign_: str, limit: Any) -> ir.Value:
    """``limit`` where it is below (or above) the value, else the value."""
    value, limit = c.unify(value, limit)
    whole = value.type in (INT, c.vector(INT), c.vector(HALF))
    compare = c.build.icmp_signed if whole else c.build.fcmp_ordered
    return c.build.select(compare(sign_, limit, value), limit, value)


@intrinsic
def power(c: Context, base: ir.Value, exponent: ir.Value) -> ir.Value:
    """A double to an integer power."""
    return _llvm(c, "pow", base, c.build.sitofp(exponent, DOUBLE))


@intrinsic
def sign(c: Context, value: ir.Value) -> ir.Value:
    """-1, 0 or 1; NaN for NaN."""
    negative = where(c, c.build.fcmp_ordered("<", value, c.convert(0, value.type)), -1, value)
    return where(c, c.build.fcmp_ordered(">", value, c.convert(0, value.type)), 1, negative)


# ---- conversions -----------------------------------------------------------------------------------------------------


@intrinsic
def double(c: Context, value: Any) -> ir.Value:
    """A real, or a vector of them, in double precision."""
    value = c.typed(value)
    to = c.vector(DOUBLE) if isinstance(value.type, ir.VectorType) else DOUBLE
    return value if value.type == to else c.build.fpext(value, to)


@intrinsic
def real(c: Context, value: Any) -> ir.Value:
    """A number, or a vector of doubles, as reals."""
    value = c.typed(value)
    if isinstance(value.type, ir.VectorType):
        to = c.vector(c.target.real)
        return value if value.type == to else c.build.fptrunc(value, to)
    if value.type == c.target.real:
        return value
    if value.type == INT:
        return c.build.sitofp(value, c.target.real)
    return c.build.fptrunc(value, c.target.real)


@intrinsic
def integers(c: Context, value: ir.Value) -> ir.Value:
    """A vector of whole reals as integers of their width; those beyond its range become its ends, NaN 0."""
    to = _integer_like(value.type)
    name = f"llvm.fptosi.sat.{_suffix(to)}.{_suffix(value.type)}"
    return c.build.call(_declared(c, name, ir.FunctionType(to, [value.type])), [value])


@intrinsic
def reals(c: Context, value: ir.Value) -> ir.Value:
    """A vector of integers as reals."""
    to = c.vector(c.target.real) if isinstance(value.type, ir.VectorType) else c.target.real
    return c.build.sitofp(value, to)


@intrinsic
def bits(c: Context, value: ir.Value) -> ir.Value:
    """The bits of reals, as integers of their width."""
    return c.build.bitcast(value, _integer_like(value.type))


@intrinsic
def from_bits(c: Context, value: ir.Value) -> ir.Value:
    """Reals from their bits."""
    scalar = not isinstance(value.type, ir.VectorType)
    return c.build.bitcast(value, c.target.real if scalar else c.vector(c.target.real))


@intrinsic
def single(c: Context) -> bool:
    """Whether the program's reals are float32: known when it is compiled."""
    return c.target.dtype == "float32"


# ---- threads ---------------------------------------------------------------------------------------------------------


@intrinsic
def atomic_add(c: Context, array: ir.Value, index: Any, value: Any) -> ir.Value:
    """Add to an integer that other threads see; returns the old one."""
    pointer = c.build.gep(array, [c.convert(index, INT)], inbounds=True)
    return c.build.atomic_rmw("add", pointer, c.convert(value, INT), "acq_rel")


@intrinsic
def atomic_load(c: Context, array: ir.Value, index: Any) -> ir.Value:
    """Read an integer that other threads write."""
    pointer = c.build.gep(array, [c.convert(index, INT)], inbounds=True)
    return c.build.load_atomic(pointer, "acquire", 8)


@intrinsic
def yield_thread(c: Context) -> None:
    """Let another thread have the core."""
    c.build.call(_declared(c, "sched_yield", ir.FunctionType(HALF, [])), [])


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _declared(c: Context, name: str, type_: ir.FunctionType) -> ir.Function:
    module = c.build.module
    return module.globals[name] if name in module.globals else ir.Function(module, type_, name)


def _bytes(element: ir.Type) -> int:
    return {ir.FloatType(): 4, DOUBLE: 8, INT: 8, HALF: 4, BOOL: 1}[element]


def _half(number: int) -> ir.Constant:
    return ir.Constant(HALF, number)


def _integer_like(type_: ir.Type) -> ir.Type:
    if isinstance(type_, ir.VectorType):
        return ir.VectorType(ir.IntType(8 * _bytes(type_.element)), type_.count)
    return ir.IntType(8 * _bytes(type_))


def _suffix(type_: ir.Type) -> str:
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{_suffix(type_.element)}"
    return f"{'i' if isinstance(type_, ir.IntType) else 'f'}{8 * _bytes(type_)}"
