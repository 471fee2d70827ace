"""Every way to run gives the same network: composed kernels, a program for all networks, a program for one."""

import logging
import os
import subprocess
import sys
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_activations import NAMES, errors_in_ulp, grid
from tolerances import ulp
from ways import (
    SAMPLINGS,
    Problem,
    closeness,
    distance,
    gang_of,
    problems,
    program_of,
    reference,
    rounding_decides,
    trained,
)

import nnkernels as nnk
from nnkernels.backends.numba import training
from nnkernels.backends.numba.codegen import choice, rows, units

WAYS = ("generic", "generated")
GENERATORS = {"rows in lanes": rows, "units in lanes": units}
RELAXED = settings(suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True, scope="module")
def _cache_of_its_own(tmp_path_factory):
    """Hundreds of programs that nobody needs again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def assert_agrees(problem, dtype, expected, write=None, **run):
    """Compare a run with the reference: parameters, losses, the step of a divergence. Return whether it tells.

    It does not where the reference itself, begun a few units in the last place beside, ends elsewhere.
    """
    if write is None:
        got = trained(*problem, dtype=dtype, **run)
    else:
        with program_of(write):
            got = trained(*problem, dtype=dtype, device="numba", plan="generated")
    apart = distance(got, expected)
    if apart <= closeness(dtype):
        return True
    assert rounding_decides(problem, dtype, expected), f"{run or write}: {apart:.3g} apart, {got.diverged}"
    return False


def lanes_of(dtype, vector_bytes):
    return vector_bytes // np.dtype(dtype).itemsize


# ---- drawn networks --------------------------------------------------------------------------------------------------


def compare_ways(problem, dtype, told):
    expected = reference(problem, dtype)
    runs = [("numpy", "composed")] * (dtype == "float32") + [("numba", way) for way in ("composed", *WAYS)]
    for device, way in runs:
        told[assert_agrees(problem, dtype, expected, device=device, plan=way)] += 1


def test_every_way_trains_a_drawn_network_alike(dtype):
    """The oracle is composed NumPy in float64, whichever the network's dtype."""
    told, name = Counter(), np.dtype(dtype).name

    @settings(RELAXED, max_examples=50)
    @given(problem=problems())
    def compare(problem):
        compare_ways(problem, name, told)

    compare()
    assert told[True] > 140
    assert told[False] <= told[True] / 50


@pytest.mark.long
@pytest.mark.parametrize("widest", [20, 70], ids="up to {} units".format)
def test_thousands_of_drawn_networks_train_alike(dtype, widest, capsys):
    told, name = Counter(), np.dtype(dtype).name

    @settings(RELAXED, max_examples=1500)
    @given(problem=problems(widest=widest, most_rows=3 * widest))
    def compare(problem):
        compare_ways(problem, name, told)

    compare()
    with capsys.disabled():
        sys.stdout.write(f"\n{name}: {told[True]:,} runs agree, of {told[False]:,} rounding decides\n")
    assert told[False] <= told[True] / 50


@settings(RELAXED, max_examples=12)
@given(
    problem=problems(),
    type_name=st.sampled_from(["float32", "float64"]),
    vector_bytes=st.sampled_from([16, 32, 64]),
)
@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
def test_each_generator_writes_any_recipe_for_vectors_of_any_width(generator, problem, type_name, vector_bytes):
    lanes = lanes_of(type_name, vector_bytes)
    expected = reference(problem, type_name)
    assert_agrees(problem, type_name, expected, lambda recipe: generator.write(recipe, lanes))


