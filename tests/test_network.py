"""Sequential, its layers, parameters and initializers."""

import copy
import inspect
import pickle

import numpy as np
import pytest
from conftest import on_host

import nnkernels as nnk

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def network(device="numpy", **kwargs):
    return nnk.Sequential(nnk.Dense(3, 4, activation="tanh"), nnk.Dense(4, 2), device=device, rng=0, **kwargs)


def test_a_dense_layer_is_x_at_w_plus_b(device, dtype):
    net = nnk.Sequential(nnk.Dense(3, 2), device=device, dtype=dtype)
    assert net.parameters["0.weight"].shape == (3, 2)
    net.parameters["0.bias"] = [1.0, -1.0]
    expected = X.astype(float) @ net.parameters.to_host()["0.weight"].astype(float) + [1, -1]
    np.testing.assert_allclose(net(X), expected, rtol=1e-5, atol=1e-6)
    assert net(X).dtype == np.dtype(dtype)


def test_predict_takes_lists_frames_integers_and_one_column(device):
    pandas = pytest.importorskip("pandas")
    net = network(device)
    expected = net.predict(X)
    np.testing.assert_array_equal(net.predict(X.tolist()), expected)
    np.testing.assert_array_equal(net.predict(pandas.DataFrame(X)), expected)
    np.testing.assert_array_equal(net.predict(np.asfortranarray(X)), expected)
    np.testing.assert_array_equal(net(np.ones((1, 3), int)), net(np.ones((1, 3))))
    assert net(np.empty((0, 3))).shape == (0, 2)
    mixed = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1] > 0, "c": [1, 2, 3, 4, 5, 6]})
    expected = net.predict(mixed.astype(float).to_numpy())
    np.testing.assert_array_equal(net.predict(mixed), expected)
    np.testing.assert_array_equal(net.predict(mixed.convert_dtypes()), expected)
    column = nnk.Sequential(nnk.Dense(1, 2), device=device)
    np.testing.assert_array_equal(column([1, 2]), column([[1.0], [2.0]]))


def test_predict_returns_a_copy_that_is_the_callers_own(device):
    net = nnk.Sequential(nnk.Dense(1, 1), device=device)
    x = np.ones((1, 1), np.float32)
    net(x)[...] = 99
    assert x[0, 0] == 1
    assert net(x)[0, 0] != 99


def test_parameters_are_ordered_views_of_one_buffer(device):
    net = network(device)
    assert list(net.parameters) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert len(net.parameters) == 4
    net.device.kernels.fill(7.5, out=net.parameters["1.weight"][0:1, 1:2])
    assert on_host(net.parameters.flat)[3 * 4 + 4 + 1] == 7.5
    value = np.arange(12.0).reshape(3, 4)
    net.parameters["0.weight"] = value
    value[...] = 0
    np.testing.assert_array_equal(on_host(net.parameters["0.weight"]), np.arange(12).reshape(3, 4))
    assert repr(net.parameters) == "Parameters(0.weight (3, 4), 0.bias (4,), 1.weight (4, 2), 1.bias (2,))"


def test_an_update_changes_all_parameters_or_none():
    net = network()
    before = net.parameters.to_host()
    for bad, error, message in (
        ({"0.bias": np.ones(4), "0.weigth": np.ones((3, 4))}, KeyError, "Did you mean '0.weight'"),
        ({"0.bias": np.ones(4), "0.weight": np.ones((4, 3))}, nnk.ShapeError, r"shape \(3, 4\), not \(4, 3\)"),
        ({"0.bias": np.ones(4), "0.weight": np.full((3, 4), np.nan)}, nnk.DataError, "nan"),
        ({"0.weight": np.full((3, 4), np.nan, np.float32)}, nnk.DataError, "nan"),
        ({"0.bias": [2**24 + 1, 0, 0, 0]}, nnk.DataError, "would truncate"),
    ):
        with pytest.raises(error, match=message):
            net.parameters.update(bad)
    for name, value in before.items():
        np.testing.assert_array_equal(net.parameters[name], value)


