"""The small compiler: its language against plain NumPy and Python, its mathematics against mpmath."""

import ast
import ctypes
import textwrap
import threading
from functools import cache

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import ulp

from nnkernels.backends.numba.intrinsics import INTRINSICS
from nnkernels.backends.numba.language import LanguageError, Target, translate
from nnkernels.backends.numba.machine import LIBRARY, Program

TARGETS = [Target(dtype, lanes) for dtype in ("float32", "float64") for lanes in (4, 8, 16)]
WIDEST = 16


@pytest.fixture(params=TARGETS, ids=lambda target: f"{target.dtype}-{target.lanes}", scope="module")
def target(request):
    """A real type and a number of lanes."""
    return request.param


@pytest.fixture(autouse=True, scope="module")
def _empty_cache(tmp_path_factory):
    """Compile everything here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@cache
def compiled(source, target):
    return Program(textwrap.dedent(source), target)


def run(source, target, *arguments):
    """Call a program's function `apply` with arrays and integers."""
    types = [ctypes.c_void_p if isinstance(argument, np.ndarray) else ctypes.c_int64 for argument in arguments]
    values = [argument.ctypes.data if isinstance(argument, np.ndarray) else argument for argument in arguments]
    compiled(source, target).function("apply", *types)(*values)


EACH = """
def each(x, y):
    return {expression}

def apply(a: {kind}, b: {kind}, vectors: {kind}, scalars: {kind}):
    for i in range(0, 16, LANES):
        store(vectors, i, each(load(a, i), load(b, i)))
    for i in range(16):
        scalars[i] = each(a[i], b[i])
"""


def each(expression, target, x, y, kind="reals"):
    """Return an expression of the elements of two arrays of 16, by vectors and by scalars."""
    vectors, scalars = np.empty_like(x), np.empty_like(x)
    run(EACH.format(expression=expression, kind=kind), target, x, y, vectors, scalars)
    return vectors, scalars


# ---- reals -----------------------------------------------------------------------------------------------------------

