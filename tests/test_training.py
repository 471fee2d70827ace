"""What fit promises: the arithmetic of a hand-written loop, on every device, in any chunks, and nothing lost."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import on_host
from hypothesis import given
from hypothesis import strategies as st
from tolerances import relative

import nnkernels as nnk
from nnkernels._plan import Plan
from nnkernels.testing import StrictBackend, temporary_backend

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(23, 3)), RNG.normal(size=(23, 2))
LABELS = RNG.integers(0, 2, 23)
LAYERS = nnk.Dense(3, 6, activation="sigmoid"), nnk.Dense(6, 4, activation="tanh"), nnk.Dense(4, 2)


def network(device, dtype="float64", layers=LAYERS, rng=3):
    return nnk.Sequential(*layers, device=device, dtype=dtype, rng=rng)


def same(first, second):
    tolerance = relative(first.dtype, "trajectory")
    for name, value in first.parameters.to_host().items():
        np.testing.assert_allclose(
            second.parameters.to_host()[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


def with_chunk(net, chunk, **arguments):
    """Return the plan that fit would choose, with another chunk length."""
    plan = net.plan(X, Y, **arguments)
    return Plan(plan.way, plan.reason, plan.work, chunk, plan.seconds)


# ---- the arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 23], ids="batch={}".format)
def test_sequential_sampling_is_the_hand_written_loop_short_last_batch_included(device, batch_size):
    net, by_hand = network(device), network("numpy")
    history = net.fit(
        X, Y, loss="half_squared_error", optimizer=nnk.SGD(0.1), batch_size=batch_size, epochs=3, sampling="sequential"
    )
    losses = []
    for _ in range(3):
        for start in range(0, len(X), batch_size):
            rows = slice(start, start + batch_size)
            loss, gradients = by_hand.loss_and_gradients(X[rows], Y[rows], loss="half_squared_error")
            losses.append(loss)
            for name, gradient in gradients.items():
                by_hand.parameters[name] = by_hand.parameters[name] - 0.1 * gradient
    same(by_hand, net)
    assert history.steps[-1] == len(losses)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-9)


OPTIMIZERS = {
    "sgd": nnk.SGD(0.05),
    "momentum": nnk.SGD(0.02, momentum=0.9, weight_decay=1e-3),
    "nesterov": nnk.SGD(0.02, momentum=0.9, nesterov=True),
    "adam": nnk.Adam(0.01, l1=1e-4, l2=1e-3),
    "adamw": nnk.AdamW(0.01, clip_norm=0.5),
    "rmsprop": nnk.RMSprop(0.002, clip_value=0.1, schedule=nnk.WarmUp(50, nnk.CosineSchedule(2000))),
}


@pytest.mark.parametrize("sampling", ["permutation", "replacement", "sequential"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_devices_agree_over_a_thousand_steps(optimizer, sampling, dtype):
    trained = []
    for device in ("numpy", "numba"):
        net = network(device, dtype)
        net.fit(X, Y, loss="mean_squared_error", optimizer=optimizer, batch_size=4, steps=1000, sampling=sampling)
        trained.append(net)
    same(*trained)


def test_dropout_agrees_across_devices_and_is_off_in_prediction():
    layers = nnk.Dense(3, 16, activation="relu", dropout=0.5), nnk.Dense(16, 8, dropout=0.25), nnk.Dense(8, 2)
    trained = [network(device, layers=layers) for device in ("numpy", "numba")]
    for net in trained:
        net.fit(X, Y, loss="huber", optimizer=nnk.Adam(0.01), batch_size=4, steps=300)
    same(*trained)
    without = network("numpy", layers=[layer.replace(dropout=0.0) for layer in layers])
    without.parameters.update(trained[0].parameters.to_host())
    np.testing.assert_array_equal(without(X), trained[0](X))


def test_dropout_keeps_the_expected_gradient(real_device):
    """With a linear network and outputs, the mean over many masked steps is the gradient without dropout."""
    layers = nnk.Dense(3, 50, dropout=0.3), nnk.Dense(50, 1)
    net = network(real_device, layers=layers)
    before = net.parameters.to_host()
    total = 0
    rate = 1e-6
    steps = 4000
    net.fit(X, Y[:, :1], loss="absolute_error", optimizer=nnk.SGD(rate), steps=steps)
    _, gradients = network("numpy", layers=layers).loss_and_gradients(X, Y[:, :1], loss="absolute_error")
    total = (before["1.bias"] - net.parameters.to_host()["1.bias"]) / (rate * steps)
    np.testing.assert_allclose(total, gradients["1.bias"], atol=0.1)


def test_l2_weighs_weights_and_not_biases(device):
    net = network(device, layers=[nnk.Dense(1, 1, weight_initializer="ones", bias_initializer="ones")])
    net.fit([0.0], [1.0], loss="half_squared_error", optimizer=nnk.SGD(0.1, l2=0.5), steps=1)
    assert float(on_host(net.parameters["0.weight"])[0, 0]) == pytest.approx(1 - 0.1 * 0.5)
    assert float(on_host(net.parameters["0.bias"])[0]) == 1


def test_a_weight_of_two_is_a_row_given_twice(device):
    weight = RNG.integers(0, 3, 23)
    weighted, repeated = network(device), network(device)
    arguments = {"loss": "mean_squared_error", "optimizer": nnk.SGD(0.1), "steps": 20}
    weighted.fit(X, Y, sample_weight=weight, **arguments)
    repeated.fit(np.repeat(X, weight, axis=0), np.repeat(Y, weight, axis=0), **arguments)
    same(weighted, repeated)


@pytest.mark.parametrize("batch_size", [1, 4], ids="batch={}".format)
def test_weights_count_in_the_smallest_batch_too(device, batch_size):
    """By hand: each row's gradient times its weight over the mean weight of all rows, over the rows of the batch."""
    weight = RNG.uniform(0, 5, 23)
    net, by_hand = network(device), network("numpy")
    net.fit(
        X,
        Y,
        loss="half_squared_error",
        optimizer=nnk.SGD(0.05),
        batch_size=batch_size,
        sampling="sequential",
        sample_weight=weight,
    )
    for start in range(0, 23, batch_size):
        rows = range(start, min(start + batch_size, 23))
        total = dict.fromkeys(by_hand.parameters, 0.0)
        for row in rows:
            _, gradients = by_hand.loss_and_gradients(X[[row]], Y[[row]], loss="half_squared_error")
            for name, gradient in gradients.items():
                total[name] = total[name] + gradient * weight[row] / weight.mean() / len(rows)
        by_hand.parameters = {name: by_hand.parameters[name] - 0.05 * gradient for name, gradient in total.items()}
    same(by_hand, net)


