"""Ensembles: every network is the one that it would be alone, whatever its neighbors do."""

import numpy as np
import pytest
from conftest import on_host
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tolerances import relative
from ways import Outcome, Problem, closeness, distance, problems

import nnkernels as nnk
from nnkernels._sampling import consecutive
from nnkernels.backends.numba import networks as lanes
from nnkernels.backends.numba import threads

RELAXED = settings(suppress_health_check=list(HealthCheck), phases=[Phase.generate])
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 2)), RNG.normal(size=(30, 1))
LAYERS = nnk.Dense(2, 6, activation="tanh", dropout=0.2), nnk.Dense(6, 1)
QUICK = {"loss": "mean_squared_error", "batch_size": 7, "steps": 40}
WAYS = {"numpy": ["composed"], "numba": ["composed", "lanes"], "cuda": ["composed", "generated"]}


def ensemble(n=5, layers=LAYERS, device="numba", **kwargs):
    return nnk.Ensemble(layers, n=n, device=device, rng=3, **kwargs)


def alone(many, i, x, y, *, device=None, plan="lanes", **arguments):
    """Train network i by itself."""
    net = nnk.Sequential(*many.layers, device=device or many.device, dtype=many.dtype, rng=many.rng(i))
    arguments["optimizer"] = arguments["optimizer"].of(i)
    return net, net.fit(x, y, **arguments, plan=plan)


def flat(many):
    return on_host(many.parameters.flat)


# ---- each network is the one that it would be alone ------------------------------------------------------------------


@st.composite
def ensembles(draw):
    """A problem, a number of networks, and hyperparameters that differ from one to the next."""
    problem = draw(problems(widest=9, most_rows=30, most_steps=25))
    n = draw(st.integers(1, 5))
    optimizer = problem.arguments["optimizer"]
    names = ["lr", *(name for name in ("weight_decay", "l2", "momentum", "beta1") if getattr(optimizer, name, None))]
    rng = np.random.default_rng(n)
    for name in draw(st.lists(st.sampled_from(names), unique=True)):
        optimizer = optimizer.replace(**{name: getattr(optimizer, name) * rng.uniform(0.5, 1, n)})
    own = draw(st.booleans())
    return problem, n, optimizer, own


def check(device, dtype, plan, examples):
    @settings(RELAXED, max_examples=examples)
    @given(ensembles())
    def compare(drawn):
        problem, n, optimizer, own = drawn
        layers, x, y, arguments = problem
        arguments = arguments | {"optimizer": optimizer}
        datas = [(x * (1 + 0.1 * i * own), y) for i in range(n)]
        many = nnk.Ensemble(layers, n=n, device=device, dtype=dtype, rng=5)
        start = nnk.Ensemble(layers, n=n, device="numpy", dtype="float32", rng=5).parameters.to_host()
        many.parameters.update(start)
        given_x, given_y = (np.stack(part) for part in zip(*datas, strict=True)) if own else (x, y)
        history = many.fit(given_x, given_y, **arguments, plan=plan)
        for i, (own_x, own_y) in enumerate(datas):
            net = nnk.Sequential(*layers, device="numba" if plan == "lanes" else "numpy", dtype=dtype, rng=many.rng(i))
            net.parameters.update({name: value[i] for name, value in start.items()})
            single = arguments | {"optimizer": optimizer.of(i)}
            if plan == "lanes":
                exact(net, own_x, own_y, single, many, history, i)
            else:
                close(problem, net, own_x, own_y, single, many, history, i)

    compare()


def exact(net, x, y, arguments, many, history, i):
    try:
        losses = net.fit(x, y, **arguments, plan="lanes").loss
    except nnk.DivergenceError as error:
        assert history.diverged[i] == error.step
    else:
        np.testing.assert_allclose(history.losses[i], losses, rtol=1e-12)
    np.testing.assert_array_equal(many.parameters.flat[i], net.parameters.flat)


def close(problem, net, x, y, arguments, many, history, i):
    single = Problem(problem.layers, x, y, arguments)
    begin = net.parameters.to_host()
    expected = outcome(net, single)
    got = expected._replace(
        parameters={name: value[i] for name, value in many.parameters.to_host().items()},
        loss=history.losses[i] if history.diverged[i] < 0 else np.array([np.nan]),
        diverged=None if history.diverged[i] < 0 else int(history.diverged[i]),
    )
    if distance(got, expected) > closeness(many.dtype):
        assert sensitive(net, begin, single, expected), f"network {i}: {distance(got, expected):.3g} apart"


def outcome(net, problem):
    net.fits = 0
    try:
        history = net.fit(problem.x, problem.y, **problem.arguments, plan="composed")
    except nnk.DivergenceError as error:
        return Outcome(net.parameters.to_host(), np.array([np.nan]), error.step)
    return Outcome(net.parameters.to_host(), history.loss)


def sensitive(net, begin, problem, expected):
    """Tell whether a few units in the last place of the first parameters move the end as far."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        few = 8 * np.finfo(net.dtype).eps
        net.parameters.update({name: v * (1 + few * rng.uniform(-1, 1, v.shape)) for name, v in begin.items()})
        if distance(outcome(net, problem), expected) > closeness(net.dtype) / 4:
            return True
    return False


def test_in_lanes_every_network_has_the_bits_that_it_has_alone(dtype):
    check("numba", dtype.__name__, "lanes", 20)


@pytest.mark.parametrize("device", ["numpy", "numba"])
def test_composed_ensembles_are_networks_side_by_side(device, dtype):
    check(device, dtype.__name__, "composed", 8)


@pytest.mark.parametrize("device", ["cuda"])
@pytest.mark.parametrize("plan", ["composed", "generated"])
def test_ensembles_on_a_gpu_are_networks_side_by_side(device, plan, dtype):
    check(device, dtype.__name__, plan, 3)
