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
        step, losses = error.step, None
    else:
        step = -1
    assert history.diverged[i] == step
    if losses is not None:
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
    check("numba", dtype.__name__, "lanes", 25)


@pytest.mark.parametrize("device", ["numpy", "numba"])
def test_composed_ensembles_are_networks_side_by_side(device, dtype):
    check(device, dtype.__name__, "composed", 30)


@pytest.mark.parametrize("device", ["cuda"])
@pytest.mark.parametrize("plan", ["composed", "generated"])
def test_ensembles_on_a_gpu_are_networks_side_by_side(device, plan, dtype):
    check(device, dtype.__name__, plan, 12)


@pytest.mark.long
@pytest.mark.parametrize("plan", ["lanes", "composed"])
def test_many_drawn_ensembles(plan, dtype):
    check("numba", dtype.__name__, plan, 300)


def test_neighbors_groups_threads_and_chunks_change_no_bit(monkeypatch):
    arguments = QUICK | {"optimizer": nnk.Adam(0.01), "plan": "lanes"}
    whole = ensemble(70)
    whole.fit(X, Y, **arguments)
    for n, count, block, log_every in ((1, 1, 2**20, 40), (3, 2, 1, 7), (33, 3, 2000, 1), (70, 2, 50_000, 11)):
        monkeypatch.setattr(threads, "count", lambda count=count: count)
        monkeypatch.setattr(lanes, "BLOCK_BYTES", block)
        monkeypatch.setattr(lanes, "CALL_SECONDS", 1e-9)
        some = ensemble(n)
        some.fit(X, Y, **arguments, log_every=log_every)
        np.testing.assert_array_equal(some.parameters.flat, whole.parameters.flat[:n])
    picked = ensemble(70)[[3, 60, 61, 5]]
    picked.fit(X, Y, **arguments)
    np.testing.assert_array_equal(picked.parameters.flat, whole.parameters.flat[[3, 60, 61, 5]])


@pytest.mark.parametrize("sampling", ["permutation", "replacement", "sequential"])
def test_networks_draw_rows_of_their_own(sampling):
    many = ensemble(4, layers=[nnk.Dense(2, 1, weight_initializer="zeros", bias=False)])
    many.fit(X, Y, **QUICK | {"steps": 1, "sampling": sampling}, optimizer=nnk.SGD(0.1), plan="lanes")
    assert len({row.tobytes() for row in many.parameters.flat}) == (1 if sampling == "sequential" else 4)


def test_a_second_fit_goes_on_as_the_network_alone_does():
    many, optimizer = ensemble(3), nnk.SGD([0.01, 0.02, 0.03], momentum=0.9)
    net = nnk.Sequential(*LAYERS, device="numba", rng=many.rng(1))
    for _ in range(2):
        many.fit(X, Y, **QUICK, optimizer=optimizer, plan="lanes")
        net.fit(X, Y, **QUICK, optimizer=optimizer.of(1), plan="lanes")
    np.testing.assert_array_equal(many.parameters.flat[1], net.parameters.flat)
    again = many[1]
    again.fit(X, Y, **QUICK, optimizer=optimizer.of(1), plan="lanes")
    net.fit(X, Y, **QUICK, optimizer=optimizer.of(1), plan="lanes")
    np.testing.assert_array_equal(again.parameters.flat, net.parameters.flat)


