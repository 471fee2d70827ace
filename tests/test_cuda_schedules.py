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

DTYPES = ("float32", "float64")
#: beside the ends of a tile, a warp and a block
SIZES = (1, 2, 7, 15, 16, 17, 31, 32, 33, 100, 255, 256, 257)


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
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.1, 1.0, 4.0]),
    orders=st.tuples(*[st.integers(0, 2**32)] * 3),
)
def test_kernels_give_numpy_s_numbers_in_every_order_of_threads(file, dtype, shape, seed, scale, orders):
    order = [("forward", 0), ("reverse", 0), *(("random", order) for order in orders)]
    for schedule, order_seed in order:
        used = check_file(file, dtype, shapes=[shape], seed=seed, scale=scale, schedule=schedule, seed_=order_seed)
    assert set(used.launched) >= launch.signatures(launch.text(file), dtype).keys() - ALONE


# ---- barriers --------------------------------------------------------------------------------------------------------

BARRIER = re.compile(r"__sync(?:threads|warp)\(\)")
