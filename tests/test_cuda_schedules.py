"""Every kernel gives NumPy's numbers, whatever the order in which a GPU's threads run; and each barrier is needed."""

import re

import hypothesis.strategies as st
import numpy as np
import pytest
from emulator.compiler import KernelError
from emulator.host import emulated
from hypothesis import given, settings
from kernel_checks import check_file

from nnkernels.backends.cupy import kernels as cuda
from nnkernels.backends.cupy import launch
from nnkernels.backends.cupy.files import FOLDER, read

DTYPES = ("float32", "float64")
#: beside the ends of a tile, a warp and a block
SIZES = (1, 2, 7, 15, 16, 17, 31, 32, 33, 100, 255, 256, 257)
ORDERS = (("forward", 0), ("reverse", 0), *(("random", seed) for seed in range(6)))


@st.composite
def shapes(draw):
    """Draw (networks, rows, n) or (rows, n), of at most some thousand elements."""
    rows = draw(st.sampled_from(SIZES))
    n = draw(st.sampled_from([size for size in SIZES if size * rows < 3000]))
    return (*draw(st.sampled_from([(), (1,), (2,), (3,)])), rows, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("file", launch.SOURCES)
@settings(max_examples=12)
@given(
    shape=shapes(),
    values=st.tuples(st.integers(0, 2**32), st.sampled_from([0.1, 1.0, 4.0])),
    seeds=st.tuples(*[st.integers(0, 2**32)] * 3),
)
def test_kernels_give_numpy_s_numbers_in_every_order_of_threads(file, dtype, shape, values, seeds):
    for order in (("forward", 0), ("reverse", 0), *(("random", seed) for seed in seeds)):
        check_file(file, dtype, shapes=[shape], values=values, order=order)


@pytest.mark.parametrize("file", launch.SOURCES)
def test_no_kernel_is_left_unchecked(file):
    assert set(check_file(file, "float32").launched) >= launch.signatures(read(file), "float32").keys()


# ---- barriers --------------------------------------------------------------------------------------------------------

BARRIER = re.compile(r"__sync(?:threads|warp)\(\);")
#: a file whose barriers are deleted: what notices it, which is the check of that file or of one that includes it
NOTICED_BY = {file: file for file in launch.SOURCES} | {"prelude": "twice"}
BARRIERS = [
    pytest.param(path.stem, number, id=f"{path.name}-{number}")
    for path in sorted(FOLDER.glob("*.cu"))
    for number in range(len(BARRIER.findall(path.read_text())))
]


def without_barrier(file, number):
    """Return what deletes one barrier of a file from a source that includes the file."""
    text = read(file)
    match = list(BARRIER.finditer(text))[number]
    return lambda source: source.replace(text, text[: match.start()] + ";" + text[match.end() :])


@pytest.mark.parametrize(("file", "number"), BARRIERS)
def test_the_deletion_of_a_barrier_is_noticed(file, number):
    check, edit = NOTICED_BY[file], without_barrier(file, number)
    assert not any(_fails(check, order) for order in ORDERS[:3])
    assert any(_fails(check, order, edit=edit) for order in ORDERS), "no schedule notices: is the barrier needed?"


def _fails(check, order, **settings):
    try:
        (check_twice if check == "twice" else check_file)(check, "float32", order=order, **settings)
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
