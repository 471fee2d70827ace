"""Dense layers, their gradients, row gathers and copies, against float64 sums written out."""

import numpy as np
import pytest
from conftest import layouts
from hypothesis import given
from hypothesis import strategies as st
from tolerances import relative

# ---- the oracles: einsum in float64, and the sum of the magnitudes that errors are measured by -----------------------


def linear(x, w, b):
    """``x @ w + b`` of every network."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    product = np.einsum("...bi,...io->...bo", x, w)
    return product if b is None else product + b.astype(np.float64)[..., None, :]


def gradients(dz, x, w):
    """``dx, dw, db`` of every network."""
    dz, x, w = dz.astype(np.float64), x.astype(np.float64), w.astype(np.float64)
    return np.einsum("...bo,...io->...bi", dz, w), np.einsum("...bi,...bo->...io", x, dz), np.einsum("...bo->...o", dz)


def assert_close(result, expected, magnitude):
    """Compare sums of products with float64, relative to the sum of the magnitudes of their terms."""
    assert result.shape == expected.shape
    assert (abs(result - expected) <= relative(result.dtype, "matmul") * magnitude).all()


def problem(shape, n_in, dtype, seed=0):
    """Inputs, weights, biases and an upstream gradient for networks of `shape` (..., batch, n_out)."""
    rng = np.random.default_rng(seed)
    *leading, batch, n_out = shape
    shapes = (*leading, batch, n_in), (*leading, n_in, n_out), (*leading, n_out), tuple(shape)
    return [rng.normal(0, 1, each).astype(dtype) for each in shapes]


def check_matmul(kernels, place, x, w, b, dz):
    """Run both kernels and compare every result with its oracle."""
    out = place.blank(dz.shape, dz.dtype)
    dx, dw, db = (place.blank(like.shape, like.dtype) for like in (x, w, b))
    kernels.matmul_forward(place.put(x), place.put(w), place.put(b), out=out)
    assert_close(place.get(out), linear(x, w, b), linear(abs(x), abs(w), abs(b)))
    kernels.matmul_backward(place.put(dz), place.put(x), place.put(w), dx=dx, dw=dw, db=db)
    for result, expected, magnitude in zip(
        (dx, dw, db), gradients(dz, x, w), gradients(abs(dz), abs(x), abs(w)), strict=True
    ):
        assert_close(place.get(result), expected, magnitude)


@given(layout=layouts(), n_in=st.integers(1, 6), seed=st.integers(0, 1000))
def test_a_layer_and_its_gradients_take_every_shape_and_stride(kernels, arrays, layout, n_in, seed):
    shape, steps, dtype = layout
    place = arrays(steps)
    check_matmul(kernels, place, *problem(shape, n_in, dtype, seed))
    assert place.gaps_are_intact()


@pytest.mark.parametrize(
    ("shape", "n_in"),
    [((8, 3), 5), ((1, 3), 5), ((8, 1), 1), ((1, 1), 1), ((0, 3), 5), ((33, 17), 31), ((2, 3, 8, 4), 5)],
    ids=["plain", "batch 1", "width 1", "one number", "no rows", "odd sizes", "two leading axes"],
)
def test_a_layer_and_its_gradients_are_sums_of_products(kernels, arrays, dtype, shape, n_in):
    check_matmul(kernels, arrays(), *problem(shape, n_in, dtype))


def test_no_rows_give_zero_gradients(kernels, arrays, dtype):
    x, w, b, dz = problem((2, 0, 3), 5, dtype)
    place = arrays()
    dw, db = place.blank(w.shape, dtype), place.blank(b.shape, dtype)
    kernels.matmul_backward(place.put(dz), place.put(x), place.put(w), dx=None, dw=dw, db=db)
    assert (place.get(dw) == 0).all()
    assert (place.get(db) == 0).all()


def test_a_layer_may_have_no_bias(kernels, arrays, dtype):
    x, w, _, dz = problem((2, 6, 3), 4, dtype)
    place = arrays()
    out = place.blank(dz.shape, dtype)
    kernels.matmul_forward(place.put(x), place.put(w), None, out=out)
    assert_close(place.get(out), linear(x, w, None), linear(abs(x), abs(w), None))


@pytest.mark.parametrize("unwanted", [("dx",), ("db",), ("dx", "db")], ids=" and ".join)
def test_a_gradient_that_is_not_wanted_changes_no_other(kernels, arrays, dtype, unwanted):
    x, w, b, dz = problem((2, 6, 3), 4, dtype)
    place = arrays()
    results = {name: place.blank(like.shape, dtype) for name, like in (("dx", x), ("dw", w), ("db", b))}
    everything = {name: place.blank(like.shape, dtype) for name, like in (("dx", x), ("dw", w), ("db", b))}
    wanted = {name: None if name in unwanted else results[name] for name in results}
    kernels.matmul_backward(place.put(dz), place.put(x), place.put(w), **wanted)
    kernels.matmul_backward(place.put(dz), place.put(x), place.put(w), **everything)
    for name, result in wanted.items():
        if result is not None:
            np.testing.assert_array_equal(place.get(result), place.get(everything[name]))


def test_the_gradients_are_the_derivatives_of_the_layer(kernels, arrays):
    """A bilinear function's central difference is exact but for rounding."""
    x, w, b, dz = problem((1, 4, 3), 2, np.float64)
    place = arrays()
    results = [place.blank(like.shape, np.float64) for like in (x, w, b)]
    kernels.matmul_backward(
        place.put(dz), place.put(x), place.put(w), **dict(zip(("dx", "dw", "db"), results, strict=True))
    )
    rng = np.random.default_rng(4)
    for position, (values, result) in enumerate(zip((x, w, b), results, strict=True)):
        direction = rng.normal(0, 1, values.shape)
        sums = []
        for sign in (1, -1):
            moved = [x, w, b]
            moved[position] = values + sign * direction
            out = place.blank(dz.shape, np.float64)
            kernels.matmul_forward(*(place.put(each) for each in moved), out=out)
            sums.append((dz * place.get(out)).sum())
        np.testing.assert_allclose((direction * place.get(result)).sum(), (sums[0] - sums[1]) / 2, rtol=1e-12)