ROUNDED_ONCE = {
    "x + y": np.add,
    "x - y": np.subtract,
    "x * y": np.multiply,
    "x / y": np.divide,
    "-x": lambda x, y: -x,
    "x + 1": lambda x, y: x + 1,
    "2 * x": lambda x, y: 2 * x,
    "1 / y": lambda x, y: 1 / y,
    "where(x < y, x, y)": lambda x, y: np.where(x < y, x, y),
    "where(x > y, x, y)": lambda x, y: np.where(x > y, x, y),
    "where(x <= y, x, y)": lambda x, y: np.where(x <= y, x, y),
    "where(x >= y, x, y)": lambda x, y: np.where(x >= y, x, y),
    "where(x == y, 1.0, 0.0)": lambda x, y: x == y,
    "where(x != y, 1, y)": lambda x, y: np.where(x != y, 1, y),
    "where(not x < y, x, y)": lambda x, y: np.where(~(x < y), x, y),
    "min(x, y)": lambda x, y: np.where(y < x, y, x),
    "max(x, y)": lambda x, y: np.where(y > x, y, x),
    "min(max(x, -1), 1.5)": lambda x, y: np.clip(x, -1, 1.5),
    "sqrt(x)": lambda x, y: np.sqrt(x),
    "abs(x)": lambda x, y: np.abs(x),
    "floor(x)": lambda x, y: np.floor(x),
    "rint(x)": lambda x, y: np.rint(x),
    "sign(x)": lambda x, y: np.sign(x),
    "from_bits(bits(x))": lambda x, y: x,
}
NOT_A_NUMBER = {  # what an optimizer that takes numbers for real ones would change
    "x - x": lambda x, y: x - x,
    "x * 0": lambda x, y: x * 0,
    "x * 0 + y": lambda x, y: x * 0 + y,
    "x / x": lambda x, y: x / x,
    "(x + 1e8) - 1e8": lambda x, y: (x + x.dtype.type(1e8)) - x.dtype.type(1e8),
}
SPECIAL = np.array([0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.0, 1e30, -1e30, 1e-40, 7.0, 1.0, np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("expression", [*ROUNDED_ONCE, *NOT_A_NUMBER])
def test_real_arithmetic_is_numpys(target, expression):
    """By vectors and by scalars, with what is no number, and infinity, and numbers that are not normal."""
    with np.errstate(all="ignore"):
        x = SPECIAL.astype(target.dtype)
        for shift in range(len(x)):
            y = np.roll(x, shift)
            expected = (ROUNDED_ONCE | NOT_A_NUMBER)[expression](x, y).astype(x.dtype)
            for result in each(expression, target, x, y):
                np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("expression", ROUNDED_ONCE)
@given(data=st.data())
def test_real_arithmetic_is_numpys_for_any_numbers(expression, data):
    target = Target("float32", 8)
    numbers = st.lists(st.floats(width=32), min_size=16, max_size=16)
    x, y = (np.array(data.draw(numbers), np.float32) for _ in range(2))
    with np.errstate(all="ignore"):
        expected = ROUNDED_ONCE[expression](x, y).astype(np.float32)
    for result in each(expression, target, x, y):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("expression", ["fma(x, y, 1)", "x * y + 1"])
def test_a_product_and_a_sum_may_be_rounded_once(target, expression):
    x = np.linspace(-2, 2, 16, dtype=target.dtype)
    y = np.linspace(1, 3, 16, dtype=target.dtype)
    for result in each(expression, target, x, y):
        np.testing.assert_allclose(result, x * y + 1, rtol=0, atol=7 * np.finfo(x.dtype).eps)


def test_reals_become_integers_of_their_width(target):
    """Whole numbers as they are, those out of range the nearest in range, NaN 0."""
    x = np.array([0, -1, 2**20, -(2**24), 1e30, -1e30, np.nan, np.inf] * 2, target.dtype)
    kind = np.int32 if target.dtype == "float32" else np.int64
    out = np.empty(16, kind)
    source = """
    def apply(x: reals, out: {kind}):
        for i in range(0, 16, LANES):
            store(out, i, integers(load(x, i)))
    """
    run(source.format(kind="words" if kind is np.int32 else "ints"), target, x, out)
    ends = np.iinfo(kind)
    assert out.tolist() == [0, -1, 2**20, -(2**24), ends.max, ends.min, 0, ends.max] * 2


def test_the_bits_of_reals(target):
    x = np.linspace(-3, 3, 16, dtype=target.dtype)
    assert (each("from_bits(bits(x) ^ bits(y) ^ bits(x))", target, x, -x)[0] == -x).all()


def test_scalars_change_their_type_when_told(target):
    source = """
    def apply(n: int, x: reals, y: doubles):
        x[0] = real(n)
        y[0] = double(x[0]) / 3
        x[1] = real(y[0])
        x[2] = real(2)
        if single():
            x[3] = 32
        else:
            x[3] = 64
    """
    x, y = np.zeros(4, target.dtype), np.zeros(1)
    run(source, target, 7, x, y)
    assert y[0] == 7 / 3
    np.testing.assert_array_equal(x, np.array([7, 7 / 3, 2, {"float32": 32, "float64": 64}[target.dtype]], x.dtype))


def test_an_argument_is_an_integer_a_real_a_double_or_an_array(target):
    source = """
    def apply(n: int, r: real, d: double, x: reals, i: ints, y: doubles, w: words):
        x[0] = r
        i[0] = n
        y[0] = d
        store(w, 0, load(w, 0) + load(w, LANES))
    """
    real = {"float32": ctypes.c_float, "float64": ctypes.c_double}[target.dtype]
    arrays = np.zeros(1, target.dtype), np.zeros(1, np.int64), np.zeros(1), np.arange(32, dtype=np.int32)
    apply = compiled(source, target).function("apply", ctypes.c_int64, real, ctypes.c_double, *[ctypes.c_void_p] * 4)
    apply(-(2**40), 0.1, 0.2, *[array.ctypes.data for array in arrays])
    x, i, y, w = arrays
    assert (x[0], i[0], y[0]) == (np.dtype(target.dtype).type(0.1), -(2**40), 0.2)
    assert w[: target.lanes].tolist() == [2 * k + target.lanes for k in range(target.lanes)]


# ---- integers --------------------------------------------------------------------------------------------------------

INTEGER = {
    "x + y": np.add,
    "x - y": np.subtract,
    "x * y": np.multiply,
    "x & y": np.bitwise_and,
    "x | y": np.bitwise_or,
    "x ^ y": np.bitwise_xor,
    "x << (y & 63)": lambda x, y: x << (y & np.uint64(63)),
    "x >> (y & 63)": lambda x, y: x >> (y & np.uint64(63)),
    "x // (y | 1)": lambda x, y: x // (y | np.uint64(1)),
    "x % (y | 1)": lambda x, y: x % (y | np.uint64(1)),
    "-x": lambda x, y: np.uint64(0) - x,
    "x + 1": lambda x, y: x + np.uint64(1),
    "x * 18446744073709551615": lambda x, y: np.uint64(0) - x,
    "where(x < y, x, y)": lambda x, y: np.where(x.view(np.int64) < y.view(np.int64), x, y),
    "where(x >= y, x, y)": lambda x, y: np.where(x.view(np.int64) >= y.view(np.int64), x, y),
    "where(x == y, 1, 0)": lambda x, y: x == y,
    "where(x != y, 1, 0)": lambda x, y: x != y,
    "min(x, y)": lambda x, y: np.minimum(x.view(np.int64), y.view(np.int64)),
    "max(x, y)": lambda x, y: np.maximum(x.view(np.int64), y.view(np.int64)),
}


@pytest.mark.parametrize("expression", INTEGER)
@given(lanes=st.sampled_from((4, 8, 16)), data=st.data())
def test_integer_arithmetic_is_numpys(expression, lanes, data):
    """Of 64 bits; signed where it is compared, unsigned where it is divided or shifted."""
    numbers = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), min_size=16, max_size=16)
    x, y = (np.array(data.draw(numbers), np.uint64) for _ in range(2))
    expected = INTEGER[expression](x, y).astype(np.uint64)
    for result in each(expression, Target("float32", lanes), x, y, kind="ints"):
        np.testing.assert_array_equal(result, expected)