@pytest.mark.parametrize(
    ("class_weight", "weights"),
    [({1: 3.0}, [1, 3]), ([0.5, 2.0], [0.5, 2]), ("balanced", None)],
    ids=["mapping", "sequence", "balanced"],
)
@pytest.mark.parametrize("loss", [nnk.BinaryCrossEntropy, nnk.CategoricalCrossEntropy])
def test_class_weights_are_row_weights(device, loss, class_weight, weights):
    counts = np.bincount(LABELS)
    weights = np.array(weights if weights else len(LABELS) / (2 * counts))
    layers = (*LAYERS[:2], nnk.Dense(4, 2 if loss is nnk.CategoricalCrossEntropy else 1))
    by_class, by_row = network(device, layers=layers), network(device, layers=layers)
    arguments = {"optimizer": nnk.SGD(0.1), "batch_size": 6, "steps": 20}
    by_class.fit(X, LABELS, loss=loss(class_weight=class_weight), **arguments)
    by_row.fit(X, LABELS, loss=loss(), sample_weight=weights[LABELS], **arguments)
    same(by_class, by_row)


def test_class_indices_and_one_hot_rows_are_the_same_targets(device):
    trained = []
    for y in (LABELS, LABELS.astype(float), np.eye(2)[LABELS], LABELS[:, None]):
        trained.append(network(device))
        trained[-1].fit(X, y, loss="categorical_cross_entropy", optimizer="sgd", batch_size=5, steps=7)
    for other in trained[1:]:
        np.testing.assert_array_equal(other(X), trained[0](X))


def test_a_softmax_layer_and_its_logits_train_alike(device):
    softmax = network(device, layers=(*LAYERS[:2], nnk.Dense(4, 2, activation="softmax")))
    logits = network(device)
    for net in (softmax, logits):
        net.fit(X, LABELS, loss="categorical_cross_entropy", optimizer="adam", steps=50)
    odds = np.exp(logits(X))
    np.testing.assert_allclose(softmax(X), odds / odds.sum(axis=1, keepdims=True), rtol=1e-12)


# ---- chunks, seeds, logs ---------------------------------------------------------------------------------------------


