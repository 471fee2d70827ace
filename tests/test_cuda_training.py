"""Training on a GPU, emulated: whole-run programs in their three forms, and the composed step as a captured graph."""

from collections import Counter

import numpy as np
import pytest
from emulator.compiler import SCHEDULES, KernelError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ways import SAMPLINGS, closeness, distance, problems, reference, rounding_decides, trained

import nnkernels as nnk
from nnkernels import _losses, _optimizers
from nnkernels._recipe import Recipe, schedule_values, setting_values
from nnkernels.backends.cupy import kernels, launch
from nnkernels.backends.cupy.codegen import block, choice, rows, units

FORMS = {
    "a thread": lambda recipe: rows.write(recipe, 1),
    "two lanes": lambda recipe: rows.write(recipe, 2),
    "a warp's rows": lambda recipe: rows.write(recipe, 32),
    "a warp's units": units.write,
    "a block": block.write,
}
RELAXED = settings(suppress_health_check=list(HealthCheck), phases=[Phase.generate])
LAYERS = nnk.Dense(2, 5, activation="tanh"), nnk.Dense(5, 3, activation="sigmoid")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 2)), RNG.uniform(size=(23, 3))

pytestmark = pytest.mark.parametrize("device", ["cuda"])


def fits(form, recipe):
    """Tell whether a recipe has a form at all."""
    return block.why_not(recipe) is None if form == "a block" else "units" not in form or not units.why_not(recipe)


@pytest.fixture
def written(monkeypatch):
    """Let plan="generated" run the form that is set in `written["form"]`."""
    chosen = {"form": "a block"}
    monkeypatch.setattr(choice, "generated", lambda recipe, networks=1: FORMS[chosen["form"]](recipe))
    return chosen


# ---- every form, any network -----------------------------------------------------------------------------------------


def agree(form, dtype, examples, emulator, written):
    told = Counter()

    @settings(RELAXED, max_examples=examples)
    @given(problems(widest=9, most_rows=40, most_steps=25), st.sampled_from(SCHEDULES))
    def compare(problem, schedule):
        written["form"] = form if fits(form, recipe_of(problem, dtype)) else "a thread"
        emulator.schedule = schedule
        expected = reference(problem, dtype)
        got = trained(*problem, device="cuda", dtype=dtype, plan="generated")
        told[written["form"]] += 1
        if (apart := distance(got, expected)) > closeness(dtype):
            assert rounding_decides(problem, dtype, expected), f"{written['form']}: {apart:.3g} apart"

    compare()
    assert told[form] > examples / 3


def recipe_of(problem, dtype):
    layers, x, y, arguments = problem
    network = nnk.Sequential(*layers, device="numpy", dtype=dtype)
    return network.plan(x, y, **arguments).work.recipe


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_a_drawn_network_as_composed_numpy_does(device, dtype, form, emulator, written):
    agree(form, dtype, 10, emulator, written)


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_many_drawn_networks(device, dtype, form, emulator, written):
    agree(form, dtype, 200, emulator, written)


@pytest.mark.parametrize("form", FORMS)
def test_two_thousand_steps_stay_with_float64(device, form, written):
    """The copies that lanes hold of a parameter must not drift apart."""
    written["form"] = form
    arguments = {"loss": "half_squared_error", "optimizer": nnk.Adam(0.01), "batch_size": 4, "steps": 2000}
    got = trained(LAYERS, X, Y, arguments, device="cuda", dtype="float64", plan="generated")
    assert distance(got, trained(LAYERS, X, Y, arguments, device="numpy", dtype="float64", plan="composed")) < 1e-9