# ---- vectors ---------------------------------------------------------------------------------------------------------


def test_a_total_is_in_every_lane(target):
    x = np.arange(16, dtype=target.dtype)
    expected = x.reshape(-1, target.lanes).sum(axis=1).repeat(target.lanes)
    assert (each_vector("total(load(x, i))", target, x) == expected).all()


@pytest.mark.parametrize("place", [None, *range(WIDEST)])
def test_the_largest_is_in_every_lane_and_nan_if_one_is(target, place):
    x = np.random.default_rng(3).permutation(16).astype(target.dtype)
    if place is not None:
        x[place] = np.nan
    expected = x.reshape(-1, target.lanes).max(axis=1).repeat(target.lanes)
    np.testing.assert_array_equal(each_vector("largest(load(x, i))", target, x), expected)


def each_vector(expression, target, x):
    """Return an expression of i, where a vector of x begins."""
    out = np.empty_like(x)
    source = f"""
    def apply(x: reals, out: reals):
        for i in range(0, 16, LANES):
            store(out, i, {expression})
    """
    run(source, target, x, out)
    return out


def test_totals_of_up_to_as_many_vectors_as_lanes(target):
    x = np.random.default_rng(4).integers(-100, 100, target.lanes**2).astype(target.dtype)
    for count in range(1, target.lanes + 1):
        vectors = ", ".join(f"load(x, {k} * LANES)" for k in range(count))
        out = np.empty(target.lanes, x.dtype)
        run(f"def apply(x: reals, out: reals):\n    store(out, 0, totals({vectors}))\n", target, x, out)
        expected = x.reshape(target.lanes, -1).sum(axis=1) * (np.arange(target.lanes) < count)
        np.testing.assert_array_equal(out, expected)


