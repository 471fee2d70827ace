"""The pieces that programs are written from."""

import ast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnkernels as nnk
from nnkernels._formulas import ACTIVATIONS, LOSSES, OPTIMIZERS
from nnkernels._recipe import Recipe
from nnkernels.backends._printing import without
from nnkernels.backends.numba.codegen import choice, formulas
from nnkernels.backends.numba.codegen.code import Code, plus, share, tiles
from nnkernels.backends.numba.codegen.program import Packing
from nnkernels.backends.numba.codegen.rows_frame import RowsFrame
from nnkernels.backends.numba.codegen.units_frame import UnitsFrame
from nnkernels.backends.numba.language import Target
from nnkernels.backends.numba.machine import compile_object


def recipe(sizes, batch=4, optimizer=None, **kwargs):
    layers = tuple(nnk.Dense(a, b, activation="tanh") for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    arguments = {
        "n_rows": 20,
        "batch": batch,
        "sampling": "permutation",
        "weighted": False,
        "dtype": "float64",
    }
    return Recipe.of(layers, nnk.HalfSquaredError(), optimizer or nnk.Adam(), **(arguments | kwargs))


def test_a_loop_is_written_by_a_loop_and_unrolled_by_the_same_one():
    written = {}
    for unroll in (False, True):
        code = Code()
        for i in code.range("i", 3, unroll=unroll):
            code(f"store(a, {i} * 4 + 0, load(b, {i} * 4 + 1 + 2))")
        written[unroll] = code.text
    assert written[False] == "for i in range(3):\n    store(a, i * 4, load(b, i * 4 + 3))\n"
    assert written[True].splitlines()[2] == "store(a, 8, load(b, 11))"


SUMS = st.recursive(
    st.sampled_from(["0", "1", "2", "7", "n"]),
    lambda s: st.tuples(s, st.sampled_from("+*"), s).map(" ".join),
)


@given(expression=SUMS, n=st.integers(0, 50))
def test_folding_keeps_the_value(expression, n):
    code = Code()
    code(f"x = ({expression}) + 3")
    got = {}
    exec(code.text, {"n": n}, got)
    assert got["x"] == eval(expression, {"n": n}) + 3
    assert "n" in code.text or isinstance(ast.parse(code.text).body[0].value, ast.Constant) or "n" in expression


@given(n=st.integers(1, 500), largest=st.integers(1, 40))
def test_tiles_cover_everything_once_and_are_even(n, largest):
    covered, sizes = [], set()
    for start, stop, size in tiles(n, largest):
        assert (stop - start) % size == 0
        covered += range(start, stop)
        sizes.add(size)
    assert covered == list(range(n))
    assert max(sizes) <= largest
    assert max(sizes) - min(sizes) <= 1


@given(n=st.integers(0, 100), threads=st.integers(1, 9))
def test_shares_cover_everything_once(n, threads):
    covered = []
    for thread in range(threads):
        start, stop = (eval(bound, {"thread": thread, "threads": threads}) for bound in share(n))
        covered += range(start, stop)
    assert covered == list(range(n))


def test_an_index_further_on_is_done_where_it_is_known():
    assert (plus(3, 4), plus("k", 0), plus("k", 4)) == (7, "k", "(k + 4)")


@pytest.mark.parametrize("frame", ["units", "rows"])
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    lanes=st.sampled_from([2, 4, 8, 16]),
)
def test_every_parameter_has_a_place_of_its_own(frame, sizes, lanes):
    described = recipe(sizes)
    if frame == "units":
        made = UnitsFrame(described, lanes, unrolled=False)
        places = [place for layer in made.layers for place in layer.places()]
    else:
        made = RowsFrame(described, lanes)
        places = made.places()
    packing = Packing(places, made.size)
    assert len(set(packing.index.tolist())) == len(packing.index) == described.n_parameters
    assert packing.index.min() >= 0
    assert packing.index.max() < packing.size
    flat = np.random.default_rng(0).normal(size=described.n_parameters)
    packed, back = np.zeros(packing.size), np.empty_like(flat)
    packing.pack(flat, packed)
    packing.unpack(packed, back)
    np.testing.assert_array_equal(back, flat)
    assert np.count_nonzero(packed) == np.count_nonzero(flat)