def test_parameters_can_be_swapped_and_assigned_as_a_mapping(device):
    net = nnk.Sequential(nnk.Dense(2, 2, bias=False), nnk.Dense(2, 2, bias=False), device=device, rng=0)
    before = net.parameters.to_host()
    net.parameters.update({"0.weight": net.parameters["1.weight"], "1.weight": net.parameters["0.weight"]})
    np.testing.assert_array_equal(on_host(net.parameters["0.weight"]), before["1.weight"])
    np.testing.assert_array_equal(on_host(net.parameters["1.weight"]), before["0.weight"])
    net.parameters = before
    np.testing.assert_array_equal(on_host(net.parameters["0.weight"]), before["0.weight"])
    for name in ("device", "dtype"):
        with pytest.raises(AttributeError):
            setattr(net, name, "float64")


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_a_copy_of_a_network_is_its_own(device, duplicate):
    net = network(device)
    other = duplicate(net)
    np.testing.assert_array_equal(other(X), net(X))
    other.parameters["0.bias"] = np.ones(4)
    assert not np.array_equal(other(X), net(X))
    other.fit(X, X[:, :2], loss="huber", steps=2)


def test_moving_a_network_keeps_its_parameters_and_its_identity():
    net = network("numba")
    expected = net(X)
    assert net.to("numpy") is net
    assert net.device.kind == "numpy"
    np.testing.assert_allclose(net(X), expected, rtol=1e-5, atol=1e-6)
    parameters = net.parameters
    assert net.to("numpy").parameters is parameters
    with pytest.raises(nnk.DeviceError):
        net.to("tpu")
    assert net.device.kind == "numpy"


def test_the_same_seed_starts_every_device_from_the_same_bits(dtype):
    np.testing.assert_array_equal(
        network("numpy", dtype=dtype).parameters.flat, network("numba", dtype=dtype).parameters.flat
    )


def test_a_network_prints_as_the_call_that_makes_it():
    net = nnk.Sequential(
        nnk.Dense(1, 10, activation="sigmoid", bias=False, dropout=0.1), nnk.Dense(10, 1), device="numpy"
    )
    text = (
        "Sequential(\n    Dense(1, 10, activation='sigmoid', bias=False, dropout=0.1),\n    Dense(10, 1),\n"
        "    device='numpy', dtype='float32',\n)"
    )
    assert repr(net) == text
    assert net.n_parameters == 10 + 11


# ---- initializers ----------------------------------------------------------------------------------------------------

SHAPE = (300, 200)


@pytest.mark.parametrize(
    ("initializer", "std", "largest"),
    [
        ("zeros", 0, 0),
        ("ones", 0, 1),
        (nnk.Constant(0.5), 0, 0.5),
        (nnk.Uniform(-1, 1), 1 / 3**0.5, 1),
        ("normal", 0.05, np.inf),
        ("glorot_uniform", (2 / 500) ** 0.5, (6 / 500) ** 0.5),
        ("glorot_normal", (2 / 500) ** 0.5, np.inf),
        ("he_uniform", (2 / 300) ** 0.5, (6 / 300) ** 0.5),
        ("he_normal", (2 / 300) ** 0.5, np.inf),
        ("lecun_uniform", (1 / 300) ** 0.5, (3 / 300) ** 0.5),
        ("lecun_normal", (1 / 300) ** 0.5, np.inf),
    ],
    ids=str,
)
def test_an_initializer_has_its_spread(initializer, std, largest):
    net = nnk.Sequential(nnk.Dense(*SHAPE, weight_initializer=initializer), device="numpy", rng=0)
    weight = net.parameters["0.weight"].astype(float)
    assert weight.std() == pytest.approx(std, rel=0.02)
    assert abs(weight).max() <= largest * (1 + 1e-6)
    assert weight.mean() == pytest.approx(largest if std == 0 else 0, abs=0.01)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)], ids=str)
def test_orthogonal_weights_are_orthonormal(shape):
    net = nnk.Sequential(
        nnk.Dense(*shape, weight_initializer=nnk.Orthogonal(gain=2)), device="numpy", dtype="float64", rng=0
    )
    weight = net.parameters["0.weight"]
    gram = weight @ weight.T if shape[0] < shape[1] else weight.T @ weight
    np.testing.assert_allclose(gram, 4 * np.eye(min(shape)), atol=1e-12)