# ---- chunks, blocks, schedules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_neither_chunks_nor_blocks_nor_schedules_change_a_bit(device, form, emulator, written, monkeypatch):
    written["form"] = form
    whole = {sampling: chopped(sampling)[0] for sampling in SAMPLINGS}

    @settings(RELAXED, max_examples=8)
    @given(
        st.sampled_from(SAMPLINGS),
        st.integers(1, 60),
        st.integers(1, 60),
        st.integers(1, 300),
        st.sampled_from(SCHEDULES),
    )
    def compare(sampling, chunk, log_every, block_rows, schedule):
        emulator.schedule = schedule
        from nnkernels.backends.cupy import training

        monkeypatch.setattr(training, "BLOCK_ROWS", block_rows)
        flat, history = chopped(sampling, chunk=chunk, log_every=log_every)
        np.testing.assert_array_equal(flat, whole[sampling])
        assert history.steps[-1] == 61

    compare()


def chopped(sampling, chunk=None, log_every=None):
    """Train for 61 steps with all that changes from step to step: dropout, momentum, a schedule, short batches."""
    layers = nnk.Dense(2, 5, activation="tanh", dropout=0.2), nnk.Dense(5, 3)
    net = nnk.Sequential(*layers, device="cuda", rng=1)
    optimizer = nnk.SGD(0.05, momentum=0.9, schedule=nnk.CosineSchedule(60))
    arguments = {"loss": "huber", "optimizer": optimizer, "batch_size": 4, "steps": 61, "sampling": sampling}
    plan = net.plan(X, Y, **arguments, plan="generated")
    history = net.fit(X, Y, **arguments, log_every=log_every, plan=plan.replace(chunk=chunk or plan.chunk))
    return kernels.to_host(net.parameters.flat), history


# ---- many networks in a launch ---------------------------------------------------------------------------------------


def launched(program, recipe, parameters, data, *, first, shared, rates, steps):
    """Run a program on several networks at once: parameters (n, P), data and rates for each of them."""
    n, loss, optimizer = len(parameters), _losses.loss("half_squared_error"), _optimizers.optimizer(nnk.Adam(0.02))
    x, y = ((part[0] if shared else part) for part in data)
    moved = [kernels.from_host(np.ascontiguousarray(part, recipe.dtype)) for part in (parameters, x, y)]
    state = kernels.from_host(np.zeros((len(recipe.state), *parameters.shape), recipe.dtype))
    order, total = kernels.empty((n, steps, recipe.batch), np.int64), kernels.from_host(np.zeros(n))
    kernels.draw_indices(7, first, 0, sampling="replacement", n_rows=data[0].shape[1], out=order)
    table = schedule_values(recipe.scheduled, recipe, loss, optimizer, 0, np.full(steps, recipe.batch))
    schedule = np.stack([table.copy() for _ in range(n)])
    schedule[:, :, 0] = np.asarray(rates)[:, None]
    settings_ = kernels.from_host(setting_values(recipe.settings, recipe, loss, optimizer))
    library = launch.library(program.complete, recipe.dtype, 0, contracted=False)
    arrays = (moved[0], state, total, moved[1], moved[2], None, order, None, kernels.from_host(schedule), settings_)
    numbers = (7, first, 0, steps, n, 0 if shared else data[0].shape[1], order[0].size, table.size)
    library.kernel("run")(program.blocks(n), program.threads, *arrays, *numbers)
    return kernels.to_host(moved[0]), kernels.to_host(total)


