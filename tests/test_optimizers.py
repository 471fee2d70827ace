"""Optimizers: the updates as the papers and PyTorch's documentation write them, clipping, penalties, schedules."""

import math
from itertools import pairwise

import numpy as np
import pytest
from conftest import layouts
from hypothesis import given
from hypothesis import strategies as st
from tolerances import relative

import nnkernels as nnk

# ---- the updates, in float64, from their sources ---------------------------------------------------------------------
# Each takes the parameters, a list of gradients and the learning rate, and returns the parameters after the last one.


def sgd(p, gradients, lr, *, weight_decay, momentum=0.0, nesterov=False):
    """torch.optim.SGD, with dampening 0: its buffer starts as the first gradient."""
    buffer = None
    for gradient in gradients:
        g = gradient + weight_decay * p
        if momentum:
            buffer = g if buffer is None else momentum * buffer + g
            g = g + momentum * buffer if nesterov else buffer
        p = p - lr * g
    return p


def adam(p, gradients, lr, *, beta1, beta2, eps, weight_decay, decoupled=False):
    """Kingma and Ba (2015), algorithm 1; with `decoupled`, Loshchilov and Hutter (2019), algorithm 2 as in PyTorch."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, gradient in enumerate(gradients, start=1):
        g = gradient
        if decoupled:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        p = p - lr * m_hat / (np.sqrt(v_hat) + eps)
    return p


def rmsprop(p, gradients, lr, *, alpha, eps, weight_decay):
    """torch.optim.RMSprop, not centered, without momentum."""
    v = np.zeros_like(p)
    for gradient in gradients:
        g = gradient + weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        p = p - lr * g / (np.sqrt(v) + eps)
    return p


ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.03}
UPDATES = {  # the kernel: the number of its state arrays, its constants, the oracle
    "sgd": (0, {"weight_decay": 0.02}, sgd),
    "sgd_momentum": (1, {"momentum": 0.9, "weight_decay": 0.02}, sgd),
    "sgd_nesterov": (1, {"momentum": 0.8, "weight_decay": 0.02}, lambda *a, **k: sgd(*a, nesterov=True, **k)),
    "adam": (2, ADAM, adam),
    "adamw": (2, ADAM, lambda *a, **k: adam(*a, decoupled=True, **k)),
    "rmsprop": (1, {"alpha": 0.95, "eps": 1e-8, "weight_decay": 0.02}, rmsprop),
}


def train(kernels, place, name, p, gradients, lr, **changes):
    """Run one update for every gradient; return the parameters."""
    count, scalars, _ = UPDATES[name]
    device_p, device_lr = place.put(p), place.put(lr)
    state = [place.put(np.zeros_like(p)) for _ in range(count)]
    for step, gradient in enumerate(gradients):
        arguments = {"lr": device_lr, "step": place.put(np.array(step)), **scalars, **changes}
        getattr(kernels, f"{name}_update")(device_p, place.put(gradient), *state, **arguments)
    return place.get(device_p)


def problem(shape, dtype, steps=20):
    rng = np.random.default_rng(11)
    return rng.normal(0, 1, shape).astype(dtype), rng.normal(0, 1, (steps, *shape)).astype(dtype)


def oracle(name, p, gradients, lr, **changes):
    _, scalars, reference = UPDATES[name]
    lr = lr.astype(np.float64)
    return reference(p.astype(np.float64), gradients.astype(np.float64), lr, **{**scalars, **changes})


@pytest.mark.parametrize("name", UPDATES)
def test_twenty_steps_of_many_networks_follow_the_paper_each_at_its_own_rate(kernels, arrays, dtype, name):
    p, gradients = problem((3, 7), dtype)
    lr = np.array([[0.05], [0.0], [0.002]], dtype)
    result = train(kernels, arrays(), name, p, gradients, lr)
    np.testing.assert_allclose(result, oracle(name, p, gradients, lr), rtol=0, atol=relative(dtype, "optimizer"))
    np.testing.assert_array_equal(result[1], p[1])


@pytest.mark.parametrize("name", UPDATES)
def test_without_weight_decay_the_gradient_alone_moves_the_parameters(kernels, arrays, dtype, name):
    p, gradients = problem((2, 5), dtype)
    lr = np.array([[0.05], [0.01]], dtype)
    result = train(kernels, arrays(), name, p, gradients, lr, weight_decay=0.0)
    expected = oracle(name, p, gradients, lr, weight_decay=0.0)
    np.testing.assert_allclose(result, expected, rtol=0, atol=relative(dtype, "optimizer"))


@pytest.mark.parametrize("name", ["sgd_momentum", "adam", "rmsprop"])
def test_a_single_network_takes_a_scalar_rate(kernels, arrays, name):
    p, gradients = problem((9,), np.float64)
    lr = np.array(0.03)
    result = train(kernels, arrays(), name, p, gradients, lr)
    np.testing.assert_allclose(result, oracle(name, p, gradients, lr), rtol=0, atol=relative(np.float64, "optimizer"))


@pytest.mark.parametrize("name", UPDATES)
def test_the_same_numbers_whatever_the_strides(kernels, arrays, name):
    """To rounding: where elements lie one after the other, products and sums are contracted."""
    p, gradients = problem((3, 7), np.float32, steps=3)
    lr = np.array([[0.05], [0.01], [0.002]], np.float32)
    place = arrays((2, -3))
    dense = train(kernels, arrays(), name, p, gradients, lr)
    tolerance = relative(np.float32, "optimizer")
    np.testing.assert_allclose(train(kernels, place, name, p, gradients, lr), dense, rtol=tolerance, atol=tolerance)
    assert place.gaps_are_intact()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_corrects_its_bias_by_the_step_it_is_told(kernels, arrays, dtype, name):
    place = arrays()
    start, gradient = np.zeros((1, 1), dtype), np.full((1, 1), 0.5, dtype)
    lr = place.put(np.full((1, 1), 0.1, dtype))
    moved = {}
    for step in (0, 3, 10**6):
        p, m, v = (place.put(start) for _ in range(3))
        getattr(kernels, f"{name}_update")(p, place.put(gradient), m, v, lr=lr, step=place.put(np.array(step)), **ADAM)
        moved[step] = place.get(p)[0, 0]
        m_hat = 0.1 * 0.5 / (1 - 0.9 ** (step + 1))
        v_hat = 0.001 * 0.25 / (1 - 0.999 ** (step + 1))
        expected = -0.1 * m_hat / (math.sqrt(v_hat) + 1e-8)
        np.testing.assert_allclose(moved[step], expected, rtol=relative(dtype, "optimizer"))
    np.testing.assert_allclose(moved[0], -0.1, rtol=1e-6)  # the first step is as long as the rate


# ---- penalties and clipping ------------------------------------------------------------------------------------------


@given(layout=layouts(), seed=st.integers(0, 1000))
def test_penalty_adds_the_slope_of_l1_and_l2(kernels, arrays, layout, seed):
    shape, steps, dtype = layout
    rng = np.random.default_rng(seed)
    w, g = rng.integers(-2, 3, shape[1:]).astype(dtype), rng.normal(0, 1, shape[1:]).astype(dtype)
    place = arrays(steps)
    out = place.put(g)
    kernels.penalty_backward(place.put(w), l1=0.3, l2=0.1, out=out)
    np.testing.assert_allclose(
        place.get(out), g + 0.3 * np.sign(w) + 0.1 * w.astype(np.float64), rtol=0, atol=10 * relative(dtype, "clip")
    )
    assert place.gaps_are_intact()


@given(layout=layouts(), seed=st.integers(0, 1000))
def test_clip_by_value_bounds_every_element_and_changes_no_other(kernels, arrays, layout, seed):
    shape, steps, dtype = layout
    g = np.random.default_rng(seed).normal(0, 2, shape[1:]).astype(dtype)
    place = arrays(steps)
    out = place.put(g)
    kernels.clip_by_value(out, 1.5)
    np.testing.assert_array_equal(place.get(out), np.where(abs(g) <= 1.5, g, np.sign(g) * dtype(1.5)))
    assert place.gaps_are_intact()


def clip_by_norm(kernels, place, g, limit):
    out = place.put(g)
    kernels.clip_by_norm(out, limit)
    return place.get(out)


@given(layout=layouts(), seed=st.integers(0, 1000), limit=st.sampled_from((0.5, 2.0, 8.0)))
def test_clip_by_norm_bounds_the_norm_of_each_network_and_keeps_its_direction(kernels, arrays, layout, seed, limit):
    shape, steps, dtype = layout
    g = np.random.default_rng(seed).normal(0, 2, shape[1:]).astype(dtype)
    place = arrays(steps)
    result = clip_by_norm(kernels, place, g, limit)
    norm = np.linalg.norm(g.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(result, g * np.minimum(1, limit / norm), rtol=relative(dtype, "clip"))
    inside = norm[..., 0] < limit
    np.testing.assert_array_equal(result[inside], g[inside])
    assert place.gaps_are_intact()


def test_clip_by_norm_takes_the_norm_over_the_last_axis_only(kernels, arrays, dtype):
    g = np.array([[3, 4], [0.3, 0.4], [0, 0]], dtype)
    result = clip_by_norm(kernels, arrays(), g, 1.0)
    np.testing.assert_allclose(result, [[0.6, 0.8], [0.3, 0.4], [0, 0]], rtol=relative(dtype, "clip"))


def test_clip_by_norm_of_a_single_network_needs_no_leading_axis(kernels, arrays):
    np.testing.assert_allclose(clip_by_norm(kernels, arrays(), np.array([3.0, 4.0]), 1.0), [0.6, 0.8], rtol=1e-15)


def test_clip_by_norm_leaves_a_zero_gradient_alone(kernels, arrays, dtype):
    np.testing.assert_array_equal(clip_by_norm(kernels, arrays(), np.zeros((2, 3), dtype), 1.0), np.zeros((2, 3)))


def test_clip_by_norm_of_gradients_whose_square_overflows_float32(kernels, arrays):
    g = np.array([[3e25, -4e25], [3e-30, 4e-30]], np.float32)
    result = clip_by_norm(kernels, arrays(), g, 1.0)
    np.testing.assert_allclose(result, [[0.6, -0.8], [3e-30, 4e-30]], rtol=relative(np.float32, "clip"))


@pytest.mark.parametrize("clip", ["clip_by_value", "clip_by_norm"])
def test_clipping_does_not_hide_nan(kernels, arrays, dtype, clip):
    place = arrays()
    g = place.put(np.array([[1, np.nan], [0.5, 0.5]], dtype))
    getattr(kernels, clip)(g, 2.0)
    assert np.isnan(place.get(g)[0, 1])
    np.testing.assert_array_equal(place.get(g)[1], [0.5, 0.5])


# ---- the descriptions ------------------------------------------------------------------------------------------------

OPTIMIZERS = (nnk.SGD, nnk.Adam, nnk.AdamW, nnk.RMSprop)
BAD_EVERYWHERE = (
    *[(name, value) for name in ("lr", "weight_decay", "l1", "l2") for value in (-0.1, math.nan, math.inf)],
    *[(name, value) for name in ("clip_value", "clip_norm") for value in (-1.0, 0.0, math.nan, math.inf)],
)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("argument", "value"), BAD_EVERYWHERE)
def test_a_bad_argument_is_named(optimizer, argument, value):
    with pytest.raises(ValueError, match=rf"^{optimizer.__name__}: {argument} must be .*not {value}"):
        optimizer(**{argument: value})


@pytest.mark.parametrize(
    ("optimizer", "argument", "value"),
    [
        (nnk.SGD, "momentum", 1),
        (nnk.SGD, "momentum", -0.5),
        (nnk.SGD, "momentum", math.nan),
        (nnk.SGD, "nesterov", True),  # without momentum
        (nnk.RMSprop, "alpha", 1),
        (nnk.RMSprop, "alpha", -0.1),
        (nnk.RMSprop, "eps", 0),
        *[
            (adams, beta, value)
            for adams in (nnk.Adam, nnk.AdamW)
            for beta in ("beta1", "beta2")
            for value in (1, -0.1)
        ],
        *[(adams, "eps", value) for adams in (nnk.Adam, nnk.AdamW) for value in (0, -1e-8, math.nan)],
    ],
)
def test_a_bad_constant_is_named(optimizer, argument, value):
    with pytest.raises(ValueError, match=rf"^{optimizer.__name__}: {argument} must be .*not {value}"):
        optimizer(**{argument: value})


@pytest.mark.parametrize(
    ("optimizer", "kernel", "state"),
    [
        (nnk.SGD(), "sgd", ()),
        (nnk.SGD(momentum=0.9), "sgd_momentum", ("v",)),
        (nnk.SGD(momentum=0.9, nesterov=True), "sgd_nesterov", ("v",)),
        (nnk.Adam(), "adam", ("m", "v")),
        (nnk.AdamW(), "adamw", ("m", "v")),
        (nnk.RMSprop(), "rmsprop", ("v",)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_optimizer_names_its_kernel_its_state_and_its_constants(kernels, optimizer, kernel, state):
    assert optimizer.kernel == kernel
    assert optimizer.state == state
    assert set(optimizer.scalars) == set(UPDATES[kernel][1])
    assert callable(getattr(kernels, f"{kernel}_update"))


# ---- schedules -------------------------------------------------------------------------------------------------------


def cosine(step):
    return 0.1 + 0.9 * (1 + math.cos(math.pi * min(step, 40) / 40)) / 2


SCHEDULES = {
    "constant": (nnk.ConstantSchedule(), lambda step: 1),
    "step": (nnk.StepSchedule(every=7, gamma=0.3), lambda step: 0.3 ** (step // 7)),
    "exponential": (nnk.ExponentialSchedule(gamma=0.97), lambda step: 0.97**step),
    "cosine": (nnk.CosineSchedule(steps=40, end=0.1), cosine),
    "warm up": (nnk.WarmUp(steps=5), lambda step: min(1, (step + 1) / 5)),
    "warm up, then cosine": (
        nnk.WarmUp(steps=5, then=nnk.CosineSchedule(steps=40, end=0.1)),
        lambda step: (step + 1) / 5 if step < 5 else cosine(step - 5),
    ),
    "inverse scaling": (nnk.InverseScaling(power=0.5), lambda step: 1 / math.sqrt(step + 1)),
}
each_schedule = pytest.mark.parametrize(("schedule", "factor"), SCHEDULES.values(), ids=SCHEDULES)


@each_schedule
@pytest.mark.parametrize("first", [0, 3, 90])
def test_rates_are_the_schedule_times_the_learning_rate(dtype, schedule, factor, first):
    rates = nnk.SGD(0.2, schedule=schedule).rates(first, 60, dtype)
    assert rates.dtype == dtype
    expected = [0.2 * factor(step) for step in range(first, first + 60)]
    np.testing.assert_allclose(rates, expected, rtol=relative(dtype, "schedule"), atol=1e-17)


@each_schedule
@given(cuts=st.lists(st.integers(0, 100), max_size=8))
def test_rates_do_not_depend_on_the_blocks_they_are_asked_in(schedule, factor, cuts):
    optimizer = nnk.Adam(1e-3, schedule=schedule)
    edges = [0, *sorted(cuts), 100]
    blocks = [optimizer.rates(first, last - first, np.float64) for first, last in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(blocks), optimizer.rates(0, 100, np.float64))


@pytest.mark.parametrize(("name", "first_rates"), [("constant", [0.2, 0.2]), ("inverse_scaling", [0.2, 0.2 / 2**0.5])])
def test_a_schedule_without_required_arguments_has_a_name(name, first_rates):
    np.testing.assert_allclose(nnk.SGD(0.2, schedule=name).rates(0, 2, np.float64), first_rates)


@pytest.mark.parametrize(
    ("schedule", "argument"),
    [
        (nnk.StepSchedule, "every"),
        (nnk.ExponentialSchedule, "gamma"),
        (nnk.CosineSchedule, "steps"),
        (nnk.WarmUp, "steps"),
        (nnk.InverseScaling, "power"),
    ],
)
@pytest.mark.parametrize("value", [0, -3, math.nan, math.inf])
def test_a_schedule_that_is_none_is_refused(schedule, argument, value):
    with pytest.raises(ValueError, match=rf"^{schedule.__name__}: {argument} must be positive and finite, not {value}"):
        schedule(**{argument: value})


@pytest.mark.parametrize(
    ("gradient", "limit"), [([3e200, 4e200], 1.0), ([3e-200, 4e-200], 1e-201)], ids=["huge", "tiny"]
)
def test_clipping_by_norm_knows_norms_whose_square_is_out_of_range(kernels, gradient, limit):
    g = kernels.from_host(np.array(gradient))
    kernels.clip_by_norm(g, limit)
    np.testing.assert_allclose(kernels.to_host(g), [0.6 * limit, 0.8 * limit], rtol=1e-12)