@pytest.mark.parametrize("vector_bytes", [16, 32, 64], ids="vectors of {} bytes".format)
def test_the_choice_is_right_on_processors_with_other_vectors(dtype, vector_bytes):
    rng, name = np.random.default_rng(0), np.dtype(dtype).name
    for sizes, batch in (
        ((1, 10, 1), 1),
        ((3, 7, 18, 5), 5),
        ((3, 7, 2), 37),
        ((1, 1, 1), 12),
    ):
        layers = [nnk.Dense(a, b, activation="tanh") for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        arguments = {
            "loss": "huber",
            "optimizer": nnk.Adam(0.01),
            "batch_size": batch,
            "steps": 30,
        }
        problem = Problem(
            layers,
            rng.normal(size=(37, sizes[0])),
            rng.normal(size=(37, sizes[-1])),
            arguments,
        )
        expected = reference(problem, name)
        assert assert_agrees(
            problem,
            name,
            expected,
            lambda recipe: choice.generated(recipe, vector_bytes),
        )


# ---- shapes at the edges of what is written --------------------------------------------------------------------------

SHAPES = {
    "784-128-10": ([784, 128, 10], 10, "softmax"),
    "a wide first layer": ([20, 300, 3], 7, "sigmoid"),
    "a wide last layer": ([5, 8, 40], 3, "sigmoid"),
    "six layers": ([3, 9, 8, 7, 6, 5, 2], 4, "sigmoid"),
    "one layer": ([6, 1], 1, "tanh"),
    "three layers in registers": ([1, 3, 2, 1], 1, "tanh"),
    "more rows than a part": ([3, 6, 2], 300, "tanh"),
    "layers of one unit": ([1, 1, 1, 1, 1], 3, "gelu"),
}


def shaped(sizes, batch, last, **arguments):
    rng = np.random.default_rng(1)
    hidden = [nnk.Dense(a, b, activation="sigmoid") for a, b in zip(sizes[:-2], sizes[1:-1], strict=True)]
    n_rows = max(30, batch)
    x, y = rng.normal(size=(n_rows, sizes[0])), rng.uniform(size=(n_rows, sizes[-1]))
    arguments = {
        "loss": "half_squared_error",
        "optimizer": nnk.SGD(0.1),
        "steps": 12,
    } | arguments
    return Problem(
        [*hidden, nnk.Dense(*sizes[-2:], activation=last)],
        x,
        y,
        arguments | {"batch_size": batch},
    )


@pytest.mark.parametrize(("sizes", "batch", "last"), SHAPES.values(), ids=SHAPES)
def test_shapes_large_and_odd_agree(dtype, sizes, batch, last):
    problem, name = shaped(sizes, batch, last), np.dtype(dtype).name
    expected = reference(problem, name)
    for way in WAYS:
        assert assert_agrees(problem, name, expected, device="numba", plan=way)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_last_network_that_fits_registers_and_the_first_that_does_not(dtype, optimizer):
    name, lanes = np.dtype(dtype).name, lanes_of(dtype, 32)
    optimizer = {"sgd": nnk.SGD(0.05), "adam": nnk.Adam(0.01)}[optimizer]

    recipe = trained_recipe(shaped([2, 8, 1], 1, "identity", optimizer=optimizer), name)
    width = next(n for n in range(1, 200) if not units.fits_registers(widened(recipe, n), lanes))
    assert width > 1
    for n in (width - 1, width):
        problem = shaped([2, n, 1], 1, "identity", optimizer=optimizer)
        expected = reference(problem, name)
        assert assert_agrees(problem, name, expected, lambda recipe: units.write(recipe, lanes))


def trained_recipe(problem, dtype):
    """Return the recipe of a problem's run."""
    net = nnk.Sequential(*problem.layers, device="numba", dtype=dtype)
    return net.plan(problem.x, problem.y, **problem.arguments).work.recipe


def widened(recipe, n):
    """Return the recipe of a network of one hidden layer with another width."""
    first, second = recipe.layers
    return recipe.replace(layers=(first.replace(n_out=n), second.replace(n_in=n)))


def test_the_last_rows_that_are_unrolled_and_the_first_that_are_not(dtype):
    name, lanes = np.dtype(dtype).name, lanes_of(dtype, 32)
    unrolled = []
    for batch in (4 * lanes, 4 * lanes + 1):
        problem = shaped([1, 1, 1], batch, "tanh", steps=30)
        expected = reference(problem, name)
        assert assert_agrees(problem, name, expected, lambda recipe: rows.write(recipe, lanes))
        unrolled.append(rows.RowsFrame(trained_recipe(problem, name), lanes).unrolled)
    assert unrolled == [True, False]


# ---- accuracy --------------------------------------------------------------------------------------------------------

WIDTH = 64
EXPONENTS = {
    "sigmoid": 1,
    "tanh": 2,
    "elu": 1,
    "softplus": 1,
    "silu": 1,
    "gelu": 1,
}  #: z times this, of exponentials


def value_and_slope(name, z, way, write):
    """Return an activation and its slope at z, as a step of a whole run leaves them among the parameters.

    The first layer's weights are the identity, the second's too, and every error's slope is -1: the step adds the slope
    to a bias that was 0, and the value to the weights beside the second one's diagonal.
    """
    far = 1e35 if z.dtype == np.float32 else 1e303
    values, slopes = [], []
    for start in range(0, len(z), WIDTH):
        part = np.zeros(WIDTH, z.dtype)
        part[: len(z[start : start + WIDTH])] = z[start : start + WIDTH]
        layers = nnk.Dense(WIDTH, WIDTH, activation=name), nnk.Dense(WIDTH, WIDTH)
        net = nnk.Sequential(*layers, device="numba", dtype=z.dtype.name)
        eye, zero = np.eye(WIDTH), np.zeros(WIDTH)
        net.parameters.update({"0.weight": eye, "0.bias": zero, "1.weight": eye, "1.bias": zero})
        loss, target = nnk.AbsoluteError(reduction="sum"), np.full((1, WIDTH), far)
        arguments = {
            "loss": loss,
            "optimizer": nnk.SGD(1.0),
            "steps": 1,
            "sample_weight": [float(WIDTH)],
        }
        if write is None:
            net.fit(part[None], target, plan=way, **arguments)
        else:
            with program_of(write):
                net.fit(part[None], target, plan=way, **arguments)
        after = net.parameters.to_host()
        values.append(np.roll(after["1.weight"], -1, axis=1).diagonal())
        slopes.append(after["0.bias"])
    return np.concatenate(values)[: len(z)], np.concatenate(slopes)[: len(z)]


@pytest.mark.parametrize(
    ("program", "name"),
    [*product(["generic"], NAMES), *product(GENERATORS, ["sigmoid", "tanh", "elu", "gelu"])],
    ids=str,
)
def test_activations_keep_their_digits_through_a_whole_run(dtype, program, name):
    """Within 6 ulp, and 1.5 for each unit of an exponential's argument, which is rounded once; tails included."""
    z = grid(name, np.dtype(dtype).name)
    lanes, write = lanes_of(dtype, 32), None
    if program in GENERATORS:
        write = lambda recipe: GENERATORS[program].write(recipe, lanes)  # noqa: E731
    results = value_and_slope(name, z, "generic" if write is None else "generated", write)
    allowed = ulp(dtype, "activation") + 1.5 * np.abs(z.astype(np.float64)) * EXPONENTS.get(name, 0)
    for kind, result in zip(("value", "slope"), results, strict=True):
        error = errors_in_ulp(result, name, kind)
        worst = np.argmax(error - allowed)
        assert (error <= allowed).all(), f"{kind}: {error[worst]:.1f} ulp at z = {z[worst]}"


@pytest.mark.parametrize("way", WAYS)
def test_a_sigmoids_slope_is_not_zero_in_its_tail(dtype, way):
    _, slope = value_and_slope("sigmoid", np.array([50, -50], dtype), way, None)
    np.testing.assert_allclose(slope, 1.928749847963918e-22, rtol=90 * np.finfo(dtype).eps)


# ---- chunks, blocks, log points --------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": nnk.SGD(0.05),
    "momentum": nnk.SGD(0.02, momentum=0.9, weight_decay=1e-3, schedule=nnk.CosineSchedule(90)),
    "nesterov": nnk.SGD(0.02, momentum=0.9, nesterov=True, clip_norm=0.3),
    "adam": nnk.Adam(0.01, l1=1e-4, l2=1e-3),
    "adamw": nnk.AdamW(0.01, schedule="inverse_scaling"),
    "rmsprop": nnk.RMSprop(0.002, clip_value=0.1),
}
PROGRAMS = {  # the hidden layer, the batch, the generator and its lanes
    "generic": (nnk.Dense(2, 5, activation="tanh", dropout=0.2), 4, None),
    "units in registers": (nnk.Dense(2, 5, activation="sigmoid"), 1, (units, 8)),
    "units": (nnk.Dense(2, 9, activation="elu"), 4, (units, 8)),
    "units with dropout": (
        nnk.Dense(2, 9, activation="elu", dropout=0.2),
        4,
        (units, 8),
    ),
    "rows": (nnk.Dense(2, 3, activation="gelu"), 9, (rows, 4)),
    "rows in registers": (nnk.Dense(2, 1, activation="tanh", bias=False), 6, (rows, 4)),
}


