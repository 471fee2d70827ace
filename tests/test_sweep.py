"""Sweeps: every configuration is the network that it would be alone, and a bad one spoils nothing."""

import sys

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import _sweep
from nnkernels._sampling import Key

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
Y = np.sin(X.sum(1, keepdims=True))
QUICK = {"loss": "mean_squared_error", "batch_size": 15, "epochs": 5, "rng": 4}


def build(hidden=4, lr=0.01, momentum=0.0, kind="sgd"):
    if hidden < 1:
        raise RuntimeError("no hidden units")
    optimizer = nnk.SGD(lr, momentum=momentum) if kind == "sgd" else nnk.Adam(lr)
    return [nnk.Dense(2, hidden, activation="tanh"), nnk.Dense(hidden, 1)], optimizer


def swept(space, **arguments):
    return nnk.sweep(build, space, X, Y, **QUICK | {"device": "numba"} | arguments)


def test_every_configuration_is_the_network_that_it_is_alone(real_device):
    grid = {"hidden": [3, 5], "lr": [0.01, 0.1], "momentum": [0.0, 0.9], "kind": ["sgd", "adam"]}
    result = swept(grid, device=real_device)
    assert len(result.records) == 16
    for number, record in enumerate(result.records):
        layers, optimizer = build(**{name: record[name] for name in grid})
        net = nnk.Sequential(*layers, device=real_device, rng=Key(4, number))
        net.fit(X, Y, loss="mean_squared_error", optimizer=optimizer, batch_size=15, epochs=5)
        assert np.isclose(record["loss"], net.evaluate(X, Y, loss="mean_squared_error"), rtol=1e-4)
    assert result.best == {name: min(result.records, key=lambda one: one["loss"])[name] for name in grid}


def test_configurations_that_share_a_shape_are_one_ensemble(monkeypatch):
    sizes = []
    fit = nnk.Ensemble.fit
    monkeypatch.setattr(nnk.Ensemble, "fit", lambda self, *args, **kw: sizes.append(self.n) or fit(self, *args, **kw))
    grid = {"hidden": [3, 5], "lr": [0.01, 0.1, 0.2], "momentum": [0.0, 0.9]}
    whole = swept(grid, folds=3)
    assert sizes == [18, 18]
    monkeypatch.setattr(_sweep, "NETWORKS_AT_ONCE", 7)
    parted = swept(grid, folds=3)
    assert sizes[2:] == [6] * 6
    assert parted.records == whole.records
    one = swept([{"hidden": 3, "lr": 0.01, "momentum": 0.0}], folds=3)
    assert one.records[0] == whole.records[0]


def test_a_fold_is_judged_on_rows_that_it_did_not_see():
    y = Y.copy()
    result = swept({"lr": [0.05]}, folds=4)
    assert len(result.records[0]["losses"]) == 4
    assert np.isclose(result.records[0]["loss"], np.mean(result.records[0]["losses"]))
    generator = np.random.default_rng([4, 0x5EED])
    held_out = _sweep._held_out(4, 60, generator)
    assert held_out.sum(0).tolist() == [1] * 60
    layers, optimizer = build(lr=0.05)
    for fold, loss in enumerate(result.records[0]["losses"]):
        net = nnk.Sequential(*layers, device="numba", rng=Key(4, fold))
        weight = 1 - held_out[fold]
        arguments = {"optimizer": optimizer, "sample_weight": weight, "batch_size": 15, "epochs": 5}
        net.fit(X, y, loss="mean_squared_error", **arguments)
        rows = held_out[fold] > 0
        assert np.isclose(loss, net.evaluate(X[rows], y[rows], loss="mean_squared_error"), rtol=1e-4)


def test_a_build_that_raises_is_recorded_and_the_rest_goes_on():
    result = swept({"hidden": [0, 4], "lr": [0.01, 1e9]})
    errors = [record["error"] for record in result.records]
    assert errors == ["RuntimeError: no hidden units"] * 2 + [None] * 2
    assert [record["diverged"] for record in result.records] == [False, False, False, True]
    assert np.isnan([record["loss"] for record in result.records]).tolist() == [True, True, False, True]
    assert result.best == {"hidden": 4, "lr": 0.01}
    wrong = nnk.sweep(
        lambda n_in: [nnk.Dense(n_in, 1)], {"n_in": [3, 2]}, X, Y, **QUICK | {"device": "numba", "refit": False}
    )
    assert "ShapeError" in wrong.records[0]["error"]
    assert wrong.best == {"n_in": 2}
    assert wrong.network is None


def test_the_best_one_is_trained_again_on_all_rows():
    result = swept({"lr": [0.001, 0.1]}, folds=3)
    layers, optimizer = build(lr=0.1)
    net = nnk.Sequential(*layers, device="numba", rng=Key(4, 3))
    net.fit(X, Y, loss="mean_squared_error", optimizer=optimizer, batch_size=15, epochs=5)
    np.testing.assert_array_equal(result.network.parameters.flat, net.parameters.flat)


def test_the_table_is_ranked_and_a_frame_where_pandas_is(monkeypatch):
    result = swept({"lr": [0.001, 1e9, 0.1]})
    frame = result.table
    assert frame["lr"].tolist() == [0.1, 0.001, 1e9]
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert [record["lr"] for record in result.table] == [0.1, 0.001, 1e9]
    assert repr(result) == "SweepResult(3 configurations, 0 failed, best {'lr': 0.1})"


def test_draws_from_sequences_functions_and_distributions():
    from scipy import stats

    space = {"lr": lambda rng: 10 ** rng.uniform(-3, -1), "hidden": [3, 4], "momentum": stats.uniform(0, 0.9)}
    first, again = (swept(space, n=6, refit=False) for _ in range(2))
    assert first.records == again.records
    assert len({record["lr"] for record in first.records}) == 6
    assert {record["hidden"] for record in first.records} == {3, 4}
    judged = swept({"lr": [0.1]}, validation_data=(X[:9], Y[:9]))
    assert np.isclose(
        judged.records[0]["loss"], judged.network.evaluate(X[:9], Y[:9], loss="mean_squared_error"), rtol=1e-3
    )


@pytest.mark.parametrize(
    ("space", "arguments", "error", "text"),
    [
        ({"lr": 0.1}, {}, TypeError, "must be a sequence of values"),
        ({"lr": []}, {}, ValueError, "no configurations"),
        ([], {}, ValueError, "no configurations"),
        ({"lr": [0.1]}, {"n": 0}, ValueError, "n must be at least 1"),
        ([{"lr": 0.1}], {"n": 3}, TypeError, "given already"),
        ({"lr": [0.1]}, {"folds": 1}, ValueError, "folds must be from 2"),
        ({"lr": [0.1]}, {"folds": 61}, ValueError, "folds must be from 2 to the number of rows, 60"),
        ({"lr": [0.1]}, {"folds": 3, "validation_data": (X, Y)}, TypeError, "not both"),
        ({"hidden": [0]}, {}, ValueError, "no configuration could be trained: RuntimeError: no hidden units"),
        ({"nothing": [0]}, {}, ValueError, "no configuration could be trained: TypeError"),
    ],
)
def test_bad_input(space, arguments, error, text):
    with pytest.raises(error, match=text):
        swept(space, **arguments)