@given(chunk=st.integers(1, 40), log_every=st.integers(1, 60))
def test_chunk_and_log_lengths_do_not_change_a_bit(device, chunk, log_every):
    layers = nnk.Dense(3, 6, activation="sigmoid", dropout=0.2), nnk.Dense(6, 2)
    arguments = {"loss": "half_squared_error", "optimizer": nnk.Adam(0.01), "batch_size": 4, "steps": 57}
    whole, chopped = network(device, layers=layers), network(device, layers=layers)
    whole.fit(X, Y, **arguments)
    history = chopped.fit(X, Y, plan=with_chunk(chopped, chunk, **arguments), log_every=log_every, **arguments)
    np.testing.assert_array_equal(chopped(X), whole(X))
    assert history.steps.tolist() == [*range(log_every, 57, log_every), 57]


def test_the_logged_loss_is_the_mean_since_the_last_log(device):
    arguments = {"loss": "half_squared_error", "optimizer": nnk.SGD(0.05), "batch_size": 4, "steps": 60}
    every = network(device).fit(X, Y, log_every=1, **arguments)
    tenth = network(device).fit(X, Y, log_every=10, **arguments)
    np.testing.assert_allclose(tenth.loss, every.loss.reshape(6, 10).mean(axis=1), rtol=1e-12)
    assert len(network(device).fit(X, Y, **(arguments | {"steps": 1000})).loss) == 100


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(device):
    def train(rng):
        net = network(device, "float32", rng=rng)
        net.fit(X, Y, loss="half_squared_error", batch_size=4, steps=100)
        return net(X)

    np.testing.assert_array_equal(train(5), train(5))
    np.testing.assert_array_equal(train(np.random.default_rng(5)), train(np.random.default_rng(5)))
    assert not np.array_equal(train(5), train(6))
    assert not np.array_equal(train(None), train(None))


def test_a_second_fit_continues_the_weights_with_fresh_state_and_another_order(device):
    arguments = {"loss": "half_squared_error", "optimizer": nnk.Adam(0.01), "batch_size": 1, "steps": 23}
    first = network(device)
    orders = []
    for _ in range(2):
        before = first.parameters.to_host()
        first.fit(X, Y, **arguments)
        again = network(device)
        again.parameters.update(before)
        again.fit(X, Y, **arguments)  # the same start and state, the first fit's order
        orders.append(np.array_equal(again(X), first(X)))
    assert orders == [True, False]


WAYS = [("numpy", "composed"), ("numba", "composed"), ("numba", "generic"), ("numba", "generated")]


@pytest.mark.parametrize(("device", "way"), WAYS)
def test_a_run_that_nobody_watches_logs_what_a_watched_one_does(device, way):
    """The one stops at every log point, the other at the ends of its chunks."""
    watched, alone = network(device), network(device)
    arguments = {"loss": "huber", "batch_size": 5, "steps": 103, "log_every": 7, "plan": way}
    expected = watched.fit(X, Y, callbacks=lambda progress: None, **arguments)
    got = alone.fit(X, Y, **arguments)
    np.testing.assert_array_equal(alone.parameters.to_host()["0.weight"], watched.parameters.to_host()["0.weight"])
    assert got.steps.tolist() == expected.steps.tolist() == [*range(7, 103, 7), 103]
    np.testing.assert_allclose(got.loss, expected.loss, rtol=1e-12)


@pytest.mark.parametrize(("device", "way"), WAYS)
@pytest.mark.parametrize("batch_size", [None, 5])
def test_data_on_the_host_may_be_read_only(device, way, batch_size):
    x, y = X.copy(), Y.copy()
    x.flags.writeable = y.flags.writeable = False
    network(device).fit(x, y, loss="huber", batch_size=batch_size, steps=9, plan=way)


def test_validation_loss_is_that_of_the_logged_weights(device):
    net = network(device)
    seen, weight = [], np.arange(1, 9)

    def by_hand(progress):
        error = progress.network.predict(X[15:]) - Y[15:]
        seen.append((weight * (error**2).mean(axis=1)).sum() / weight.sum())

    history = net.fit(
        X[:15],
        Y[:15],
        loss="mean_squared_error",
        steps=30,
        log_every=10,
        validation_data=(X[15:], Y[15:], weight),
        callbacks=by_hand,
    )
    np.testing.assert_allclose(history.validation_loss, seen, rtol=1e-12)