# ---- elementwise -----------------------------------------------------------------------------------------------------


@given(layout=layouts(), seed=st.integers(0, 1000))
def test_activation_backward_is_one_product_rounded_once(kernels, arrays, layout, seed):
    shape, steps, dtype = layout
    da, slope = np.random.default_rng(seed).normal(0, 3, (2, *shape)).astype(dtype)
    place = arrays(steps)
    gradient, out = place.put(da), place.blank(shape, dtype)
    kernels.activation_backward(gradient, place.put(slope), out=out)
    expected = (da.astype(np.float64) * slope.astype(np.float64)).astype(dtype)
    np.testing.assert_array_equal(place.get(out), expected)
    kernels.activation_backward(gradient, place.put(slope), out=gradient)
    np.testing.assert_array_equal(place.get(gradient), expected)
    assert place.gaps_are_intact()


@given(layout=layouts(), seed=st.integers(0, 1000))
def test_copy_and_fill_write_every_element_and_nothing_else(kernels, arrays, layout, seed):
    shape, steps, dtype = layout
    values = np.random.default_rng(seed).normal(0, 1, shape).astype(dtype)
    place = arrays(steps)
    out = place.blank(shape, dtype)
    kernels.copy(place.put(values), out=out)
    np.testing.assert_array_equal(place.get(out), values)
    kernels.fill(-2.5, out=out)
    np.testing.assert_array_equal(place.get(out), np.full(shape, -2.5))
    assert place.gaps_are_intact()