@pytest.mark.parametrize("plan", ["lanes", "composed"])
def test_weights_of_its_own_are_a_networks_held_out_rows(plan):
    many, weight = ensemble(3), np.ones((3, 30))
    weight[0, :10] = weight[2, 20:] = 0
    optimizer = nnk.SGD(0.05)
    many.fit(X, Y, **QUICK, optimizer=optimizer, sample_weight=weight, plan=plan)
    for i in range(3):
        net, _ = alone(many, i, X, Y, plan=plan, **QUICK, optimizer=optimizer, sample_weight=weight[i])
        np.testing.assert_allclose(many.parameters.flat[i], net.parameters.flat, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", ["cuda"])
def test_weights_of_its_own_on_a_gpu(device):
    weight = RNG.uniform(0, 2, (3, 30))
    flats = []
    for where, plan in (("numpy", "composed"), (device, "generated"), (device, "composed")):
        many = ensemble(3, device=where)
        many.fit(X, Y, **QUICK, optimizer=nnk.Adam([0.01, 0.02, 0.03]), sample_weight=weight, plan=plan)
        flats.append(flat(many))
    np.testing.assert_allclose(flats[1], flats[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(flats[2], flats[0], rtol=1e-4, atol=1e-5)


# ---- networks that end before the others -----------------------------------------------------------------------------

LINEAR = nnk.Dense(2, 3), nnk.Dense(3, 1)
WILD = [0.01, 1e4, 0.02, 300.0, 0.03]


@pytest.mark.parametrize(("device", "plan"), [(device, plan) for device, plans in WAYS.items() for plan in plans])
def test_a_network_that_diverges_is_frozen_and_the_others_do_not_notice(device, plan):
    many, calm = (ensemble(5, layers=LINEAR, device=device) for _ in range(2))
    history = many.fit(X, Y, **QUICK, optimizer=nnk.SGD(WILD), plan=plan, log_every=10)
    calm.fit(X, Y, **QUICK, optimizer=nnk.SGD([0.01, 0, 0.02, 0, 0.03]), plan=plan, log_every=10)
    np.testing.assert_array_equal(history.diverged >= 0, [False, True, False, True, False])
    np.testing.assert_array_equal(flat(many)[::2], flat(calm)[::2])
    assert np.isfinite(flat(many)).all()
    assert np.isnan(many.losses[[1, 3], -1]).all()
    assert np.isfinite(many.losses[::2]).all()
    assert many[history.diverged < 0].n == 3
    for i in (1, 3):
        net = nnk.Sequential(*LINEAR, device=device, rng=many.rng(i))
        with pytest.raises(nnk.DivergenceError) as caught:
            net.fit(X, Y, **QUICK, optimizer=nnk.SGD(WILD[i]), plan=plan)
        assert caught.value.step == history.diverged[i]
        np.testing.assert_allclose(flat(many)[i], on_host(net.parameters.flat), rtol=1e-3)


@pytest.mark.parametrize(("device", "plan"), [(device, plan) for device, plans in WAYS.items() for plan in plans])
def test_each_network_stops_early_by_itself(device, plan):
    many, optimizer, rule = ensemble(4, device=device), nnk.SGD([0.3, 0.02, 0.0, 0.1]), {"patience": 2}
    arguments = QUICK | {"validation_data": (X[:9], Y[:9]), "log_every": 3}
    history = many.fit(X, Y, **arguments, optimizer=optimizer, plan=plan, callbacks=[nnk.EarlyStopping(**rule)])
    assert history.stopped[2] == 9  # at log points 3 (the best), 6 and 9
    for i in range(4):
        rule_ = nnk.EarlyStopping(**rule)
        net, single = alone(many, i, X, Y, plan=plan, **arguments, optimizer=optimizer, callbacks=[rule_])
        stopped = history.stopped[i] if history.stopped[i] >= 0 else 40
        assert stopped == single.steps[-1]
        np.testing.assert_allclose(flat(many)[i], on_host(net.parameters.flat), rtol=2e-5, atol=1e-6)
        assert np.isnan(history.losses[i, history.steps > stopped]).all()


def test_a_network_that_has_stopped_costs_nothing_more(monkeypatch):
    taken = []
    advance = lanes.NetworksRun.advance
    monkeypatch.setattr(
        lanes.NetworksRun,
        "advance",
        lambda self, members, *steps: taken.append(len(members)) or advance(self, members, *steps),
    )
    ensemble(4).fit(
        X,
        Y,
        **QUICK | {"log_every": 10},
        optimizer=nnk.SGD([0.01, 0.0, 0.0, 0.02]),
        plan="lanes",
        validation_data=(X, Y),
        callbacks=nnk.EarlyStopping(patience=1),
    )
    assert taken[:2] == [4, 4]
    assert taken[-1] <= 2


def test_callbacks_see_every_network_and_may_stop_the_run():
    seen = []

    def look(progress):
        seen.append((progress.step, progress.losses.shape, progress.active.sum(), progress.loss))
        if progress.step >= 20:
            progress.stop()

    history = ensemble(3).fit(X, Y, **QUICK, optimizer="adam", log_every=10, callbacks=look)
    assert [step for step, *_ in seen] == history.steps.tolist() == [10, 20]
    assert seen[0][1:3] == ((3,), 3)
    assert np.isclose(seen[1][3], history.losses[:, 1].mean())


# ---- what an ensemble answers ----------------------------------------------------------------------------------------


def test_predictions_are_those_of_the_networks(device):
    many = ensemble(3, device=device)
    expected = np.stack([on_host(net.predict(X)) for net in many])
    tolerance = {"rtol": relative("float32", "gradient"), "atol": 1e-6}
    np.testing.assert_allclose(many.predict(X), expected, **tolerance)
    np.testing.assert_allclose(many(np.stack([X] * 3)), expected, **tolerance)
    np.testing.assert_allclose(many.mean(X), expected.mean(0), **tolerance)
    np.testing.assert_allclose(many.std(X), expected.std(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(many.quantile(X, [0.2, 0.5]), np.quantile(expected, [0.2, 0.5], axis=0), **tolerance)
    losses = [net.evaluate(X, Y, loss="huber") for net in many]
    np.testing.assert_allclose(many.evaluate(X, Y, loss="huber"), losses, rtol=1e-5)
    best = many.best(X, Y, loss="huber")
    assert best.key == many.rng(int(np.argmin(losses)))
    moved = many.device.kernels.from_host(X.astype(np.float32))
    np.testing.assert_allclose(on_host(many.predict(moved)), expected, **tolerance)


def test_rows_in_blocks_answer_alike(monkeypatch):
    from nnkernels import _ensemble_data

    many, y = ensemble(5), np.stack([Y] * 5)
    whole = many.predict(X), many.mean(X), many.evaluate(X, y, loss="huber")
    monkeypatch.setattr(_ensemble_data, "NUMBERS_AT_ONCE", 40)
    again = many.predict(X), many.mean(X), many.evaluate(X, y, loss="huber")
    for first, second in zip(whole, again, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_an_index_copies():
    many = ensemble(6)
    many.fit(X, Y, **QUICK, optimizer="adam")
    one, some, masked = many[-1], many[1:3], many[np.arange(6) % 2 == 0]
    assert isinstance(one, nnk.Sequential)
    assert one.key == many.rng(5)
    np.testing.assert_array_equal(one.parameters.flat, many.parameters.flat[5])
    np.testing.assert_array_equal(some.losses, many.losses[1:3])
    assert [masked.rng(i) for i in range(3)] == [many.rng(i) for i in (0, 2, 4)]
    one.parameters.flat[...] = 0
    assert many.parameters.flat[5].any()
    assert len(list(many)) == len(many) == 6
    with pytest.raises(IndexError):
        many[6]
    with pytest.raises(IndexError, match="picks one network, or some"):
        many[[]]


def test_a_file_holds_all_networks(tmp_path):
    many = ensemble(6, layers=LINEAR)[[1, 4]]
    many.fit(X, Y, **QUICK, optimizer=nnk.SGD([1e4, 0.1]))
    many.save(tmp_path / "many.safetensors")
    again = nnk.load(tmp_path / "many.safetensors", device="numba")
    assert isinstance(again, nnk.Ensemble)
    np.testing.assert_array_equal(again.parameters.flat, many.parameters.flat)
    np.testing.assert_array_equal(again.diverged, many.diverged)
    for one in (many, again):
        one.fit(X, Y, **QUICK, optimizer=nnk.SGD([0.001, 0.1]))
    np.testing.assert_array_equal(again.parameters.flat, many.parameters.flat)
    text = (tmp_path / "many.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(text[: len(text) // 2])
    with pytest.raises(nnk.ModelFileError):
        nnk.load(tmp_path / "half.safetensors")


# ---- bad input -------------------------------------------------------------------------------------------------------

WRONG = {
    "n = 0": (lambda: ensemble(0), ValueError, "n must be at least 1, not 0"),
    "n < 0": (lambda: ensemble(-3), ValueError, "n must be at least 1, not -3"),
    "one layer": (lambda: ensemble(layers=LAYERS[0]), TypeError, "sequence of Dense"),
    "rates": (lambda: fitted(optimizer=nnk.SGD([0.1, 0.2])), ValueError, "lr has 2 numbers, and the ensemble 5"),
    "a bad rate": (lambda: nnk.SGD([0.1, -0.2]), ValueError, "lr must be at least 0, not -0.2"),
    "a NaN rate": (lambda: nnk.SGD([0.1, np.nan]), ValueError, "lr must be at least 0"),
    "no rates": (lambda: nnk.Adam([]), TypeError, "lr must be a number, or one for each network"),
    "x of others": (lambda: fitted(x=np.zeros((4, 30, 2))), nnk.ShapeError, "leading axis of 4, and the ensemble 5"),
    "y of others": (lambda: fitted(y=np.zeros((4, 30, 1))), nnk.ShapeError, "y has a leading axis of 4"),
    "columns": (lambda: fitted(x=np.zeros((5, 30, 3))), nnk.ShapeError, "2 inputs"),
    "rows": (lambda: fitted(y=Y[:7]), nnk.ShapeError, "x has 30 rows and y has 7"),
    "NaN": (lambda: fitted(x=X * np.nan), nnk.DataError, "x has the value nan"),
    "weights": (lambda: fitted(sample_weight=np.ones((4, 30))), nnk.ShapeError, "sample_weight must have the shape"),
    "no weights": (lambda: fitted(sample_weight=np.zeros((5, 30))), nnk.DataError, "zero in every row"),
    "plan": (lambda: fitted(plan="generated"), nnk.PlanError, "is not there for an ensemble"),
    "two rules": (lambda: fitted(callbacks=[nnk.EarlyStopping(), nnk.EarlyStopping()]), ValueError, "takes one"),
    "validation": (lambda: fitted(validation_data=X), TypeError, "validation_data must be"),
    "predict": (lambda: ensemble().predict(np.zeros((3, 7, 2))), nnk.ShapeError, "leading axis of 3"),
}


def fitted(x=X, y=Y, **arguments):
    many = ensemble()
    before = many.parameters.flat.copy()
    try:
        many.fit(x, y, **QUICK | {"optimizer": "adam"} | arguments)
    finally:
        np.testing.assert_array_equal(many.parameters.flat, before)
        assert many.fits == 0


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_one_error_before_anything_is_changed(what):
    wrong, error, text = WRONG[what]
    with pytest.raises(error, match=text):
        wrong()


def test_a_single_network_takes_no_arrays():
    net = nnk.Sequential(*LAYERS, device="numpy", rng=0)
    with pytest.raises(ValueError, match="lr has a number for each of several networks"):
        net.fit(X, Y, **QUICK, optimizer=nnk.Adam([0.1, 0.2]))
    assert nnk.Adam([0.1, 0.2]) == nnk.Adam(np.array([0.1, 0.2]))
    assert len({nnk.Adam([0.1, 0.2]), nnk.Adam((0.1, 0.2))}) == 1


def test_the_plan_is_lanes_for_small_networks_and_says_so():
    many = ensemble(1000)
    plan = many.plan(X, Y, **QUICK, optimizer="adam")
    assert plan.way == "lanes"
    assert "1,000 times" in plan.explain()
    assert "A network in each lane" in plan.source
    assert "lanes" not in nnk.Sequential(*LAYERS, device="numba").plan(X, Y, **QUICK).explain()
    assert repr(many).startswith("Ensemble(1,000 x ")


def test_consecutive_numbers_are_found():
    assert consecutive(np.array([4, 5, 6, 2, 9, 10])) == [(slice(0, 3), 4), (slice(3, 4), 2), (slice(4, 6), 9)]


def test_ctrl_c_leaves_every_network_at_the_end_of_a_chunk():
    many, reference_ = ensemble(20), ensemble(20)

    def interrupt(progress):
        if progress.step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        many.fit(X, Y, **QUICK, optimizer="adam", log_every=10, callbacks=interrupt)
    reference_.fit(X, Y, **QUICK | {"steps": 20}, optimizer="adam", log_every=10)
    np.testing.assert_array_equal(many.parameters.flat, reference_.parameters.flat)
    assert many.losses.shape == (20, 2)
