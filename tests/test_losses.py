"""Losses: what they mean, their slopes in the tails, and the sums over rows, on every backend."""

import mpmath
import numpy as np
import pytest
from conftest import layouts
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mpmath import mp
from tolerances import relative, ulp

DELTA = 1.25

# ---- definitions, analytic, so that a complex step differentiates them: the loss of each row -------------------------


def _magnitude(d):
    return np.sign(d.real) * d


def _huber(p, t):
    d = _magnitude(p - t)
    return np.where(d.real <= DELTA, d * d / 2, DELTA * (d - DELTA / 2)).mean(-1)


def _binary_cross_entropy(p, t):
    probability = 1 / (1 + np.exp(-p))
    return -(t * np.log(probability) + (1 - t) * np.log(1 - probability)).mean(-1)


def _categorical_cross_entropy(p, t):
    probabilities = np.exp(p) / np.exp(p).sum(-1, keepdims=True)
    return -(t * np.log(probabilities)).sum(-1)


DEFINITION = {
    "half_squared_error": lambda p, t: ((p - t) ** 2).sum(-1) / 2,
    "mean_squared_error": lambda p, t: ((p - t) ** 2).mean(-1),
    "absolute_error": lambda p, t: _magnitude(p - t).mean(-1),
    "huber": _huber,
    "poisson": lambda p, t: (np.exp(p) - t * p).mean(-1),
    "poisson_rate": lambda p, t: (p - t * np.log(p)).mean(-1),
    "binary_cross_entropy": _binary_cross_entropy,
    "categorical_cross_entropy": _categorical_cross_entropy,
}
NAMES = tuple(DEFINITION)


def slope_by_complex_step(name, p, t, weight):
    """The derivative of ``sum(weight * loss of the row)`` with respect to every element of p, in float64."""
    steps = 1e-100j * np.eye(p.shape[-1])
    columns = [DEFINITION[name](p.astype(np.float64) + step, t.astype(np.float64)).imag / 1e-100 for step in steps]
    return weight[..., None].astype(np.float64) * np.stack(columns, axis=-1)


def constants(name):
    return {"delta": DELTA} if name == "huber" else {}


def forward(kernels, place, name, p, t, weight, start=0.0):
    out = place.put(np.full(p.shape[:-2], start, np.float64))
    getattr(kernels, f"{name}_forward")(place.put(p), place.put(t), place.put(weight), out=out, **constants(name))
    return place.get(out)


def backward(kernels, place, name, p, t, weight):
    out = place.blank(p.shape, p.dtype)
    getattr(kernels, f"{name}_backward")(place.put(p), place.put(t), place.put(weight), out=out, **constants(name))
    return place.get(out)


def magnitude(p, t):
    """An upper bound, within a small factor, of the terms that a loss of p and t is made of."""
    p, t = abs(p.astype(np.float64)), abs(t.astype(np.float64))
    return (p + t + 1) ** 2 + np.exp(p)