def test_copy_and_fill_take_device_scalars(kernels, arrays, dtype):
    place = arrays()
    source, out = place.put(np.array(3, dtype)), place.blank((), dtype)
    kernels.copy(source, out=out)
    assert place.get(out) == 3
    kernels.fill(0.0, out=out)
    assert place.get(out) == 0
    assert place.get(source) == 3


# ---- in and out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (4,), (0, 3), (2, 3, 4)])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_arrays_come_back_from_the_device_as_they_went(kernels, shape, kind):
    host = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)
    there = kernels.from_host(host)
    assert kernels.owns(there)
    back = kernels.to_host(there)
    assert isinstance(back, np.ndarray)
    assert back.dtype == kind
    np.testing.assert_array_equal(back, host)


def test_from_host_makes_a_contiguous_copy_of_any_view(kernels, dtype):
    host = np.arange(24, dtype=dtype).reshape(4, 6)
    for view in (host.T, host[::2, ::-3], host[:, 1:2], np.broadcast_to(host[0], (3, 6))):
        there = kernels.from_host(view)
        assert there.shape == view.shape
        assert there.flags.c_contiguous
        np.testing.assert_array_equal(kernels.to_host(there), view)


def test_host_and_device_share_no_memory(kernels, dtype):
    host = np.ones((2, 3), dtype)
    there = kernels.from_host(host)
    host[:] = 2
    assert (kernels.to_host(there) == 1).all()
    kernels.to_host(there)[:] = 3
    assert (kernels.to_host(there) == 1).all()


def test_empty_arrays_have_the_shape_and_dtype_asked_for(kernels, dtype):
    array = kernels.empty((2, 3), dtype)
    assert kernels.owns(array)
    assert array.shape == (2, 3)
    assert array.dtype == dtype
    assert array.flags.c_contiguous


def test_a_list_is_no_device_array(kernels):
    assert not kernels.owns([1.0, 2.0])


# ---- gather ----------------------------------------------------------------------------------------------------------


@given(layout=layouts(), n=st.integers(1, 7), seed=st.integers(0, 1000))
def test_gather_picks_rows_from_one_table_for_every_network(kernels, arrays, layout, n, seed):
    (networks, batch, width), steps, dtype = layout
    rng = np.random.default_rng(seed)
    x, rows = rng.normal(0, 1, (n, width)).astype(dtype), rng.integers(0, n, (networks, batch))
    place = arrays(steps)
    out = place.blank((networks, batch, width), dtype)
    kernels.gather(place.put(x), place.put(rows), out=out)
    for network, row in np.ndindex(networks, batch):
        np.testing.assert_array_equal(place.get(out)[network, row], x[rows[network, row]])
    assert place.gaps_are_intact()


@given(layout=layouts(), n=st.integers(1, 7), seed=st.integers(0, 1000))
def test_gather_picks_rows_from_each_networks_own_table(kernels, arrays, layout, n, seed):
    (networks, batch, width), steps, dtype = layout
    rng = np.random.default_rng(seed)
    x, rows = rng.normal(0, 1, (networks, n, width)).astype(dtype), rng.integers(0, n, (networks, batch))
    place = arrays(steps)
    out = place.blank((networks, batch, width), dtype)
    kernels.gather(place.put(x), place.put(rows), out=out)
    for network, row in np.ndindex(networks, batch):
        np.testing.assert_array_equal(place.get(out)[network, row], x[network, rows[network, row]])
    assert place.gaps_are_intact()


def test_gather_of_a_single_network_needs_no_leading_axis(kernels, arrays, dtype):
    x, rows = np.arange(12, dtype=dtype).reshape(4, 3), np.array([3, 0, 3, 1, 2])
    place = arrays()
    out = place.blank((5, 3), dtype)
    kernels.gather(place.put(x), place.put(rows), out=out)
    np.testing.assert_array_equal(place.get(out), x[[3, 0, 3, 1, 2]])