def test_losses_of_the_difference_are_known_as_such():
    known = {name for name in LOSSES if formulas.depends_on_difference(name)}
    assert known == {
        "half_squared_error",
        "mean_squared_error",
        "absolute_error",
        "huber",
    }
    assert not formulas.depends_on_difference("categorical_cross_entropy")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_without_decay_is_the_one_with_a_decay_of_zero(name):
    rng, values = (
        np.random.default_rng(0),
        {"weight_decay": 0.0, "sqrt": np.sqrt, "lr": 0.1},
    )
    numbers = (
        *OPTIMIZERS[name].scalars,
        "rest",
        "rest1",
        "rest2",
        "correction1",
        "correction2",
        "p",
        "g",
        "v",
        "m",
    )
    values |= {number: rng.uniform(0.1, 0.9) for number in numbers if number != "weight_decay"}
    results = []
    for drop in (False, True):
        scope = dict(values)
        for target, tree in OPTIMIZERS[name].statements():
            expression = without([(target, tree)], "weight_decay")[0][1] if drop else tree
            scope[target] = eval(
                compile(ast.fix_missing_locations(ast.Expression(expression)), "", "eval"),
                {},
                scope,
            )
        results.append(scope["p"])
        if drop:
            assert "weight_decay" not in ast.unparse(expression)
    assert results[0] == pytest.approx(results[1], rel=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_formula_compiles(dtype):
    calls = [f"a, s = {name}_forward(load(z, 0))\n    store(z, 0, a + s)" for name in ACTIVATIONS if name != "identity"]
    for name, formula in LOSSES.items():
        scalars = ", 0.5" * len(formula.scalars)
        calls.append(f"a, s = {name}(load(z, 0), load(z, 8), real(2.0){scalars})\n    store(z, 0, a + s)")
    source = "".join(formulas.activation_source(name) for name in ACTIVATIONS if name not in formulas.BY_HAND)
    source += "".join(formulas.loss_source(name) for name in LOSSES)
    assert compile_object(
        source + "def run(z: reals):\n    " + "\n    ".join(calls) + "\n",
        Target(dtype, 8),
    )


def test_what_is_in_lanes_follows_the_batch():
    def chosen(sizes, batch):
        return choice.strategy(recipe(sizes, batch=batch, n_rows=10_000), 16)

    assert chosen([1, 10, 1], 1) == "units"
    assert chosen([784, 128, 10], 32) == "units"
    assert chosen([4, 32, 16, 4], 10_000) == "rows"
    assert chosen([1, 1, 1], 12) == "rows"


@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    lanes=st.sampled_from([2, 4, 8, 16]),
)
@pytest.mark.parametrize("unrolled", [False, True], ids=["panels", "registers"])
def test_packing_keeps_every_bit_and_leaves_padding_as_it_was(unrolled, sizes, lanes):
    described = recipe(sizes)
    frame = UnitsFrame(described, lanes, unrolled=unrolled)
    packing = Packing([place for layer in frame.layers for place in layer.places()], frame.size)
    flat = np.arange(described.n_parameters, dtype=np.uint64).view(np.float64)  # numbers that are not normal
    flat[:3] = [np.nan, -0.0, np.inf][: len(flat)]
    packed, back = np.full(packing.size, 7.0), np.empty_like(flat)
    packing.pack(flat, packed)
    packing.unpack(packed, back)
    assert back.tobytes() == flat.tobytes()
    padding = np.setdiff1d(np.arange(packing.size), packing.index)
    assert (packed[padding] == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shaping",
    [{}, {"l1": 0.1, "clip_value": 0.5, "clip_norm": 1.0, "weight_decay": 0.1}],
)
@pytest.mark.parametrize("kind", [nnk.SGD, nnk.Adam, nnk.AdamW, nnk.RMSprop], ids=lambda kind: kind.__name__)
def test_every_update_compiles(kind, shaping, dtype):
    described = recipe([3, 2], optimizer=kind(0.1, **shaping), dtype=dtype)
    names = formulas.update_names(described)
    state = "".join(f", load(p, {8 * number})" for number, _ in enumerate(described.state, start=2))
    body = [f"{name} = p[{number}]" for number, name in enumerate(names)]
    body += [f"g = shaped_{part}(load(p, 0), load(p, 8), {', '.join(names)})" for part in ("weight", "bias")]
    results = ", ".join(["w", *described.state])
    body += [
        f"{results} = updated(load(p, 0), g{state}, {', '.join(names)})",
        "store(p, 0, w)",
    ]
    if not described.state:
        body[-2] = f"w = updated(load(p, 0), g, {', '.join(names)})"
    source = formulas.update_source(described) + "def run(p: reals):\n    " + "\n    ".join(body) + "\n"
    assert compile_object(source, Target(dtype, 8))