def test_rectifiers_start_from_he_and_the_rest_from_glorot():
    assert nnk.Dense(2, 2, activation="relu").weight_initializer == nnk.He()
    assert nnk.Dense(2, 2, activation="tanh").weight_initializer == nnk.Glorot()
    assert nnk.Dense(4, 2).bias_initializer == nnk.Uniform(-0.5, 0.5)


# ---- descriptions ----------------------------------------------------------------------------------------------------


def test_descriptions_are_immutable_values():
    optimizer = nnk.SGD(0.1, momentum=0.9)
    with pytest.raises(AttributeError, match=r"replace\(lr=...\)"):
        optimizer.lr = 1
    with pytest.raises(AttributeError, match="cannot be changed"):
        del optimizer.lr
    assert optimizer.replace(lr=0.2) == nnk.SGD(0.2, momentum=0.9) != optimizer
    assert len({nnk.SGD(0.1), nnk.SGD(0.1), nnk.Adam(0.1)}) == 2
    assert eval(repr(optimizer), vars(nnk)) == optimizer
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer


def test_descriptions_have_signatures_that_help_can_show():
    assert str(inspect.signature(nnk.Dense)).startswith("(n_in, n_out, activation=None, bias=True, dropout=0.0")
    assert list(inspect.signature(nnk.BinaryCrossEntropy).parameters) == ["class_weight", "reduction"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nnk.Dense(1), "Dense needs the argument 'n_out': Dense"),
        (lambda: nnk.Dense(1, 2, units=3), "Dense got the argument 'units', which it does not have"),
        (lambda: nnk.Dense(1, 2, n_in=3), "'n_in', twice"),
        (lambda: nnk.SGD(0.1, 0.9, True, 1), "at most 3 positional arguments"),
    ],
)
def test_a_wrong_argument_is_named_with_the_usage(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_warm_up_leads_to_a_schedule_by_name_too():
    assert nnk.WarmUp(2, "inverse_scaling") == nnk.WarmUp(2, nnk.InverseScaling())


def test_ones_own_schedule_initializer_and_loss_are_a_few_lines():
    class Halve(nnk.Schedule):
        def factor(self, step):
            return 0.5 ** (step + 1)

    class Diagonal(nnk.Initializer):
        value: float = 1.0

        def draw(self, rng, shape):
            return self.value * np.eye(*shape)

    net = nnk.Sequential(nnk.Dense(2, 2, weight_initializer=Diagonal(3.0), bias=False), device="numpy")
    np.testing.assert_array_equal(net.parameters["0.weight"], 3 * np.eye(2))
    net.fit([[1, 0]], [[0, 0]], loss="half_squared_error", optimizer=nnk.SGD(1.0, schedule=Halve()), steps=1)
    assert net.parameters["0.weight"][0, 0] == 1.5


def test_the_plan_says_what_it_is_for_and_refuses_other_work():
    net = network()
    y = X[:, :2]
    plan = net.plan(X, y, loss="huber", optimizer="adam", batch_size=2, steps=10)
    text = plan.explain()
    for part in (
        "composed on numpy",
        "10 steps of 2 rows from 6, float32",
        "3 -> 4 tanh -> 2 identity",
        "adam on huber",
    ):
        assert part in text
    assert net.plan(X, y, loss="huber", optimizer="adam", batch_size=2, steps=10) == plan
    history = net.fit(X, y, loss="huber", optimizer="adam", batch_size=2, steps=10, plan=plan)
    assert history.plan == plan
    assert "10 steps" in repr(history)
    with pytest.raises(nnk.PlanError, match="steps was 10, now 11"):
        net.fit(X, y, loss="huber", optimizer="adam", batch_size=2, steps=11, plan=plan)
    with pytest.raises(nnk.PlanError, match='"generated" is not there on numpy'):
        net.fit(X, y, loss="huber", steps=1, plan="generated")
    with pytest.raises(nnk.PlanError, match="Did you mean 'composed'"):
        net.fit(X, y, loss="huber", steps=1, plan="compose")
