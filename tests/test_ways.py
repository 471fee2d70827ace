"""Every way to run gives the same network: composed kernels, a program for all networks, a program for one."""

import mpmath
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tolerances import relative, ulp
from ways import problems, trained

import nnkernels as nnk
from nnkernels.backends.numba import training
from nnkernels.backends.numba.codegen import choice, rows, units

WAYS = ("generic", "generated")
RELAXED = settings(suppress_health_check=list(HealthCheck))


def assert_same(problem, dtype, way, tolerance, **environment):
    """Compare a way with the reference: parameters and losses, or that both diverge."""
    expected = trained(*problem, device="numpy", dtype=dtype, plan="composed")
    got = trained(*problem, device="numba", dtype=dtype, plan=way)
    assert (expected is None) == (got is None)
    if expected is None:
        return
    for name, value in expected[0].items():
        scale = 1 + np.abs(value).max()
        np.testing.assert_allclose(got[0][name] / scale, value / scale, rtol=0, atol=tolerance, err_msg=name)
    scale = 1 + np.abs(expected[1]).max()
    np.testing.assert_allclose(got[1] / scale, expected[1] / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("way", WAYS)
@settings(RELAXED, max_examples=70)
@given(problem=problems())
def test_random_networks_agree_with_the_reference(way, problem):
    assert_same(problem, "float64", way, relative(np.float64, "trajectory"))


@pytest.mark.parametrize("way", WAYS)
@settings(RELAXED, max_examples=25)
@given(problem=problems())
def test_random_networks_agree_in_single_precision(way, problem):
    assert_same(problem, "float32", way, relative(np.float32, "short trajectory"))


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
@settings(RELAXED, max_examples=2000)
@given(problem=problems())
def test_thousands_of_random_networks_agree(way, problem):
    assert_same(problem, "float64", way, relative(np.float64, "trajectory"))


@pytest.fixture
def with_program(monkeypatch):
    """Make the next runs use a program that `write(recipe)` returns."""

    def use(write):
        monkeypatch.setattr(training, "written", lambda recipe, way: write(recipe))

    return use


@pytest.mark.parametrize("vector_bytes", [16, 32, 64], ids="vectors of {} bytes".format)
@pytest.mark.parametrize("generator", [rows, units], ids=["rows in lanes", "units in lanes"])
def test_both_generators_agree_at_any_width(with_program, generator, vector_bytes):
    rng = np.random.default_rng(0)
    layers = [nnk.Dense(3, 7, activation="sigmoid"), nnk.Dense(7, 18, activation="elu"), nnk.Dense(18, 5)]
    arguments = {"optimizer": nnk.Adam(0.01), "steps": 30, "sampling": "permutation", "sample_weight": None}
    for batch, loss in ((1, nnk.Huber()), (5, nnk.HalfSquaredError()), (37, nnk.MeanSquaredError())):
        problem = layers, rng.normal(size=(37, 3)), rng.normal(size=(37, 5)), {**arguments, "loss": loss}
        problem[3]["batch_size"] = batch
        with_program(lambda recipe: generator.write(recipe, vector_bytes // 8))
        assert_same(problem, "float64", "generated", relative(np.float64, "trajectory"))


SHAPES = {
    "784-128-10": ([784, 128, 10], 10),
    "a wide first layer": ([20, 300, 3], 7),
    "a wide last layer": ([5, 8, 40], 3),
    "six layers": ([3, 9, 8, 7, 6, 5, 2], 4),
    "one layer": ([6, 1], 1),
    "three layers in registers": ([1, 3, 2, 1], 1),
    "the last that fits registers": ([1, 15, 1], 1),
    "the first that does not": ([8, 80, 1], 1),
}


@pytest.mark.parametrize(("sizes", "batch"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_shapes_at_the_edges_of_what_is_written(way, sizes, batch):
    rng = np.random.default_rng(1)
    layers = [nnk.Dense(a, b, activation="sigmoid") for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    arguments = {"loss": "half_squared_error", "optimizer": nnk.SGD(0.1), "batch_size": batch, "steps": 12}
    problem = layers, rng.normal(size=(30, sizes[0])), rng.uniform(size=(30, sizes[-1])), arguments
    assert_same(problem, "float64", way, relative(np.float64, "trajectory"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slopes_keep_their_digits_far_in_the_tails(way, dtype):
    """A step of a network whose gradient is the slope itself: within (6 + 1.5 |z|) ulp, and at z = 50 not zero."""
    for z in (-80.0, -20.0, -1.0, 0.0, 0.3, 5.0, 17.0, 40.0, 50.0, 80.0):
        layers = [nnk.Dense(1, 1, activation="sigmoid", bias=False), nnk.Dense(1, 1, bias=False)]
        net = nnk.Sequential(*layers, device="numba", dtype=dtype)
        net.parameters = {"0.weight": [[z]], "1.weight": [[1.0]]}
        # the rate makes the step from z so large that nothing of the slope is lost in it
        a = float(1 / (1 + mpmath.exp(-z)))
        slope = mpmath.exp(-z) / (1 + mpmath.exp(-z)) ** 2
        rate = float(2.0 ** (10 - int(mpmath.log(slope, 2))))
        net.fit([1.0], [a + 1.0], loss="half_squared_error", optimizer=nnk.SGD(rate), steps=1, plan=way)
        error = np.dtype(dtype).type(a) - np.dtype(dtype).type(a + 1.0)
        got = (z - float(net.parameters["0.weight"][0, 0])) / (rate * float(error))
        unit = np.finfo(dtype).eps * (1 + float(abs(z) / (rate * slope)))
        assert abs(got / float(slope) - 1) <= (ulp(dtype, "elementary") + 1.5 * abs(z) + 4) * unit
        assert got > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("sampling", ["permutation", "replacement", "sequential"])
@pytest.mark.parametrize("way", WAYS)
def test_blocks_and_log_points_do_not_change_bits(monkeypatch, way, sampling, optimizer):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(23, 3)), rng.normal(size=(23, 2))

    def run(block, log_every):
        monkeypatch.setattr(training, "BLOCK_STEPS", block)
        net = nnk.Sequential(nnk.Dense(3, 6, activation="tanh", dropout=0.2), nnk.Dense(6, 2), device="numba", rng=0)
        arguments = {"loss": "huber", "batch_size": 4, "steps": 203, "sampling": sampling}
        history = net.fit(x, y, optimizer=optimizer, plan=way, log_every=log_every, **arguments)
        return net.parameters.flat.copy(), history.loss.mean() if log_every in (7, 29) else None

    expected, _ = run(8192, 203)
    for block, log_every in ((1, 203), (10, 7), (64, 29), (203, 1)):
        np.testing.assert_array_equal(run(block, log_every)[0], expected)


def test_a_callback_that_changes_parameters_is_honored():
    """The run goes on from what the callback has set, in every way alike."""

    def halve(progress):
        progress.network.parameters = {k: v / 2 for k, v in progress.network.parameters.to_host().items()}

    x = np.random.default_rng(3).normal(size=(20, 2))
    results = []
    for way in ("composed", *WAYS):
        net = nnk.Sequential(
            nnk.Dense(2, 5, activation="tanh"), nnk.Dense(5, 1), device="numba", dtype="float64", rng=0
        )
        net.fit(x, x[:, 0], loss="huber", optimizer="adam", steps=40, log_every=10, callbacks=halve, plan=way)
        results.append(net.parameters.flat)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_a_divergence_is_the_step_of_the_composed_run(way):
    x = np.random.default_rng(4).normal(size=(23, 3))
    arguments = {"loss": "half_squared_error", "optimizer": nnk.SGD(20.0), "batch_size": 3, "steps": 4000}
    found = {}
    for plan in ("composed", way):
        net = nnk.Sequential(nnk.Dense(3, 2), device="numba", dtype="float64", rng=0)
        with pytest.raises(nnk.DivergenceError) as caught:
            net.fit(x, x[:, :2], plan=plan, log_every=4000, **arguments)
        assert np.isfinite(net.parameters.flat).all()
        found[plan] = caught.value.step
    assert found[way] == found["composed"]


@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_is_none_among_the_weights_is_noticed_at_once(way):
    net = nnk.Sequential(nnk.Dense(1, 3, activation="sigmoid"), nnk.Dense(3, 1), device="numba")
    net.parameters.flat[0] = np.nan  # past the checks of assignment
    with pytest.raises(nnk.DivergenceError, match="at step 0"):
        net.fit([0.0, 1.0], [0.0, 1.0], loss="huber", steps=50, plan=way)


def test_the_programs_are_those_of_the_choice():
    recipe = (
        nnk.Sequential(nnk.Dense(1, 10, activation="sigmoid"), nnk.Dense(10, 1), device="numba")
        .plan([0.0, 1.0], [0.0, 1.0], loss="huber", batch_size=1, steps=10)
        .work.recipe
    )
    assert choice.generated(recipe).source == training.written(recipe, "generated").source
    assert "Units" not in choice.generic(recipe).source