def chopped_run(program, optimizer, sampling, *, chunk=None, log_every=1, **limits):
    """Return the parameters and losses of a run that is cut into chunks and blocks."""
    hidden, batch, generator = PROGRAMS[program]
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(23, 2)), rng.normal(size=23)
    net = nnk.Sequential(hidden, nnk.Dense(hidden.n_out, 1), device="numba", rng=0)
    way = "generic" if generator is None else "generated"
    arguments = {
        "loss": "huber",
        "optimizer": OPTIMIZERS[optimizer],
        "batch_size": batch,
        "steps": 83,
    }
    plan = net.plan(x, y, sampling=sampling, plan=way, **arguments)
    plan = plan.replace(chunk=chunk or plan.chunk)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(training, name, value)
        if generator is not None:
            patch.setattr(
                training,
                "written",
                lambda recipe, way: generator[0].write(recipe, generator[1]),
            )
        history = net.fit(x, y, sampling=sampling, plan=plan, log_every=log_every, **arguments)
    return net.parameters.flat.copy(), history


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_chunks_blocks_and_log_points_do_not_change_a_bit(program, optimizer):
    whole = {sampling: chopped_run(program, optimizer, sampling) for sampling in SAMPLINGS}

    @settings(RELAXED, max_examples=12)
    @given(
        sampling=st.sampled_from(SAMPLINGS),
        chunk=st.integers(1, 90),
        log_every=st.integers(1, 90),
        steps=st.integers(1, 90),
        n_rows=st.integers(1, 400),
        seconds=st.sampled_from([1e-9, 1e-6, 0.05]),
    )
    def compare(sampling, chunk, log_every, steps, n_rows, seconds):
        limits = {"BLOCK_STEPS": steps, "BLOCK_ROWS": n_rows, "BLOCK_SECONDS": seconds}
        got, history = chopped_run(program, optimizer, sampling, chunk=chunk, log_every=log_every, **limits)
        expected, losses = whole[sampling]
        np.testing.assert_array_equal(got, expected)
        assert history.steps.tolist() == [*range(log_every, 83, log_every), 83]
        parts = np.split(losses.loss, history.steps[:-1])
        np.testing.assert_allclose(history.loss, [part.mean() for part in parts], rtol=1e-9)

    compare()