def test_lanes_are_gathered_from_anywhere(target):
    index = np.random.default_rng(5).integers(0, 100, 16)
    table, out = np.arange(100, dtype=target.dtype) / 3, np.empty(16, target.dtype)
    source = """
    def apply(index: ints, table: reals, out: reals):
        for i in range(0, 16, LANES):
            store(out, i, gather(table + 0, load(index, i)))
    """
    run(source, target, index, table, out)
    np.testing.assert_array_equal(out, table[index])


def test_vectors_are_loaded_and_stored_at_any_element(target):
    x, out = np.arange(40, dtype=target.dtype), np.zeros(40, target.dtype)
    run("def apply(x: reals, out: reals):\n    store(out, 5, load(x + 1, 2))\n", target, x, out)
    assert out.tolist() == [0] * 5 + list(range(3, 3 + target.lanes)) + [0] * (35 - target.lanes)


def test_scalars_become_vectors_and_lanes_scalars(target):
    source = """
    def apply(n: int, out: ints):
        store(out, 0, splat(n))
        store(out, LANES, lanes() + n)
        store(out, 2 * LANES, where(below(n), 1, 0))
        out[3 * LANES] = lane(lanes(), 2) + lane(lanes(), n)
    """
    n, out = 3, np.empty(3 * target.lanes + 1, np.int64)
    run(source, target, n, out)
    first, second, third = out[:-1].reshape(3, -1).tolist()
    numbers = range(target.lanes)
    assert first == [n] * target.lanes
    assert second == [k + n for k in numbers]
    assert third == [int(k < n) for k in numbers]
    assert out[-1] == 2 + n


def test_interleaved_lanes_take_turns(target):
    source = """
    def apply(out: ints):
        first, second = interleave(lanes(), lanes() + 100)
        store(out, 0, first)
        store(out, LANES, second)
    """
    out = np.empty(2 * target.lanes, np.int64)
    run(source, target, out)
    assert out.reshape(-1, 2).tolist() == [[k, k + 100] for k in range(target.lanes)]


def test_any_lane(target):
    source = """
    def apply(n: int, out: ints):
        out[0] = 0
        if any(lanes() == n):
            out[0] = 1
    """
    for n in range(-1, target.lanes + 1):
        out = np.empty(1, np.int64)
        run(source, target, n, out)
        assert out[0] == (0 <= n < target.lanes)


def test_a_buffer_is_an_array_of_the_call(target):
    source = """
    def apply(x: reals, out: reals):
        kept = buffer(32)
        for i in range(16):
            kept[16 + i] = x[i]
        for i in range(0, 16, LANES):
            store(out, i, load(kept, 16 + i) + kept[16])
    """
    x, out = np.arange(1, 17, dtype=target.dtype), np.empty(16, target.dtype)
    run(source, target, x, out)
    np.testing.assert_array_equal(out, x + 1)


# ---- statements ------------------------------------------------------------------------------------------------------

