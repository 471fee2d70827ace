"""Activations: value and slope within 6 ulp of the mathematics, tails included, on every backend."""

from functools import cache

import mpmath
import numpy as np
import pytest
from conftest import layouts
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp
from tolerances import CANCELLATION, relative, ulp

NAMES = ("identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "silu", "gelu")
SMOOTH = ("sigmoid", "tanh", "elu", "softplus", "silu", "gelu")  # their slope depends on z, so NaN reaches it

# ---- the mathematics, in 50 digits -----------------------------------------------------------------------------------


def _sigmoid(z):
    return 1 / (1 + mp.exp(-z))


def _phi(z):
    return mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi)


def _cdf(z):
    return mp.erfc(-z / mp.sqrt(2)) / 2


VALUE = {
    "identity": lambda z: z,
    "sigmoid": _sigmoid,
    "tanh": mp.tanh,
    "relu": lambda z: max(z, mp.mpf(0)),
    "leaky_relu": lambda z: z if z > 0 else z / 100,
    "elu": lambda z: z if z > 0 else mp.expm1(z),
    "softplus": lambda z: mp.log1p(mp.exp(z)),
    "silu": lambda z: z * _sigmoid(z),
    "gelu": lambda z: z * _cdf(z),
}
SLOPE = {
    "identity": lambda z: mp.mpf(1),
    "sigmoid": lambda z: mp.sech(z / 2) ** 2 / 4,
    "tanh": lambda z: mp.sech(z) ** 2,
    "relu": lambda z: mp.mpf(z > 0),
    "leaky_relu": lambda z: mp.mpf(1) if z > 0 else mp.mpf(1) / 100,
    "elu": lambda z: mp.mpf(1) if z > 0 else mp.exp(z),
    "softplus": _sigmoid,
    "silu": lambda z: _sigmoid(z) + z * mp.sech(z / 2) ** 2 / 4,
    "gelu": lambda z: _cdf(z) + z * _phi(z),
}
TERMS = {
    "silu": lambda z: max(_sigmoid(z), abs(z) * mp.sech(z / 2) ** 2 / 4),
    "gelu": lambda z: max(_cdf(z), abs(z) * _phi(z)),
}

REACH = {  # to where the result, and the factors it is made of, are normal numbers
    "float32": {"tanh": 43.5, "gelu": 12.9, "identity": 1e30, "relu": 1e30, "leaky_relu": 1e30},
    "float64": {"tanh": 350, "gelu": 37.4, "identity": 1e300, "relu": 1e300, "leaky_relu": 1e300},
}
EXP_REACH = {"float32": 87, "float64": 700}


@cache
def grid(name, type_name):
    """A dense grid of z: the whole range, its middle, and geometric steps towards 0 from both sides."""
    reach = REACH[type_name].get(name, EXP_REACH[type_name])
    near = np.geomspace(1e-30, 1, 80)
    parts = [np.linspace(-reach, reach, 501), np.linspace(-min(reach, 8), min(reach, 8), 401), near, -near]
    if name in CANCELLATION:
        parts.append(np.linspace(*CANCELLATION[name], 201))
    return np.unique(np.concatenate(parts).astype(type_name))


@cache
def exact(name, kind, type_name):
    """The exact results on the grid as sums of two float64, and the unit in which an error is measured."""
    function = {"value": VALUE, "slope": SLOPE}[kind][name]
    z = grid(name, type_name)
    with mpmath.workdps(50):
        results = [function(mp.mpf(float(each))) for each in z]
        high = np.array([float(result) for result in results])
        low = np.array([float(result - mp.mpf(float(result))) for result in results])
        scale = abs(high)
        if kind == "slope" and name in CANCELLATION:
            first, last = CANCELLATION[name]
            terms = np.array([float(TERMS[name](mp.mpf(float(each)))) for each in z])
            scale = np.where((first <= z) & (z <= last), np.maximum(scale, terms), scale)
    return high, low, np.spacing(scale.astype(type_name)).astype(np.float64)


def errors_in_ulp(result, name, kind):
    """The distance of a result on the grid from the mathematics."""
    high, low, unit = exact(name, kind, result.dtype.name)
    return abs((result.astype(np.float64) - high) - low) / unit