# ---- what callbacks do, and what goes wrong --------------------------------------------------------------------------

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(23, 3)), RNG.normal(size=(23, 2))
LAYERS = nnk.Dense(3, 6, activation="tanh"), nnk.Dense(6, 2)


def network(dtype="float64", layers=LAYERS):
    return nnk.Sequential(*layers, device="numba", dtype=dtype, rng=0)


def test_a_callback_that_changes_parameters_is_honored():
    """The run goes on from what the callback has set, in every way alike."""

    def halve(progress):
        progress.network.parameters = {k: v / 2 for k, v in progress.network.parameters.to_host().items()}

    results = []
    for way in ("composed", *WAYS):
        net = network()
        net.fit(
            X,
            Y,
            loss="huber",
            optimizer="adam",
            steps=40,
            log_every=10,
            callbacks=halve,
            plan=way,
        )
        results.append(net.parameters.flat)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-11, atol=1e-13)


def test_early_stopping_ends_every_way_at_the_same_step():
    ends, weights = [], []
    for way in ("composed", *WAYS):
        net = network()
        history = net.fit(
            X[:4],
            Y[:4],
            loss="mean_squared_error",
            optimizer=nnk.Adam(0.05),
            steps=2000,
            log_every=5,
            validation_data=(X[4:], Y[4:]),
            callbacks=nnk.EarlyStopping(patience=3),
            plan=way,
        )
        assert net.evaluate(X[4:], Y[4:], loss="mean_squared_error") == pytest.approx(history.validation_loss.min())
        ends.append(history.steps[-1])
        weights.append(net.parameters.flat)
    assert ends[0] < 2000
    assert ends == [ends[0]] * 3
    for other in weights[1:]:
        np.testing.assert_allclose(other, weights[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("way", WAYS)
def test_a_network_cannot_be_moved_from_under_a_whole_run(way):
    with pytest.raises(RuntimeError, match="moved to another device while it was training"):
        network().fit(
            X,
            Y,
            loss="huber",
            steps=10,
            callbacks=lambda progress: progress.network.to("numpy"),
            plan=way,
        )


@pytest.mark.parametrize("optimizer", [nnk.SGD(20.0), nnk.SGD(3.0, momentum=0.9)], ids=["sgd", "momentum"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("log_every", [1, 7, 4000], ids="log every {}".format)
def test_a_divergence_is_named_by_its_step_and_keeps_the_weights_before_it(dtype, way, optimizer, log_every):
    arguments = {"loss": "half_squared_error", "optimizer": optimizer, "batch_size": 3}
    layers, steps = [nnk.Dense(3, 2)], []
    for plan in ("composed", way):
        net = network(dtype, layers)
        with pytest.raises(nnk.DivergenceError) as caught:
            net.fit(X, Y, plan=plan, steps=4000, log_every=log_every, **arguments)
        steps.append(caught.value.step)
    assert steps[0] == steps[1] > 0
    before = network(dtype, layers)
    before.fit(X, Y, plan=way, steps=steps[1], **arguments)
    assert np.isfinite(before.parameters.flat).all()
    np.testing.assert_array_equal(net.parameters.flat, before.parameters.flat)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_is_none_among_the_weights_is_noticed_at_once(way, value):
    for place in range(network().n_parameters):
        net = network()
        net.parameters.flat[place] = value  # past the checks of assignment
        with pytest.raises(nnk.DivergenceError, match="at step 0"):
            net.fit(X, Y, loss="huber", batch_size=4, steps=50, plan=way)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_chunk_leaves_the_last_finished_one(monkeypatch, way, error):
    arguments = {"loss": "huber", "optimizer": nnk.Adam(0.01), "batch_size": 4}
    net, before = network(), network()
    plan = net.plan(X, Y, plan=way, steps=100, **arguments).replace(chunk=10)
    monkeypatch.setattr(training, "BLOCK_STEPS", 3)
    before.fit(X, Y, plan=way, steps=30, **arguments)
    blocks, advance = [], training.WholeRun._advance_block

    def interrupted(run, first_step, count):
        advance(run, first_step, count)
        blocks.append(first_step)
        if first_step > 33:  # within the fourth chunk
            raise error

    monkeypatch.setattr(training.WholeRun, "_advance_block", interrupted)
    with pytest.raises(error):
        net.fit(X, Y, plan=plan, log_every=100, steps=100, **arguments)
    assert len(blocks) > 10
    np.testing.assert_array_equal(net.parameters.flat, before.parameters.flat)


# ---- on any number of threads ----------------------------------------------------------------------------------------


@settings(RELAXED, max_examples=8)
@given(
    problem=problems(widest=60, most_rows=300, most_steps=60),
    type_name=st.sampled_from(["float32", "float64"]),
)
@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
def test_drawn_networks_have_the_same_bits_on_any_number_of_threads(generator, problem, type_name):
    outcomes = []
    for count in (1, 2, 3, 8):
        with (
            program_of(lambda recipe: generator.write(recipe, lanes_of(type_name, 32))),
            gang_of(count) as used,
        ):
            outcomes.append(trained(*problem, device="numba", dtype=type_name, plan="generated"))
        assert set(used) <= set(range(1, count + 1))
    for other in outcomes[1:]:
        assert other.diverged == outcomes[0].diverged
        np.testing.assert_array_equal(other.loss, outcomes[0].loss)
        for name, value in outcomes[0].parameters.items():
            np.testing.assert_array_equal(other.parameters[name], value)


# ---- the next process ------------------------------------------------------------------------------------------------

COLD = """
import hashlib, logging, sys
import numpy as np
logging.basicConfig(format="%(levelname)s %(message)s")
import nnkernels as nnk
x = np.linspace(0, 1, 50)
for dtype in ("float32", "float64"):
    net = nnk.Sequential(nnk.Dense(1, 10, activation="sigmoid"), nnk.Dense(10, 1), device="numba", dtype=dtype, rng=0)
    net.fit(x, x, loss="half_squared_error", optimizer="sgd", steps=1000, batch_size=1, plan="generated")
    print(hashlib.sha256(net.parameters.flat.tobytes()).hexdigest())
print("numba" in sys.modules)
"""


def start_cold(folder):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_"))}
    clean["NNKERNELS_CACHE_DIR"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", COLD],
        env=clean,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split(), done.stderr


def test_a_network_trains_alike_from_an_empty_cache_from_a_full_one_and_from_a_damaged_one(
    tmp_path,
):
    first, errors = start_cold(tmp_path / "cache")
    assert (first[-1], errors) == ("False", "")
    files = sorted((tmp_path / "cache" / "programs").iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    assert start_cold(tmp_path / "cache") == (first, "")
    assert [file.stat().st_mtime_ns for file in files] == times
    for file in files:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert start_cold(tmp_path / "cache") == (first, "")
    assert all(file.stat().st_mtime_ns > time for file, time in zip(files, times, strict=True))


def test_a_network_trains_without_a_cache_and_says_so_once(tmp_path):
    (tmp_path / "file").write_text("")
    printed, errors = start_cold(tmp_path / "file" / "cache")
    assert printed[-1] == "False"
    assert errors.count("WARNING compiled kernels cannot be cached") == 1
    assert errors.count(logging.getLevelName(logging.WARNING)) == 1