def test_evaluate_is_the_loss_of_loss_and_gradients_for_more_rows_than_a_block(device):
    net = network(device)
    x, y = np.tile(X, (400, 1)), np.tile(Y, (400, 1))
    value, _ = net.loss_and_gradients(x, y, loss="huber")
    assert net.evaluate(x, y, loss="huber") == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(net(x)[-23:], net(X), rtol=1e-12)


# ---- callbacks, and what goes wrong ----------------------------------------------------------------------------------


def test_callbacks_see_the_run_and_can_stop_it(device):
    class Recorder(nnk.Callback):
        calls = ()

        def on_train_begin(self, progress):
            self.calls += (("begin", progress.step),)

        def on_log(self, progress):
            self.calls += (("log", progress.step),)
            if progress.step == 20:
                progress.stop()

        def on_train_end(self, progress):
            self.calls += (("end", progress.step),)

    recorder = Recorder()
    history = network(device).fit(X, Y, loss="huber", steps=50, log_every=10, callbacks=[recorder])
    assert recorder.calls == (("begin", 0), ("log", 10), ("log", 20), ("end", 20))
    assert history.steps.tolist() == [10, 20]


def test_early_stopping_brings_back_the_best_weights(device):
    net = network(device)
    history = net.fit(
        X[:4],
        Y[:4],
        loss="mean_squared_error",
        optimizer=nnk.Adam(0.05),
        steps=2000,
        log_every=5,
        validation_data=(X[4:], Y[4:]),
        callbacks=nnk.EarlyStopping(patience=3),
    )
    assert history.steps[-1] < 2000
    best = history.validation_loss.min()
    assert net.evaluate(X[4:], Y[4:], loss="mean_squared_error") == pytest.approx(best, rel=1e-9)
    assert history.validation_loss[-1] > best


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_an_update_that_overflows_is_a_divergence_and_not_a_standstill(device, optimizer):
    """A gradient whose square is beyond float32 would make every later update zero."""
    net = network(device, "float32", layers=[nnk.Dense(3, 2)])
    net.fit(X, Y, loss="huber", optimizer=optimizer, steps=1)
    before = net.parameters.to_host()
    with pytest.raises(nnk.DivergenceError, match="at step 0"):
        net.fit(X * 1e25, Y, loss=nnk.AbsoluteError(reduction="sum"), optimizer=optimizer, steps=10)
    for name, value in before.items():
        np.testing.assert_array_equal(on_host(net.parameters[name]), value)


def test_a_run_that_is_stopped_before_it_begins_has_an_empty_history(device):
    class Never(nnk.Callback):
        def on_train_begin(self, progress):
            progress.stop()

    history = network(device).fit(X, Y, loss="huber", steps=10, callbacks=Never())
    assert "no steps" in repr(history)
    assert (len(history.loss), history.validation_loss, history.steps_per_second) == (0, None, 0)


def test_a_network_cannot_be_moved_from_under_its_run():
    net = network("numpy")
    with pytest.raises(RuntimeError, match="moved to another device while it was training"):
        net.fit(X, Y, loss="huber", steps=10, callbacks=lambda progress: progress.network.to("numba"))


