"""Every kernel gives NumPy's numbers, whatever the order in which a GPU's threads run; and each barrier is needed."""

import re
from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
from cuda_programs import PROGRAMS, check_program
from emulator.compiler import SCHEDULES, KernelError
from emulator.host import emulated
from hypothesis import given, settings
from kernel_checks import check_file

from nnkernels.backends.cupy import kernels as cuda
from nnkernels.backends.cupy import launch
from nnkernels.backends.cupy.files import FOLDER, read

DTYPES = ("float32", "float64")
#: beside the ends of a tile, a warp and a block
SIZES = (1, 2, 7, 15, 16, 17, 31, 32, 33, 100, 255, 256, 257)
ORDERS = (("forward", 0), ("reverse", 0), *((order, seed) for order in ("random", "warps") for seed in range(3)))


@st.composite
def shapes(draw):
    """Draw (networks, rows, n) or (rows, n), of at most some thousand elements."""
    rows = draw(st.sampled_from(SIZES))
    n = draw(st.sampled_from([size for size in SIZES if size * rows < 3000]))
    return (*draw(st.sampled_from([(), (1,), (2,), (3,)])), rows, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("file", launch.SOURCES)
@settings(max_examples=10)
@given(
    shape=shapes(),
    values=st.tuples(st.integers(0, 2**32), st.sampled_from([0.1, 1.0, 4.0])),
    seeds=st.tuples(*[st.integers(0, 2**32)] * 2),
)
def test_kernels_give_numpy_s_numbers_in_every_order_of_threads(file, dtype, shape, values, seeds):
    for order in zip(SCHEDULES, (0, 0, *seeds), strict=True):
        check_file(file, dtype, shapes=[shape], values=values, order=order)


@pytest.mark.parametrize("file", launch.SOURCES)
def test_no_kernel_is_left_unchecked(file):
    assert set(check_file(file, "float32").launched) >= launch.signatures(read(file), "float32").keys()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_whole_run_programs_train_as_numpy_in_every_order_of_threads(name, dtype):
    for order in ORDERS:
        check_program(name, dtype, order=order)


# ---- barriers --------------------------------------------------------------------------------------------------------

BARRIER = re.compile(r"__sync(?:threads|warp)\(\);")
#: a file whose barriers are deleted: what notices it
NOTICED_BY = {file: file for file in launch.SOURCES} | {"prelude": "twice", "lanes": "units of three layers"}
BARRIERS = [
    pytest.param(read(path.stem), number, NOTICED_BY.get(path.stem), id=f"{path.name}-{number}")
    for path in sorted(FOLDER.glob("*.cu"))
    for number in range(len(BARRIER.findall(path.read_text())))
]


@pytest.mark.parametrize(("text", "number", "check"), BARRIERS)
def test_the_deletion_of_a_barrier_is_noticed(text, number, check):
    match = list(BARRIER.finditer(text))[number]
    without = text[: match.start()] + ";" + text[match.end() :]
    assert _holds(check)
    assert any(_fails(check, order, edit=lambda source: source.replace(text, without)) for order in ORDERS), (
        "no schedule notices: is the barrier needed?"
    )


@cache
def _holds(check):
    """Tell whether a check passes with all barriers in place."""
    return not any(_fails(check, order) for order in ORDERS)


def _fails(check, order, **settings):
    checks = {"twice": check_twice} | dict.fromkeys(PROGRAMS, check_program)
    try:
        checks.get(check, check_file)(check, "float32", order=order, **settings)
    except (AssertionError, KernelError):
        return True
    return False


TWICE = """
extern "C" __global__ void __launch_bounds__(SUM_THREADS) twice(real *sums, const real *x) {
    __shared__ real scratch[SUM_THREADS / 32];
    const real first = over_block<SUM_THREADS>(x[threadIdx.x], scratch, Add());
    const real second = over_block<SUM_THREADS>(x[threadIdx.x] * 2, scratch, Max());
    sums[2 * threadIdx.x] = first;
    sums[2 * threadIdx.x + 1] = second;
}
"""


def check_twice(_, dtype, *, order, **settings):
    """Sum over a block twice, with the same scratch."""
    x = np.random.default_rng(0).integers(0, 99, launch.constant("prelude", "SUM_THREADS")).astype(dtype)
    with emulated(schedule=order[0], seed=order[1], **settings):
        out = cuda.empty((len(x), 2), dtype)
        launch.library(read("prelude") + TWICE, dtype, 0).kernel("twice")(1, len(x), out, cuda.from_host(x))
        assert (cuda.to_host(out) == (x.sum(), 2 * x.max())).all()