@pytest.mark.parametrize("shared", [True, False], ids=["shared data", "own data"])
@pytest.mark.parametrize("form", FORMS)
def test_networks_of_one_launch_have_the_bits_that_each_has_alone(device, form, shared, emulator):
    emulator.schedule, n, rng = "random", 5, np.random.default_rng(1)
    layers = nnk.Dense(2, 4, activation="tanh", dropout=0.3), nnk.Dense(4, 1)
    recipe = Recipe.of(
        nnk.Sequential(*layers, device="numpy").layers,
        _losses.loss("half_squared_error"),
        _optimizers.optimizer(nnk.Adam(0.02)),
        n_rows=11,
        batch=3,
        sampling="replacement",
        weighted=False,
        dtype="float32",
    )
    program = FORMS[form](recipe)
    parameters, data = (
        rng.normal(size=(n, recipe.n_parameters)),
        (rng.normal(size=(n, 11, 2)), rng.normal(size=(n, 11, 1))),
    )
    if shared:
        data = tuple(np.broadcast_to(part[:1], part.shape) for part in data)
    rates = rng.uniform(0.001, 0.1, n)
    together, losses = launched(program, recipe, parameters, data, first=3, shared=shared, rates=rates, steps=9)
    for k in range(n):
        own = [part[k : k + 1] for part in data]
        alone = launched(
            program, recipe, parameters[k : k + 1], own, first=3 + k, shared=shared, rates=rates[k:][:1], steps=9
        )
        np.testing.assert_array_equal(together[k], alone[0][0])
        assert losses[k] == alone[1][0] > 0
    assert len({row.tobytes() for row in together}) == n


# ---- barriers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["a warp's units", "a block", "a block in the caches"])
def test_every_barrier_of_a_program_is_needed(device, form, emulator, written, monkeypatch):
    """Each one deleted, the network or the emulator must show it, under some schedule."""
    written["form"] = form.replace(" in the caches", "")
    if "caches" in form:
        monkeypatch.setattr(block, "SHARED_BYTES", block._fixed_bytes(recipe_of((DEEP, X, Y, ARGUMENTS), "float32")))
    expected = trained(DEEP, X, Y, ARGUMENTS, device="cuda", dtype="float32", plan="generated")
    program = choice.generated(recipe_of((DEEP, X, Y, ARGUMENTS), "float32"))
    assert program.threads > 32 or "units" in form, "one warp does not show what several would"
    source = program.complete
    places = [(mark, k) for mark in ("__syncwarp();", "__syncthreads();") for k in range(source.count(mark))]
    missed = [place for place in places if reached(source, *place) and not noticed(emulator, expected, *place)]
    assert sum(reached(source, *place) for place in places) >= (1 if "units" in form else 8)
    assert not missed


DEEP = nnk.Dense(2, 12, activation="tanh"), nnk.Dense(12, 12, activation="elu"), nnk.Dense(12, 3, activation="sigmoid")
ARGUMENTS = {
    "loss": "mean_squared_error",
    "optimizer": nnk.SGD(0.1, clip_norm=0.2),
    "batch_size": 4,
    "steps": 9,
    "sampling": "replacement",
}


def without(source, mark, number):
    """Return a source without one of its barriers."""
    parts = source.split(mark)
    return mark.join(parts[: number + 1]) + ";" + mark.join(parts[number + 1 :])


def noticed(emulator, expected, mark, number):
    """Tell whether a barrier's deletion changes what is trained, or is an error, under some schedule."""
    emulator.edit = lambda source: without(source, mark, number) if " run(real" in source else source
    try:
        for schedule in ("warps", "reverse", "forward"):
            emulator.schedule = schedule
            launch.library.cache_clear()
            try:
                got = trained(DEEP, X, Y, ARGUMENTS, device="cuda", dtype="float32", plan="generated")
            except (KernelError, nnk.DivergenceError):
                return True
            if distance(got, expected):
                return True
        return False
    finally:
        emulator.edit, emulator.schedule = lambda source: source, "forward"
        launch.library.cache_clear()


def reached(source, mark, number):
    """Tell whether a barrier stands in `run`, or in a function of the shared files that it calls."""
    before = mark.join(source.split(mark)[: number + 1])
    return " run(real" in before or f"{before.rpartition('__forceinline__ ')[2].split('(')[0].split()[-1]}<" in source


# ---- the captured step -----------------------------------------------------------------------------------------------