STATEMENTS = {  # a body, and the same in Python
    "a loop to an end": ("for i in range(n):\n    out[i] = i", lambda n: [*range(n)]),
    "a loop from a start": ("for i in range(2, n):\n    out[i] = i", lambda n: [0, 0, *range(2, n)]),
    "a loop with a step": ("for i in range(1, n, 3):\n    out[0] += i", lambda n: [sum(range(1, n, 3))]),
    "a loop with a step known late": ("for i in range(0, 9, n):\n    out[0] += i", lambda n: [sum(range(0, 9, n))]),
    "a loop of none": ("for i in range(n, 0):\n    out[0] = 1", lambda n: [0]),
    "a loop in a loop": (
        "for i in range(n):\n    for k in range(i):\n        out[i] += k",
        lambda n: [sum(range(i)) for i in range(n)],
    ),
    "a name of two loops": (
        "for i in range(n):\n    out[0] += i\nfor i in range(2):\n    out[1] += i",
        lambda n: [sum(range(n)), 1],
    ),
    "while": ("k = n\nwhile k > 2:\n    k -= 2\n    out[0] += 1\nout[1] = k", lambda n: [(n - 1) // 2, 2 - n % 2]),
    "if": ("if n > 3:\n    out[0] = 1\nelse:\n    out[0] = 2", lambda n: [1 if n > 3 else 2]),
    "if without else": ("out[0] = 5\nif n == 4:\n    out[0] = 1", lambda n: [1 if n == 4 else 5]),
    "elif": (
        "if n < 4:\n    out[0] = 1\nelif n < 6:\n    out[0] = 2\nelse:\n    out[0] = 3",
        lambda n: [1 if n < 4 else 2 if n < 6 else 3],
    ),
    "if in a loop": (
        "k = 0\nfor i in range(n):\n    if i % 2 == 1:\n        k += i\nout[0] = k",
        lambda n: [sum(range(1, n, 2))],
    ),
    "an if that is settled": ("if LANES > 2:\n    out[0] = 1\nelse:\n    out[0] = nonsense(n)", lambda n: [1]),
    "an if that is settled the other way": (
        "if LANES <= 2:\n    nonsense(n)\nelse:\n    out[0] = 1",
        lambda n: [1],
    ),
    "not": ("if not n == 4:\n    out[0] = 1\nif not LANES >= 100:\n    out[1] = 1", lambda n: [int(n != 4), 1]),
    "a tuple is assigned at once": ("a, b = n, 1\na, b = b, a + b\nout[0], out[1] = a, b", lambda n: [1, n + 1]),
    "an argument may be assigned to": ("n = n + 1\nn += 1\nout[0] = n", lambda n: [n + 2]),
    "an argument may be assigned to in a branch": (
        "if n > 3:\n    n = 9\nfor i in range(2):\n    n += i\nout[0] = n",
        lambda n: [(9 if n > 3 else n) + 1],
    ),
    "operators with assignment": (
        "a = n\na *= 6\na -= 2\na //= 2\na <<= 3\na >>= 1\na |= 1\na ^= 2\na &= 255\na %= 50\nout[0] = a",
        lambda n: [((((((n * 6 - 2) // 2) << 3) >> 1 | 1) ^ 2) & 255) % 50],
    ),
    "an array further on": ("later = out + n\nlater[0] = 7\n(later + 1)[0] = 8", lambda n: [0] * n + [7, 8]),
    "pass": ("pass\nout[0] = n", lambda n: [n]),
    "numbers that are written down": ("k = 2 * 3 + 7 // 2 - 9 % 5\nout[0] = k << 1 | 1", lambda n: [11]),
    "a negative number": ("out[0] = -n\nout[1] = -3", lambda n: [-n, -3]),
}


@pytest.mark.parametrize("n", [1, 4, 7])
@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_do_what_pythons_do(name, n):
    body, expected = STATEMENTS[name]
    out = np.zeros(16, np.int64)
    run("def apply(n: int, out: ints):\n" + textwrap.indent(body, "    "), Target("float32", 4), n, out)
    numbers = expected(n)
    assert out.tolist() == numbers + [0] * (16 - len(numbers))


FUNCTIONS = '''
def twice(x):
    """A function serves scalars and vectors."""
    return x + x

def fill(out, n, value):
    """One without a result."""
    for i in range(n):
        out[i] = value
    value = 0

def clipped(x, limit):
    if x > limit:
        x = limit
    return x

def parts(x):
    half = x >> 1
    return half, x - half

def apply(n: int, out: ints):
    half = 100
    out[10] = clipped(7, n)
    fill(out, 3, twice(twice(n)))
    out[3], out[4] = parts(n)
    store(out, 5, twice(lanes()))
    out[9] = half
'''


def test_functions_are_compiled_where_they_are_called():
    """With names of their own, and the types they are called with."""
    out = np.zeros(11, np.int64)
    run(FUNCTIONS, Target("float64", 4), 5, out)
    assert out.tolist() == [20, 20, 20, 2, 3, 0, 2, 4, 6, 100, 5]


def test_a_function_without_annotations_is_not_exported():
    assembly = translate(FUNCTIONS, Target("float64", 4))
    assert assembly.count("define ") == 1
    assert '@"apply"' in assembly


MISTAKES = {
    "out[0] = nothing": "nothing",
    "out[0] = nothing(1)": "nothing",
    "out[0] = twice(1, 2)": "twice takes 1 arguments, not 2",
    "out[0] = load(out)": "load",
    "out[0] = load(out, 0)": "<4 x i64> is no i64",
    "store(out, 0, 0.5)": "0.5 is no integer",
    "out[0] = n + 0.5": "0.5 is no integer",
    "out[0] = n + x[0]": "is no i64",
    "out[0] = max(n, limit=3)": "arguments have no names",
    "out[0] = where(0 < n < 3, 1, 0)": "a chain of comparisons",
    "out[0] = n and 1": "BoolOp",
    "out[0] = n ** 2": "Pow",
    "out[0], out[1] = n, 1, 2": "",
    "a = b = 1": "",
    "n = load(out, 0)": "is no i64",
    "n.k = 1": "",
    "out[0] = x * 2": "",
    "return n": "Return",
    "with n: pass": "With",
}


@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_named_with_its_line(line, nested):
    body = f"if n > 3:\n        for i in range(n):\n            {line}" if nested else line
    source = f"def twice(x):\n    return 2 * x\ndef apply(n: int, x: reals, out: ints):\n    {body}\n    out[0] = 1\n"
    with pytest.raises(LanguageError) as caught:
        translate(source, Target("float32", 4))
    assert MISTAKES[line] in str(caught.value)
    (named,) = [row for row in str(caught.value).splitlines() if row.startswith("line:")]
    assert named == f"line: {ast.unparse(ast.parse(line)).splitlines()[0]}"


def test_a_mistake_in_a_function_is_named_where_it_is():
    source = "def wrong(x):\n    y = x + nothing\n    return y\ndef apply(out: ints):\n    out[0] = wrong(1)\n"
    with pytest.raises(LanguageError, match=r"line: y = x \+ nothing$"):
        translate(source, Target("float32", 4))


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_threads_count_together():
    source = """
    def apply(count: ints, n: int, seen: ints):
        for i in range(n):
            seen[atomic_add(count, 0, 1)] += 1
            yield_thread()
    """
    n, count, seen = 2000, np.zeros(1, np.int64), np.zeros(6000, np.int64)
    threads = [threading.Thread(target=run, args=(source, TARGETS[0], count, n, seen)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count[0] == 3 * n
    assert (seen == 1).all()


def test_a_thread_waits_for_another_without_the_interpreters_lock():
    waiting = """
    def apply(flag: ints, out: ints):
        while atomic_load(flag, 0) == 0:
            yield_thread()
        out[0] = flag[1]
    """
    flag, out = np.zeros(2, np.int64), np.zeros(1, np.int64)
    thread = threading.Thread(target=run, args=(waiting, TARGETS[0], flag, out))
    thread.start()
    run("def apply(flag: ints):\n    flag[1] = 7\n    old = atomic_add(flag, 0, 1)\n", TARGETS[0], flag)
    thread.join(timeout=60)
    assert out[0] == 7


# ---- mathematics -----------------------------------------------------------------------------------------------------

mpmath.mp.dps = 40
EXACT = {
    "exp(x)": mpmath.exp,
    "expm1(x)": mpmath.expm1,
    "tanh(x)": mpmath.tanh,
    "log(x)": mpmath.log,
    "log1p(x)": mpmath.log1p,
    "sigmoid(x)": lambda z: 1 / (1 + mpmath.exp(-z)),
    "sigmoid_slope(x)": lambda z: mpmath.exp(-z) / (1 + mpmath.exp(-z)) ** 2,
    "tanh_slope(x)": lambda z: 1 / mpmath.cosh(z) ** 2,
}
PARTS = """
def sigmoid(z):
    a, slope = sigmoid_forward(z)
    return a

def sigmoid_slope(z):
    a, slope = sigmoid_forward(z)
    return slope

def tanh_slope(z):
    a, slope = tanh_forward(z)
    return slope
"""
MAP = """
def apply(x: reals, vectors: reals, scalars: reals, n: int):
    for i in range(0, n, LANES):
        store(vectors, i, one(load(x, i)))
    for i in range(n):
        scalars[i] = one(x[i])

def one(x):
    return {expression}
"""


def elementary(expression, target, x):
    """Return an expression of the elements of an array, by vectors and by scalars."""
    padded = np.concatenate([x, np.ones(-len(x) % target.lanes, x.dtype)])
    vectors, scalars = np.empty_like(padded), np.empty_like(padded)
    run(PARTS + MAP.format(expression=expression), target, padded, vectors, scalars, len(padded))
    return vectors[: len(x)], scalars[: len(x)]


@cache
def grid(expression, dtype):
    """Arguments over the function's domain: tails, steps around 0 (1 for the logarithm), and numbers not normal."""
    info = np.finfo(dtype)
    small = np.geomspace(info.smallest_normal, 1, 150)
    if expression == "log(x)":
        near = 1 + np.linspace(-0.3, 0.45, 200)
        denormal = np.geomspace(info.smallest_subnormal, info.smallest_normal, 20)
        numbers = [np.geomspace(info.smallest_normal, info.max / 2, 300), near, 1 + small[-60:], 1 - small[-60:-1]]
        numbers.append(denormal)
    elif expression == "log1p(x)":
        numbers = [small, -small[:-1], np.geomspace(1, info.max / 2, 200), np.linspace(-0.999, 1, 200)]
    else:
        limit = -np.log(float(info.smallest_normal))
        numbers = [np.linspace(-limit, limit, 500), np.linspace(-3, 3, 300), small, -small]
    with np.errstate(under="ignore"):
        return np.concatenate(numbers).astype(dtype)


def errors(results, exact, x, smallest):
    """Distances in units in the last place, where the exact result is not too small; beside them, where."""
    info = np.finfo(x.dtype)
    for result, argument in zip(results, x, strict=True):
        right = exact(mpmath.mpf(float(argument)))
        if smallest <= abs(right) <= info.max:
            spacing = np.spacing(x.dtype.type(abs(right)))
            yield float(abs(mpmath.mpf(float(result)) - right) / mpmath.mpf(float(spacing))), float(argument)


@pytest.mark.parametrize("expression", EXACT)
def test_elementary_functions_are_accurate_to_a_few_ulp(expression, dtype):
    """And to what the rounding of x / log(2) costs, 1.5 ulp for each unit of an exponential's argument.

    As long as they are normal numbers; the slope of tanh, as long as its exponential is one.
    """
    x = grid(expression, dtype)
    exponent = {"log(x)": 0, "log1p(x)": 0, "tanh_slope(x)": 2}.get(expression, 1)
    smallest = float(np.finfo(dtype).smallest_normal) * (4 if expression == "tanh_slope(x)" else 1)
    results, _ = elementary(expression, Target(np.dtype(dtype).name, 8), x)
    for error, argument in errors(results, EXACT[expression], x, smallest):
        assert error <= ulp(dtype, "elementary") + 1.5 * abs(argument) * exponent, argument


@pytest.mark.parametrize("expression", EXACT)
def test_elementary_functions_give_the_same_bits_in_any_lane(expression, dtype):
    x = grid(expression, dtype)
    name = np.dtype(dtype).name
    expected = elementary(expression, Target(name, 8), x)[0]
    for lanes in (4, 8, 16):
        for result in elementary(expression, Target(name, lanes), x):
            assert result.tobytes() == expected.tobytes()


TINY = "tiny"  # positive, and at most the smallest normal number
AT_SPECIAL_VALUES = {
    "exp(x)": {0.0: 1, np.inf: np.inf, -np.inf: 0, 1e4: np.inf, -1e4: 0, 1e-310: 1},
    "expm1(x)": {0.0: 0, np.inf: np.inf, -np.inf: -1, 1e4: np.inf, -1e4: -1},
    "tanh(x)": {0.0: 0, np.inf: 1, -np.inf: -1, 1e30: 1, -1e30: -1},
    "log(x)": {0.0: -np.inf, 1.0: 0, np.inf: np.inf, -1.0: np.nan, -np.inf: np.nan},
    "log1p(x)": {0.0: 0, -1.0: -np.inf, np.inf: np.inf, -2.0: np.nan, -np.inf: np.nan},
    # of whole runs, in which an infinite z has diverged
    "sigmoid(x)": {0.0: 0.5, 1e30: 1, -1e30: TINY, np.inf: np.nan, -np.inf: np.nan},
    "sigmoid_slope(x)": {0.0: 0.25, 1e30: TINY, -1e30: TINY, np.inf: np.nan, -np.inf: np.nan},
    "tanh_slope(x)": {0.0: 1, 1e30: TINY, -1e30: TINY, np.inf: np.nan, -np.inf: np.nan},
}


@pytest.mark.parametrize("expression", AT_SPECIAL_VALUES)
def test_elementary_functions_at_special_values(expression, target):
    cases = [*AT_SPECIAL_VALUES[expression].items(), (-0.0, AT_SPECIAL_VALUES[expression][0.0]), (np.nan, np.nan)]
    x = np.array([argument for argument, _ in cases]).astype(target.dtype)
    tiny = np.finfo(x.dtype).smallest_normal
    for results in elementary(expression, target, x):
        for (argument, expected), result in zip(cases, results, strict=True):
            if expected is TINY:
                assert 0 < result <= 4 * tiny, argument
            else:
                np.testing.assert_array_equal(result, expected, err_msg=str(argument))


@pytest.mark.parametrize("expression", ["expm1(x)", "tanh(x)", "log1p(x)"])
def test_a_number_that_is_not_normal_is_what_these_functions_make_of_it(expression, dtype):
    info = np.finfo(dtype)
    x = np.geomspace(info.smallest_normal * 2.0**-10, info.smallest_normal, 32).astype(dtype)
    (results, _), spacing = elementary(expression, Target(np.dtype(dtype).name, 8), x), info.smallest_subnormal
    assert (abs(results - x) <= 2 * spacing).all()


@given(x=st.lists(st.floats(-(2.0**126), 2.0**126, width=32) | st.just(np.nan), min_size=1, max_size=40))
def test_activations_stay_in_their_range(x):
    x = np.array(x, np.float32)
    target = Target("float32", 8)
    tanh, sigmoid, exp = (elementary(f"{name}(x)", target, x)[0] for name in ("tanh", "sigmoid", "exp"))
    slopes = [elementary(f"{name}_slope(x)", target, x)[0] for name in ("tanh", "sigmoid")]
    number = ~np.isnan(x)
    assert (abs(tanh[number]) <= 1).all()
    assert ((sigmoid[number] > 0) & (sigmoid[number] <= 1) & (exp[number] >= 0)).all()
    for slope, top in zip(slopes, (1, 0.25), strict=True):
        assert ((slope[number] > 0) & (slope[number] <= top)).all()
    for result in (tanh, sigmoid, exp, *slopes):
        assert (np.isnan(result) == ~number).all()


# ---- the language as a whole -----------------------------------------------------------------------------------------


def test_every_function_of_the_language_is_documented():
    assert [name for name, function in INTRINSICS.items() if not function.__doc__] == []


def test_no_function_of_the_library_hides_another():
    """Its files share one space of names with each other and with the language."""
    names = list(INTRINSICS)
    for path in LIBRARY:
        names += [line[4:].partition("(")[0] for line in path.read_text().splitlines() if line.startswith("def ")]
    assert sorted(names) == sorted(set(names))