def apply(kernels, place, name, z, *, with_slope=True):
    """Run a forward kernel; return the activation and its slope."""
    device_z = place.put(z)
    out, slope = place.blank(z.shape, z.dtype), place.blank(z.shape, z.dtype)
    if with_slope:
        getattr(kernels, f"{name}_forward")(device_z, out=out, slope=slope)
    else:
        getattr(kernels, f"{name}_forward")(device_z, out=out)
    return place.get(out), place.get(slope)


# ---- accuracy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_value_and_slope_are_within_six_ulp_of_the_mathematics(kernels, arrays, dtype, name):
    z = grid(name, np.dtype(dtype).name)
    value, slope = apply(kernels, arrays(), name, z.reshape(1, -1, 1))
    worst = errors_in_ulp(value.ravel(), name, "value")
    assert worst.max() <= ulp(dtype, "activation"), f"value at z = {z[worst.argmax()]!r}"
    worst = errors_in_ulp(slope.ravel(), name, "slope")
    assert worst.max() <= ulp(dtype, "slope"), f"slope at z = {z[worst.argmax()]!r}"


def test_sigmoid_slope_at_fifty_is_not_zero(kernels, arrays, dtype):
    z = np.array([[[50, -50]]], dtype)
    _, slope = apply(kernels, arrays(), "sigmoid", z)
    np.testing.assert_allclose(slope, 1.9287498479639178e-22, rtol=6 * np.finfo(dtype).eps)


@pytest.mark.parametrize("sign", [1, -1])
def test_tanh_slope_lives_where_one_minus_its_square_is_dead(kernels, arrays, dtype, sign):
    z = sign * np.array([[[9, 12, 20, 40]]], dtype)
    _, slope = apply(kernels, arrays(), "tanh", z)
    expected = [float(mp.sech(each) ** 2) for each in (9, 12, 20, 40)]
    np.testing.assert_allclose(slope[0, 0], expected, rtol=6 * np.finfo(dtype).eps)


COMPLEX = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "softplus": lambda z: np.log(1 + np.exp(z)),
    "silu": lambda z: z / (1 + np.exp(-z)),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_slope_is_the_complex_step_derivative_of_the_activation(kernels, arrays, dtype, name):
    z = np.linspace(-8, 8, 101).astype(dtype).reshape(1, -1, 1)
    _, slope = apply(kernels, arrays(), name, z)
    expected = COMPLEX[name](z.astype(np.float64) + 1e-100j).imag / 1e-100
    np.testing.assert_allclose(slope, expected, rtol=0, atol=relative(dtype, "complex_step"))


@pytest.mark.parametrize("name", NAMES)
def test_value_is_the_same_whether_or_not_the_slope_is_wanted(kernels, arrays, name):
    z = np.linspace(-9, 9, 64, dtype=np.float32).reshape(2, 8, 4)
    alone, untouched = apply(kernels, arrays(), name, z, with_slope=False)
    together, _ = apply(kernels, arrays(), name, z)
    np.testing.assert_array_equal(alone, together)
    assert (untouched == 12345).all()
    place = arrays()
    buffer = place.put(z)
    getattr(kernels, f"{name}_forward")(buffer, out=buffer)
    np.testing.assert_array_equal(place.get(buffer), together)


# ---- special values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan(kernels, arrays, dtype, name):
    z = np.array([[[1, np.nan, -1]]], dtype)
    value, slope = apply(kernels, arrays(), name, z)
    np.testing.assert_array_equal(np.isnan(value), np.isnan(z))
    if name in SMOOTH:
        np.testing.assert_array_equal(np.isnan(slope), np.isnan(z))