def test_a_step_is_captured_once_for_each_size_of_a_batch(device, emulator, monkeypatch):
    recorded = []
    begin = type(emulator).do
    monkeypatch.setattr(
        type(emulator), "do", lambda self, work: (recorded.append(self.recording is not None), begin(self, work))
    )
    net = nnk.Sequential(*LAYERS, device="cuda", rng=0)
    history = net.fit(X, Y, loss="huber", batch_size=10, steps=30, plan="composed")
    captured = sum(recorded)
    assert captured  # and not again:
    recorded.clear()
    assert "refused" not in history.plan.explain()
    alone = nnk.Sequential(*LAYERS, device="numpy", rng=0)
    alone.fit(X, Y, loss="huber", batch_size=10, steps=30, plan="composed")
    np.testing.assert_allclose(kernels.to_host(net.parameters.flat), alone.parameters.flat, rtol=1e-4, atol=1e-6)
    other = nnk.Sequential(*LAYERS, device="cuda", rng=0)
    other.fit(X, Y, loss="huber", batch_size=10, steps=300, plan="composed")
    assert sum(recorded) == captured, "ten times the steps are captured no more often"


def test_a_refused_capture_is_said_and_changes_no_bit(device, emulator):
    flats = []
    for refuses in (False, True):
        emulator.refuses_capture = refuses
        net = nnk.Sequential(*LAYERS, device="cuda", rng=0)
        history = net.fit(X, Y, loss="huber", batch_size=10, steps=30, plan="composed")
        flats.append(kernels.to_host(net.parameters.flat))
        assert ("refused to capture" in history.plan.explain()) == refuses
    emulator.refuses_capture = False
    np.testing.assert_array_equal(*flats)


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(*layers, steps, batch_size=1, n_rows=2000, **arguments):
    net = nnk.Sequential(*layers, device="cuda")
    x, y = np.zeros((n_rows, layers[0].n_in)), np.zeros((n_rows, layers[-1].n_out))
    return net.plan(x, y, loss="half_squared_error", steps=steps, batch_size=batch_size, **arguments)


def test_the_plan_is_a_program_where_it_pays_and_a_graph_where_not(device):
    sine = nnk.Dense(1, 10, activation="sigmoid"), nnk.Dense(10, 1)
    assert plan(*sine, steps=500_000).way == "generated"
    assert plan(*sine, steps=100).way == "composed"  # a compile would take longer
    wide = nnk.Dense(1024, 1024, activation="relu"), nnk.Dense(1024, 10)
    assert plan(*wide, steps=500_000, batch_size=1024).way == "composed"
    with pytest.raises(nnk.PlanError, match="does not fit into registers, and its activations of 1024 rows"):
        plan(*wide, steps=10, batch_size=1024, plan="generated")
    with pytest.raises(nnk.PlanError, match="is not there on cuda"):
        plan(*sine, steps=10, plan="generic")


def test_the_source_is_the_program_that_is_run(device):
    layers = nnk.Dense(1, 10, activation="sigmoid"), nnk.Dense(10, 1)
    text = plan(*layers, steps=500_000, optimizer=nnk.SGD(0.1)).source
    assert "a unit in each lane" in text
    assert "// 1 -> 10 sigmoid" in text
    assert "sigmoid_at" in text
    assert "tanh_at" not in text


@pytest.mark.parametrize("way", ["composed", "generated"])
def test_a_divergence_is_named_at_its_step(device, way):
    layers = nnk.Dense(1, 4, activation="identity"), nnk.Dense(4, 1)
    x, y = np.linspace(1, 2, 30), np.linspace(1, 3, 30)
    found = []
    for where, plan_ in (("numpy", "composed"), (device, way)):
        net = nnk.Sequential(*layers, device=where, dtype="float64", rng=0)
        with pytest.raises(nnk.DivergenceError) as caught:
            net.fit(x, y, loss="half_squared_error", optimizer=nnk.SGD(30.0), batch_size=3, steps=500, plan=plan_)
        found.append(caught.value.step)
        assert all(np.isfinite(value).all() for value in net.parameters.to_host().values())
    assert found[0] == found[1]
