"""Kernels as vector programs: the same numbers as their loops, whatever the size, in any number of threads."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from nnkernels._formulas import ACTIVATIONS, LOSSES, OPTIMIZERS
from nnkernels.backends.numba import kernels, vectorized
from nnkernels.backends.numba.compile import kernel
from nnkernels.backends.numba.lanes import arguments
from nnkernels.backends.numpy import kernels as reference

FORWARD = [f"{name}_forward" for name in ACTIVATIONS]
SUMS = [f"{name}_forward" for name in (*LOSSES, "categorical_cross_entropy")]
UPDATES = [f"{name}_update" for name in OPTIMIZERS]
SLOPES = [f"{name}_backward" for name in LOSSES]
OTHERS = ["activation_backward", "penalty_backward", "clip_by_value", "clip_by_norm", "softmax_forward"]
OTHERS += ["softmax_backward", "categorical_cross_entropy_backward"]
KERNELS = [*FORWARD, *SUMS, *SLOPES, *UPDATES, *OTHERS]
NUMBERS = {"l1": 0.25, "l2": 0.5, "limit": 0.75, "delta": 0.5, "momentum": 0.5, "weight_decay": 0.125}
NUMBERS |= {"beta1": 0.75, "beta2": 0.875, "alpha": 0.75, "eps": 0.0625}


def given(name, shape, dtype, seed=0):
    """Return a kernel's arguments by name, on positive numbers where its formula wants them."""
    rng, takes = np.random.default_rng(seed), arguments(name)
    arrays = {}
    for argument in takes.all:
        if argument in takes.numbers:
            arrays[argument] = NUMBERS[argument]
        elif argument == "lr":
            arrays[argument] = np.full(shape[:-2] + (1,) * (len(shape) > 2), 0.25, dtype)
        elif argument == "step":
            arrays[argument] = np.array(3)
        elif argument == "out" and name in SUMS:
            arrays[argument] = np.full(shape[:-2], 0.5)
        else:
            place = shape[:-1] if argument == "weight" else (*shape[:-2], -1) if name in UPDATES else shape
            arrays[argument] = rng.uniform(0.1, 2, shape[: len(place)] if argument == "weight" else shape).astype(dtype)
            arrays[argument] = arrays[argument].reshape(place)
    return arrays


def call(function, name, arrays):
    """Call a kernel; return what it wrote."""
    takes = arguments(name)
    function(*(arrays[each] for each in takes.positional), **{each: arrays[each] for each in takes.named})
    return [arrays[each] for each in takes.written]


def left_to_the_loop(name):
    def loop(*args, **kwargs):
        raise AssertionError(f"{name} was left to its loop")

    loop.__name__ = name
    return vectorized.vectorized(loop)


# ---- programs and loops ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 37), (0, 4), (1, 1)], ids=str)
def test_every_kernel_has_a_program_for_contiguous_arrays(name, shape, dtype):
    """The reference in float64 is the oracle."""
    results = call(left_to_the_loop(name), name, given(name, shape, dtype))
    exact = {each: _widened(value) for each, value in given(name, shape, dtype).items()}
    tolerance = 50 * np.finfo(dtype).eps
    for result, expected in zip(results, call(getattr(reference, name), name, exact), strict=True):
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


def _widened(value):
    real = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return value.astype(np.float64) if real else value


@pytest.mark.parametrize("name", [*FORWARD, *SLOPES, "activation_backward", "penalty_backward", "clip_by_value"])
def test_an_element_does_not_depend_on_where_it_stands(name, dtype):
    """Whole vectors and the masked rest of one give the bits of the element alone."""
    (result,) = call(getattr(kernels, name), name, given(name, (41, 1), dtype))
    for row in (0, 15, 16, 40):
        arrays = given(name, (41, 1), dtype)
        alone = {
            each: value[row : row + 1] if isinstance(value, np.ndarray) else value for each, value in arrays.items()
        }
        (single,) = call(getattr(kernels, name), name, alone)
        assert single.tobytes() == result[row : row + 1].tobytes()


@pytest.mark.parametrize("n", [1, 7, 16, 33])
@pytest.mark.parametrize("name", [*FORWARD, "activation_backward", "clip_by_value", "softmax_forward"])
def test_nothing_is_written_beside_the_result(name, n, dtype):
    arrays, around = given(name, (1, n), dtype), {}
    for each in arguments(name).written:
        around[each] = np.full(n + 64, 7, dtype)
        around[each][32 : 32 + n] = arrays[each]
        arrays[each] = around[each][32 : 32 + n].reshape(1, n)
    call(left_to_the_loop(name), name, arrays)
    for buffer in around.values():
        assert (buffer[:32] == 7).all()
        assert (buffer[32 + n :] == 7).all()


SPECIAL = [
    0,
    -0.0,
    1e-42,
    -1e-42,
    1e-20,
    50,
    -50,
    87.5,
    -87.5,
    95,
    -95,
    1e4,
    -1e4,
    3e38,
    -3e38,
    np.inf,
    -np.inf,
    np.nan,
]