def test_ctrl_c_ends_a_compiled_run_at_its_last_finished_chunk(unwatched):
    """A real SIGINT in a process of its own; the weights must be those of a whole number of chunks."""
    code = """
import os, signal, threading, numpy as np, nnkernels as nnk
rng = np.random.default_rng(0)
x = rng.normal(size=(500, 20))
arguments = {"loss": "huber", "batch_size": 16}
def make(): return nnk.Sequential(nnk.Dense(20, 16, activation="tanh"), nnk.Dense(16, 1), device="numba", rng=0)
make().fit(x, x[:, 0], steps=2, plan="generated", **arguments)
net = make()
chunk = net.plan(x, x[:, 0], steps=10**7, **arguments).chunk
threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    net.fit(x, x[:, 0], steps=10**7, log_every=chunk, **arguments)
except KeyboardInterrupt:
    pass
reached = []
def compare(progress):
    if np.array_equal(progress.network.parameters.flat, net.parameters.flat):
        reached.append(progress.step)
        progress.stop()
make().fit(x, x[:, 0], steps=10**7, log_every=chunk, callbacks=compare, **arguments)
assert reached and reached[0] % chunk == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=unwatched)


def test_divergence_names_the_step_and_keeps_the_weights_before_it(device):
    arguments = {"loss": "half_squared_error", "optimizer": nnk.SGD(50.0), "batch_size": 3}
    layers = [nnk.Dense(3, 2)]
    net = network(device, "float32", layers=layers)
    with pytest.raises(nnk.DivergenceError, match="learning rate") as caught:
        net.fit(X, Y, steps=5000, **arguments)
    step = caught.value.step
    assert 0 < step < 5000
    before = network(device, "float32", layers=layers)
    before.fit(X, Y, steps=step, **arguments)
    np.testing.assert_array_equal(on_host(before.parameters.flat), on_host(net.parameters.flat))
    assert np.isfinite(on_host(before.parameters.flat)).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_chunk_leaves_the_last_finished_one(monkeypatch, error):
    net, reference = network("numpy"), network("numpy")
    arguments = {"loss": "half_squared_error", "optimizer": nnk.SGD(0.1), "steps": 100}
    plan = with_chunk(net, 10, **arguments)
    reference.fit(X, Y, loss="half_squared_error", optimizer=nnk.SGD(0.1), steps=30)
    kernels, calls = nnk.device("numpy").kernels, 0
    update = kernels.sgd_update

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        update(*args, **kwargs)
        if calls == 36:  # within the fourth chunk
            raise error

    monkeypatch.setattr(kernels, "sgd_update", interrupted)
    with pytest.raises(error):
        net.fit(X, Y, plan=plan, log_every=100, **arguments)
    np.testing.assert_array_equal(net.parameters.flat, reference.parameters.flat)


def test_a_callback_that_raises_leaves_the_weights_of_its_log_point(device):
    def fail(progress):
        if progress.step == 20:
            raise RuntimeError("mine")

    net, reference = network(device), network(device)
    with pytest.raises(RuntimeError, match="mine"):
        net.fit(X, Y, loss="huber", steps=50, log_every=10, callbacks=fail)
    reference.fit(X, Y, loss="huber", steps=20)
    np.testing.assert_array_equal(net(X), reference(X))


# ---- the data's way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["permutation", "replacement", "sequential"])
@pytest.mark.parametrize("batch_size", [None, 4], ids=["full batch", "batch=4"])
def test_a_training_loop_makes_no_hidden_round_trip(batch_size, sampling):
    """The strict backend's arrays refuse to be read. Copies to the device do not grow with steps or log points; copies
    from it are as many at every log point: the losses, and a look whether parameters and state are numbers."""
    copies = []
    for steps, logs in ((50, 5), (500, 5), (500, 10)):
        strict = StrictBackend()
        with temporary_backend("strict", strict):
            net = nnk.Sequential(
                nnk.Dense(3, 4, activation="gelu", dropout=0.1), nnk.Dense(4, 2), device="strict", dtype="float64"
            )
            net.fit(
                X,
                Y,
                loss="mean_squared_error",
                optimizer=nnk.Adam(0.01, l2=0.1, clip_norm=1.0, schedule=nnk.CosineSchedule(500)),
                batch_size=batch_size,
                sampling=sampling,
                sample_weight=np.arange(1, 24),
                steps=steps,
                log_every=steps // logs,
                validation_data=(X, Y),
            )
        copies.append((strict.from_host_calls, strict.to_host_calls / logs))
    assert copies[0] == copies[1] == copies[2]


def test_arrays_of_the_networks_own_device_are_taken():
    strict, reference = StrictBackend(), network("numpy")
    with temporary_backend("strict", strict):
        net = network("strict")
        x, y = strict.from_host(X), strict.from_host(Y)
        net.fit(x, y, loss="huber", steps=5)
        reference.fit(X, Y, loss="huber", steps=5)
        assert net.evaluate(x, y, loss="huber") == reference.evaluate(X, Y, loss="huber")
        np.testing.assert_array_equal(strict.to_host(net.predict(x)), reference.predict(X))
        net.parameters["2.bias"] = strict.from_host(np.array([1.0, 2.0]))
        np.testing.assert_array_equal(net.parameters.to_host()["2.bias"], [1, 2])


@pytest.mark.parametrize("read", [float, bool, list, len, np.asarray, lambda a: np.add(a, 1), lambda a: a.tolist()])
def test_a_strict_array_refuses_to_be_read(read):
    array = StrictBackend().from_host(np.ones(3))
    with pytest.raises(TypeError):
        read(array)


def test_concurrent_predictions_do_not_disturb_each_other(device):
    from concurrent.futures import ThreadPoolExecutor

    net = network(device)
    expected = net(X)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(net, [X] * 200):
            np.testing.assert_array_equal(result, expected)