@st.composite
def problems(draw, name):
    """Predictions, targets and weights of a layout that numbers near each other, far apart and equal may fill."""
    shape, steps, dtype = draw(layouts())

    def numbers(low, high, shape=shape):
        return draw(hnp.arrays(dtype, shape, elements=st.floats(low, high, width=32, allow_subnormal=False)))

    p = numbers(0.25, 5) if name == "poisson_rate" else numbers(-5, 5)
    if name == "binary_cross_entropy":
        t = numbers(0, 1)
    elif name == "categorical_cross_entropy":
        labels = draw(hnp.arrays(np.int64, shape[:-1], elements=st.integers(0, shape[-1] - 1)))
        t = np.eye(shape[-1], dtype=dtype)[labels]
    else:
        t = numbers(0, 5) if "poisson" in name else numbers(-5, 5)
    return p, t, numbers(0, 3, shape[:-1]), steps


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), start=st.integers(-4, 4))
def test_forward_adds_the_weighted_sum_of_the_rows_losses(kernels, arrays, name, data, start):
    p, t, weight, steps = data.draw(problems(name))
    place = arrays(steps)
    total = forward(kernels, place, name, p, t, weight, start)
    rows = DEFINITION[name](p.astype(np.float64), t.astype(np.float64))
    scale = abs(start) + (weight[..., None] * magnitude(p, t)).sum((-2, -1)) + 1
    error = abs(total - (start + (weight.astype(np.float64) * rows).sum(-1)))
    assert (error <= relative(p.dtype, "loss") * scale).all()
    assert place.gaps_are_intact()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_backward_is_the_weighted_complex_step_derivative(kernels, arrays, name, data):
    p, t, weight, steps = data.draw(problems(name))
    place = arrays(steps)
    slope = backward(kernels, place, name, p, t, weight)
    error = abs(slope - slope_by_complex_step(name, p, t, weight))
    assert (error <= relative(p.dtype, "loss") * weight[..., None] * magnitude(p, t)).all()
    assert place.gaps_are_intact()