@pytest.mark.parametrize("name", FORWARD)
def test_special_values_are_what_the_loop_makes_of_them(name, dtype):
    z = np.array(SPECIAL, np.float64).astype(dtype)
    for index, each in enumerate(z):  # alone, and among others
        out, slope = np.empty((2, 1, 3), dtype)
        getattr(kernels, name)(np.full((1, 3), each), out=out, slope=slope)
        spread, gaps = np.empty((2, len(z), 2), dtype)
        getattr(kernels, name)(np.stack([z, z], 1)[:, ::2], out=spread[:, ::2], slope=gaps[:, ::2])
        tiny = np.finfo(dtype).smallest_normal
        np.testing.assert_allclose(out[0], spread[index, 0], rtol=20 * np.finfo(dtype).eps, atol=tiny)
        np.testing.assert_allclose(slope[0], gaps[index, 0], rtol=20 * np.finfo(dtype).eps, atol=tiny)


# ---- what is left to the loops ---------------------------------------------------------------------------------------


def loop_of_ones(z, out, slope=None):
    out[...] = 1


loop_of_ones.__name__ = "relu_forward"


@pytest.mark.parametrize(
    "z",
    [
        np.zeros((4, 6), np.float32)[:, ::2],
        np.zeros((4, 3), np.float32, order="F"),
        np.zeros((4, 3), np.float16),
        np.zeros((4, 3), ">f4"),
        np.zeros((3, 4), np.float32),  # another shape of that size is one for the program
        np.zeros(5, np.float32),
        [0.0],
        None,
    ],
    ids=["strides", "order", "half", "bytes", "shape", "size", "list", "None"],
)
def test_what_a_program_cannot_take_it_leaves(z):
    out = np.full((4, 3), 5, np.float32)
    vectorized.vectorized(loop_of_ones)(z, out=out)
    assert (out == (0 if np.shape(z) == (3, 4) else 1)).all()


def test_a_program_writes_to_what_can_be_written_to_only():
    out = np.full((4, 3), 5, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        vectorized.vectorized(loop_of_ones)(np.zeros((4, 3), np.float32), out=out)


def test_an_unknown_layout_of_arrays_leaves_everything_to_the_loops(monkeypatch):
    monkeypatch.setattr(vectorized, "_layout_is_known", lambda: False)
    out = np.full((4, 3), 5, np.float32)
    vectorized.vectorized(loop_of_ones)(np.zeros((4, 3), np.float32), out=out)
    assert (out == 1).all()


# ---- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_the_bits_do_not_depend_on_the_number_of_threads(name, monkeypatch):
    rows = vectorized.LARGE // 8 + 1003
    bits = set()
    for n_threads in ("1", "2", "3"):
        monkeypatch.setenv("NNKERNELS_NUM_THREADS", n_threads)
        results = call(left_to_the_loop(name), name, given(name, (rows, 8), np.float32))
        bits.add(b"".join(array.tobytes() for array in results))
    assert len(bits) == 1


@pytest.mark.parametrize("name", ["sigmoid_forward", "huber_forward", "adam_update", "activation_backward"])
def test_parts_together_are_the_whole(name, monkeypatch):
    monkeypatch.setenv("NNKERNELS_NUM_THREADS", "3")
    rows = vectorized.LARGE + 1003
    results = call(left_to_the_loop(name), name, given(name, (rows, 1), np.float64))
    monkeypatch.setattr(vectorized, "LARGE", 2**62)
    vectorized._frame.cache_clear()
    expected = call(left_to_the_loop(name), name, given(name, (rows, 1), np.float64))
    vectorized._frame.cache_clear()
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, other, rtol=1e-12)


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_results_written_past_the_caches_are_the_same(offset):
    z = np.random.default_rng(0).normal(size=vectorized.PAST_CACHES + 101).astype(np.float32)
    out, slope, alone = np.zeros((3, z.size + 8), np.float32)
    kernels.sigmoid_forward(z, out=out[offset : offset + z.size], slope=slope[: z.size])
    for start in range(0, z.size, 100_003):
        part = z[start : start + 100_003]
        kernels.sigmoid_forward(part, out=alone[start : start + part.size])
    assert out[offset : offset + z.size].tobytes() == alone[: z.size].tobytes()
    assert not out[offset + z.size :].any()


def test_threads_that_call_a_kernel_together_get_their_own_results():
    z = np.random.default_rng(0).normal(size=(4, 50_000)).astype(np.float32)
    expected, results = np.empty_like(z), np.empty_like(z)
    kernels.tanh_forward(z, out=expected)

    def work(row):
        for _ in range(20):
            kernels.tanh_forward(z[row], out=results[row])

    workers = [threading.Thread(target=work, args=(row,)) for row in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results.tobytes() == expected.tobytes()


# ---- start-up --------------------------------------------------------------------------------------------------------


def test_a_composed_run_does_not_import_numba(unwatched):
    code = (
        "import nnkernels as nnk, numpy as np, sys\n"
        "x, y = np.linspace(0, 1, 40)[:, None], np.eye(3)[np.arange(40) % 3]\n"
        "hidden = nnk.Dense(1, 8, activation='gelu', dropout=0.25)\n"
        "net = nnk.Sequential(hidden, nnk.Dense(8, 3, activation='softmax'), device='numba', rng=0)\n"
        "net.fit(x, y, loss='categorical_cross_entropy', batch_size=8, steps=20, plan='composed',\n"
        "        optimizer=nnk.Adam(0.01, l1=1e-4, clip_norm=1.0, clip_value=0.5))\n"
        "net.predict(x)\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=unwatched)


def test_a_kernel_keeps_its_name_its_help_and_its_loop():
    assert kernels.sigmoid_forward.__name__ == "sigmoid_forward"
    assert kernels.sigmoid_forward.__doc__ == "a = 1 / (1 + exp(-z))."
    assert isinstance(kernels.sigmoid_forward.__wrapped__, type(kernel(loop_of_ones)))