LIMITS = {  # at -infinity and at infinity: the values, the slopes
    "identity": ((-np.inf, np.inf), (1, 1)),
    "sigmoid": ((0, 1), (0, 0)),
    "tanh": ((-1, 1), (0, 0)),
    "relu": ((0, np.inf), (0, 1)),
    "leaky_relu": ((-np.inf, np.inf), (0.01, 1)),
    "elu": ((-1, np.inf), (0, 1)),
    "softplus": ((0, np.inf), (0, 1)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_infinity_gives_the_limit(kernels, arrays, dtype, name):
    value, slope = apply(kernels, arrays(), name, np.array([[[-np.inf, np.inf]]], dtype))
    np.testing.assert_array_equal(value[0, 0], np.array(LIMITS[name][0], dtype))
    np.testing.assert_array_equal(slope[0, 0], np.array(LIMITS[name][1], dtype))


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_infinity_stays_infinity_where_the_activation_is_a_product(kernels, arrays, name):
    value, _ = apply(kernels, arrays(), name, np.array([[[np.inf]]], np.float32), with_slope=False)
    assert value[0, 0, 0] == np.inf


@pytest.mark.parametrize("name", NAMES)
def test_no_finite_input_overflows(kernels, arrays, dtype, name):
    huge = np.finfo(dtype).max / 4
    value, slope = apply(kernels, arrays(), name, np.array([[[-huge, -1e4, 1e4, huge]]], dtype))
    assert np.isfinite(value).all()
    floor = 0.01 if name == "leaky_relu" else 1 if name == "identity" else 0
    ceiling = 0 if name in ("sigmoid", "tanh") else 1
    np.testing.assert_allclose(slope[0, 0], [floor, floor, ceiling, ceiling], rtol=1e-6)


@pytest.mark.parametrize(("name", "slope_at_zero"), [("relu", 0), ("leaky_relu", 0.01), ("elu", 1)])
def test_the_slope_at_the_kink_is_the_one_documented(kernels, arrays, dtype, name, slope_at_zero):
    value, slope = apply(kernels, arrays(), name, np.zeros((1, 1, 1), dtype))
    assert value[0, 0, 0] == 0
    assert slope[0, 0, 0] == dtype(slope_at_zero)


# ---- buffers, shapes and strides -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_slope_may_overwrite_z(kernels, arrays, dtype, name):
    z = np.linspace(-3, 3, 24).astype(dtype).reshape(2, 4, 3)
    value, slope = apply(kernels, arrays(), name, z)
    place = arrays()
    buffer, out = place.put(z), place.blank(z.shape, dtype)
    getattr(kernels, f"{name}_forward")(buffer, out=out, slope=buffer)
    np.testing.assert_array_equal(place.get(out), value)
    np.testing.assert_array_equal(place.get(buffer), slope)


@pytest.mark.parametrize("name", NAMES)
def test_activation_may_overwrite_z(kernels, arrays, dtype, name):
    z = np.linspace(-3, 3, 24).astype(dtype).reshape(2, 4, 3)
    value, slope = apply(kernels, arrays(), name, z)
    place = arrays()
    buffer, out_slope = place.put(z), place.blank(z.shape, dtype)
    getattr(kernels, f"{name}_forward")(buffer, out=buffer, slope=out_slope)
    np.testing.assert_array_equal(place.get(buffer), value)
    np.testing.assert_array_equal(place.get(out_slope), slope)


def definition(name, z):
    """Value and slope in 50 digits, rounded to float64."""
    with mpmath.workdps(50):
        pairs = [(float(VALUE[name](mp.mpf(each))), float(SLOPE[name](mp.mpf(each)))) for each in z.ravel().tolist()]
    table = np.array(pairs).reshape(*z.shape, 2)
    return table[..., 0], table[..., 1]


@pytest.mark.parametrize("name", NAMES)
@given(layout=layouts(), seed=st.integers(0, 1000))
def test_every_shape_and_stride_gives_each_element_its_own_result(kernels, arrays, name, layout, seed):
    shape, steps, dtype = layout
    z = np.random.default_rng(seed).integers(-64, 65, shape).astype(dtype) / 16
    place = arrays(steps)
    value, slope = apply(kernels, place, name, z)
    expected_value, expected_slope = definition(name, z)
    tolerance = {"rtol": 8 * np.finfo(dtype).eps, "atol": 8 * np.finfo(dtype).eps}
    np.testing.assert_allclose(value, expected_value, **tolerance)
    np.testing.assert_allclose(slope, expected_slope, **tolerance)
    assert place.gaps_are_intact()


@pytest.mark.parametrize("name", ["sigmoid", "gelu"])
def test_a_single_network_needs_no_leading_axis(kernels, arrays, name):
    z = np.linspace(-3, 3, 12, dtype=np.float32)
    value, slope = apply(kernels, arrays(), name, z.reshape(4, 3))
    stacked_value, stacked_slope = apply(kernels, arrays(), name, z.reshape(1, 4, 3))
    np.testing.assert_array_equal(value, stacked_value[0])
    np.testing.assert_array_equal(slope, stacked_slope[0])


# ---- softmax ---------------------------------------------------------------------------------------------------------


def softmax(kernels, place, z):
    out = place.blank(z.shape, z.dtype)
    kernels.softmax_forward(place.put(z), out=out)
    return place.get(out)


def test_softmax_is_within_ulp_of_the_mathematics(kernels, arrays, dtype):
    z = np.random.default_rng(7).normal(0, 10, (2, 20, 5)).astype(dtype)
    result = softmax(kernels, arrays(), z)
    expected = np.empty((2, 20, 5), object)
    with mpmath.workdps(50):
        for row in np.ndindex(2, 20):
            powers = [mp.exp(mp.mpf(float(each))) for each in z[row]]
            expected[row] = [power / sum(powers) for power in powers]
        error = np.array(
            [float(abs(mp.mpf(float(got)) - want) / want) for got, want in zip(result.flat, expected.flat, strict=True)]
        )
    rounding = abs(z - z.max(-1, keepdims=True)).astype(np.float64) / 2
    assert (error.reshape(z.shape) <= (ulp(dtype, "softmax") + rounding) * np.finfo(dtype).eps).all()


def test_softmax_of_huge_logits_does_not_overflow(kernels, arrays, dtype):
    z = np.array([[[1e4, 1e4, -1e4], [-1e30, -1e30, -1e30], [1e30, 0, 1]]], dtype)
    np.testing.assert_allclose(
        softmax(kernels, arrays(), z), [[[0.5, 0.5, 0], [1 / 3] * 3, [1, 0, 0]]], rtol=2 * np.finfo(dtype).eps
    )


def test_softmax_of_one_output_is_one(kernels, arrays, dtype):
    z = np.array([[[-700.0], [0], [700]]], dtype)
    np.testing.assert_array_equal(softmax(kernels, arrays(), z), np.ones_like(z))


def test_softmax_passes_nan_on_within_its_row_only(kernels, arrays, dtype):
    result = softmax(kernels, arrays(), np.array([[[np.nan, 1, 2], [0, np.nan, 0], [1, 1, 1]]], dtype))
    assert np.isnan(result[0, :2]).all()
    np.testing.assert_allclose(result[0, 2], 1 / 3, rtol=1e-6)


def complex_softmax(z):
    powers = np.exp(z - z.real.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_softmax_backward_is_the_complex_step_jacobian_times_the_gradient(kernels, arrays, dtype):
    rng = np.random.default_rng(3)
    z, da = (rng.normal(0, 2, (2, 6, 5)).astype(dtype) for _ in range(2))
    place = arrays()
    out = place.blank(z.shape, dtype)
    a = softmax(kernels, place, z)
    kernels.softmax_backward(place.put(da), place.put(a), out=out)
    steps = 1e-100j * np.eye(5)
    columns = [complex_softmax(z.astype(np.float64) + step).imag / 1e-100 for step in steps]  # d a / d z_k
    expected = np.stack([(column * da).sum(-1) for column in columns], axis=-1)
    np.testing.assert_allclose(place.get(out), expected, rtol=0, atol=relative(dtype, "complex_step"))


@given(layout=layouts(), seed=st.integers(0, 1000))
def test_softmax_takes_every_shape_and_stride(kernels, arrays, layout, seed):
    shape, steps, dtype = layout
    z, da = np.random.default_rng(seed).normal(0, 3, (2, *shape)).astype(dtype)
    place = arrays(steps)
    a = softmax(kernels, place, z)
    oracle = complex_softmax(z.astype(np.float64)).real if z.size else z
    tolerance = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(a, oracle, rtol=tolerance)
    gradient, out = place.put(da), place.blank(shape, dtype)
    kernels.softmax_backward(gradient, place.put(a), out=out)
    expected = oracle * (da - (da.astype(np.float64) * oracle).sum(-1, keepdims=True))
    np.testing.assert_allclose(place.get(out), expected, rtol=0, atol=10 * tolerance)
    assert place.gaps_are_intact()


def test_softmax_may_work_in_place(kernels, arrays, dtype):
    z, da = np.random.default_rng(1).normal(0, 2, (2, 2, 4, 3)).astype(dtype)
    place = arrays()
    a = softmax(kernels, place, z)
    buffer = place.put(z)
    kernels.softmax_forward(buffer, out=buffer)
    np.testing.assert_array_equal(place.get(buffer), a)
    out, gradient = place.blank(z.shape, dtype), place.put(da)
    kernels.softmax_backward(gradient, place.put(a), out=out)
    kernels.softmax_backward(gradient, place.put(a), out=gradient)
    np.testing.assert_array_equal(place.get(gradient), place.get(out))