@pytest.mark.parametrize("name", ["mean_squared_error", "huber", "categorical_cross_entropy"])
def test_a_single_network_needs_no_leading_axis(kernels, arrays, name):
    rng = np.random.default_rng(5)
    p = rng.uniform(0.5, 3, (6, 4)).astype(np.float32)
    t, weight = np.eye(4, dtype=np.float32)[rng.integers(0, 4, 6)], rng.uniform(0, 1, 6).astype(np.float32)
    one, place = (p[None], t[None], weight[None]), arrays()
    np.testing.assert_array_equal(backward(kernels, place, name, p, t, weight), backward(kernels, place, name, *one)[0])
    np.testing.assert_allclose(
        forward(kernels, place, name, p, t, weight, 2.5), forward(kernels, place, name, *one, 2.5)[0], rtol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_leave_the_sum_as_it_was(kernels, arrays, dtype, name):
    p = np.ones((2, 0, 3), dtype)
    place = arrays()
    np.testing.assert_array_equal(forward(kernels, place, name, p, p, p[..., 0], 7), [7, 7])
    assert backward(kernels, place, name, p, p, p[..., 0]).shape == (2, 0, 3)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_weight_zero_counts_for_nothing(kernels, arrays, dtype, name):
    p = np.array([[[0.5, 2], [1.5, 1]]], dtype)
    t, weight = np.array([[[0, 1], [1, 0]]], dtype), np.array([[0, 1]], dtype)
    place = arrays()
    alone = forward(kernels, place, name, p[:, 1:], t[:, 1:], weight[:, 1:])
    np.testing.assert_array_equal(forward(kernels, place, name, p, t, weight), alone)
    slope = backward(kernels, place, name, p, t, weight)
    assert (slope[0, 0] == 0).all()
    assert (slope[0, 1] != 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_slope_may_overwrite_the_prediction(kernels, arrays, dtype, name):
    rng = np.random.default_rng(6)
    p, weight = rng.uniform(0.5, 3, (2, 5, 3)).astype(dtype), np.ones((2, 5), dtype)
    t = np.eye(3, dtype=dtype)[rng.integers(0, 3, (2, 5))]
    place = arrays()
    buffer = place.put(p)
    getattr(kernels, f"{name}_backward")(buffer, place.put(t), place.put(weight), out=buffer, **constants(name))
    np.testing.assert_array_equal(place.get(buffer), backward(kernels, place, name, p, t, weight))


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_not_lost(kernels, arrays, dtype, name):
    p, t = np.array([[[np.nan, 1], [1, 1]]], dtype), np.array([[[1, 0], [0, 1]]], dtype)
    weight, place = np.ones((1, 2), dtype), arrays()
    assert np.isnan(forward(kernels, place, name, p, t, weight)).all()
    slope = backward(kernels, place, name, p, t, weight)
    assert np.isnan(slope[0, 0, 0])
    assert np.isfinite(slope[0, 1]).all()


@pytest.mark.parametrize("name", ["half_squared_error", "mean_squared_error", "absolute_error", "huber"])
def test_a_perfect_prediction_has_no_loss_and_no_slope(kernels, arrays, dtype, name):
    p = np.array([[[3, -2, 0]]], dtype)
    place, weight = arrays(), np.ones((1, 1), dtype)
    assert forward(kernels, place, name, p, p, weight)[0] == 0
    assert (backward(kernels, place, name, p, p, weight) == 0).all()


def test_half_squared_error_sums_over_outputs_and_the_others_average(kernels, arrays, dtype):
    p, t, weight = np.full((1, 1, 4), 3, dtype), np.ones((1, 1, 4), dtype), np.ones((1, 1), dtype)
    place = arrays()
    expected = {"half_squared_error": 8, "mean_squared_error": 4, "absolute_error": 2, "huber": 1.25 * (2 - 0.625)}
    assert {name: forward(kernels, place, name, p, t, weight)[0] for name in expected} == expected


@pytest.mark.parametrize("distance", [0.5, DELTA, 2, 100])
def test_huber_is_quadratic_up_to_delta_and_linear_beyond(kernels, arrays, dtype, distance):
    t, weight = np.zeros((1, 1, 1), dtype), np.ones((1, 1), dtype)
    place = arrays()
    for sign in (1, -1):
        p = np.full((1, 1, 1), sign * distance, dtype)
        loss = distance**2 / 2 if distance <= DELTA else DELTA * (distance - DELTA / 2)
        assert forward(kernels, place, "huber", p, t, weight)[0] == dtype(loss)
        assert backward(kernels, place, "huber", p, t, weight)[0, 0, 0] == sign * min(distance, DELTA)


# ---- the tails, against 50 digits ------------------------------------------------------------------------------------

LOGITS = (-1000, -700, -87, -40, -16.75, -5, -0.5, 0, 0.5, 5, 16.75, 40, 87, 700, 1000)


def assert_within_ulp(result, expected, dtype, operation):
    """Compare a number with an mpf; results below the normal numbers may lose their digits, but not their size."""
    unit = np.spacing(np.maximum(dtype(abs(expected)), np.finfo(dtype).tiny))
    assert abs(mp.mpf(float(result)) - expected) <= ulp(dtype, operation) * float(unit), (result, expected)


@pytest.mark.parametrize("logit", LOGITS)
@pytest.mark.parametrize("label", [0, 1])
def test_binary_cross_entropy_keeps_its_accuracy_at_every_logit(kernels, arrays, dtype, logit, label):
    p, t, weight = np.full((1, 1, 1), logit, dtype), np.full((1, 1, 1), label, dtype), np.ones((1, 1), dtype)
    loss = forward(kernels, arrays(), "binary_cross_entropy", p, t, weight)[0]
    slope = backward(kernels, arrays(), "binary_cross_entropy", p, t, weight)[0, 0, 0]
    with mpmath.workdps(500):
        wrong = mp.mpf(logit) * (1 - 2 * label)  # the logit of the wrong answer
        assert_within_ulp(loss, mp.log1p(mp.exp(wrong)), dtype, "loss_slope")
        assert_within_ulp(slope, (1 - 2 * label) / (1 + mp.exp(-wrong)), dtype, "loss_slope")


@pytest.mark.parametrize("logits", [(40, 0), (-40, 0), (1000, -1000), (80, 79, -3), (0, 0, 0, 0), (16.75, 0, 8), (9,)])
def test_categorical_cross_entropy_slope_keeps_its_accuracy_at_every_label(kernels, arrays, dtype, logits):
    n = len(logits)
    p, t = np.tile(np.array(logits, dtype), (1, n, 1)), np.eye(n, dtype=dtype)[None]
    slope = backward(kernels, arrays(), "categorical_cross_entropy", p, t, np.ones((1, n), dtype))
    with mpmath.workdps(1000):
        powers = [mp.exp(mp.mpf(logit)) for logit in logits]
        for label in range(n):
            for k in range(n):
                rest = -(sum(powers) - powers[k]) if k == label else powers[k]
                assert_within_ulp(slope[0, label, k], rest / sum(powers), dtype, "loss_slope")


@pytest.mark.parametrize("logits", [(40, 0), (20, 0, 0), (70, -10)])
def test_the_loss_of_a_right_and_certain_answer_is_small_and_not_zero(kernels, arrays, dtype, logits):
    p, t = np.array([[logits]], dtype), np.eye(len(logits), dtype=dtype)[None, :1]
    loss = forward(kernels, arrays(), "categorical_cross_entropy", p, t, np.ones((1, 1), dtype))[0]
    exact = np.log1p(np.exp(np.array(logits[1:], float) - logits[0]).sum())
    np.testing.assert_allclose(loss, exact, rtol=1e-6)


def test_the_slope_of_a_right_and_certain_answer_is_small_and_not_zero(kernels, arrays, dtype):
    p, t = np.array([[[40, 0]]], dtype), np.array([[[1, 0]]], dtype)
    slope = backward(kernels, arrays(), "categorical_cross_entropy", p, t, np.ones((1, 1), dtype))
    np.testing.assert_allclose(slope[0, 0], [-np.exp(-40.0), np.exp(-40.0)], rtol=1e-6)


@pytest.mark.parametrize("top", [1000.0, -1000.0])
def test_categorical_cross_entropy_of_extreme_logits_is_finite_and_right(kernels, arrays, dtype, top):
    p, t = np.tile(np.array([top, -top, 0], dtype), (1, 3, 1)), np.eye(3, dtype=dtype)[None]
    place = arrays()
    losses = [
        forward(kernels, place, "categorical_cross_entropy", p, t, weight[None])[0] for weight in np.eye(3, dtype=dtype)
    ]
    assert losses == ([0, 2000, 1000] if top > 0 else [2000, 0, 1000])
    slope = backward(kernels, place, "categorical_cross_entropy", p, t, np.ones((1, 3), dtype))
    winner = np.eye(3)[0 if top > 0 else 1]
    np.testing.assert_array_equal(slope[0], winner - np.eye(3))


def test_categorical_cross_entropy_loss_is_right_to_the_rounding_of_the_largest_term(kernels, arrays, dtype):
    p = np.random.default_rng(8).normal(0, 10, (1, 50, 4)).astype(dtype)
    t = np.eye(4, dtype=dtype)[np.random.default_rng(9).integers(0, 4, (1, 50))]
    for row in range(50):
        only = np.eye(50, dtype=dtype)[row][None]
        loss = forward(kernels, arrays(), "categorical_cross_entropy", p, t, only)[0]
        with mpmath.workdps(50):
            logits = [mp.mpf(float(each)) for each in p[0, row]]
            expected = mp.log(sum(mp.exp(each) for each in logits)) - logits[int(t[0, row].argmax())]
        assert abs(float(expected) - float(loss)) <= relative(dtype, "loss") * (1 + float(expected))


def test_poisson_takes_the_logarithm_of_the_rate_and_poisson_rate_the_rate(kernels, arrays, dtype):
    log_rate, t, weight = np.array([[[1, -2, 0.5]]], dtype), np.array([[[3, 0, 1]]], dtype), np.ones((1, 1), dtype)
    rate = np.exp(log_rate.astype(np.float64)).astype(dtype)
    place = arrays()
    np.testing.assert_allclose(
        forward(kernels, place, "poisson", log_rate, t, weight),
        forward(kernels, place, "poisson_rate", rate, t, weight),
        rtol=0,
        atol=10 * relative(dtype, "loss"),
    )
