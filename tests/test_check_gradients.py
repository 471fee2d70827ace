"""check_gradients: right gradients agree, wrong ones differ, and what cannot be told is said to be so."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import rosen, rosen_der

import nnkernels as nnk

RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 2))


def parameters():
    rng = np.random.default_rng(1)
    return {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=4), "v": rng.normal(size=(4, 2))}


def loss(p):
    h = np.tanh(X @ p["w"] + p["b"])
    return ((h @ p["v"] - T) ** 2).mean()


def gradient(p):
    h = np.tanh(X @ p["w"] + p["b"])
    d = 2 * (h @ p["v"] - T) / T.size
    back = d @ p["v"].T * (1 - h * h)
    return {"w": X.T @ back, "b": back.sum(0), "v": h.T @ d}


def codes(report):
    return [finding.code for finding in report.findings]


def test_a_right_gradient_agrees():
    report = nnk.check_gradients(loss, gradient, parameters())
    assert report.ok
    assert report.status == {"w": "agrees", "b": "agrees", "v": "agrees"}


@pytest.mark.parametrize("name", ["w", "b", "v"])
@pytest.mark.parametrize("how", ["doubled", "one element"])
def test_a_wrong_gradient_differs_where_it_is_wrong(name, how):
    def wrong(p):
        found = gradient(p)
        if how == "doubled":
            found[name] = 2 * found[name]
        else:
            found[name].flat[2] *= 1.001
        return found

    report = nnk.check_gradients(loss, wrong, parameters())
    assert [(f.code, f.parameter) for f in report.findings] == [("gradient_differs", name)]
    assert report.status == {key: "differs" if key == name else "agrees" for key in ("w", "b", "v")}
    assert ("ratio is 2 everywhere" in report.findings[0].evidence) == (how == "doubled")


@pytest.mark.parametrize("kind", [np.asarray, list, tuple], ids=["array", "list", "tuple"])
def test_parameters_come_back_in_their_own_structure(kind):
    start = np.array([0.3, -0.2]) if kind is np.asarray else kind([np.array([0.3]), np.array([-0.2])])

    def function(p):
        assert type(p) is type(start)
        return p[0].sum() ** 2 + p[1].sum() ** 3

    def slope(p):
        parts = [2 * p[0], 3 * p[1] ** 2]
        return np.array(parts) if kind is np.asarray else kind(parts)

    assert nnk.check_gradients(function, slope, start).ok


def test_scipys_own_gradient_agrees():
    assert nnk.check_gradients(rosen, rosen_der, np.array([1.3, 0.7, 0.8, 1.9, 1.2])).ok
    assert codes(nnk.check_gradients(rosen, lambda x: 1.01 * rosen_der(x), np.array([1.3, 0.7, 0.8]))) == [
        "gradient_differs"
    ]


@given(scale=st.floats(-12, 6), power=st.integers(1, 5), size=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_no_scale_of_a_function_raises_a_false_alarm(scale, power, size, seed):
    rng = np.random.default_rng(seed)
    factor, center = 10.0**scale, rng.normal(size=size)

    def function(x):
        return factor * (np.sin(power * x) + (x - center) ** power).sum()

    def slope(x):
        return factor * (power * np.cos(power * x) + power * (x - center) ** (power - 1))

    start = rng.normal(size=size) * 10 ** rng.uniform(-2, 2)
    assert not nnk.check_gradients(function, slope, start).findings


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), activation=st.sampled_from(["relu", "leaky_relu", "sigmoid", "gelu"]))
def test_networks_agree_with_their_own_gradients(seed, activation):
    net = nnk.Sequential(nnk.Dense(2, 5, activation=activation), nnk.Dense(5, 2), device="numpy", dtype="float64")
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
    start = {name: rng.normal(size=value.shape) for name, value in net.parameters.items()}

    def at(p):
        net.parameters.update(p)
        return net.loss_and_gradients(x, t, loss="mean_squared_error")

    report = nnk.check_gradients(lambda p: at(p)[0], lambda p: at(p)[1], start)
    assert report.ok, str(report)
    assert set(report.status.values()) == {"agrees"} or "told" in " ".join(report.status.values())


def test_float32_inside_is_noise_and_no_mistake():
    def function(x):
        return float((np.asarray(x, np.float32) ** 2).sum())

    def single(x):
        return (2 * np.asarray(x, np.float32)).astype(np.float32)

    start = np.array([0.1, 1.0, 3.0])
    assert nnk.check_gradients(function, single, start).ok
    assert codes(nnk.check_gradients(function, lambda x: -single(x), start)) == ["gradient_differs"]


def test_a_kink_cannot_be_told():
    report = nnk.check_gradients(lambda x: np.abs(x).sum(), np.sign, np.array([0.0, 1.0]))
    assert report.ok
    assert report.status["parameters"].startswith("cannot be told: kink")
    report = nnk.check_gradients(lambda x: np.abs(x).sum(), lambda x: np.sign(x) + 3 * (x == 0), np.array([0.0, 1.0]))
    assert codes(report) == ["gradient_differs"]  # 3 is no slope of either side
    near = nnk.check_gradients(lambda x: np.abs(x).sum(), np.sign, np.array([1e-5, 1.0]))
    assert near.ok


def test_a_function_that_complex_numbers_mislead_is_measured_otherwise():
    """abs of a complex number is no analytic function, and .real forgets the step."""
    for function in (lambda x: (np.abs(x) ** 3).sum(), lambda x: (x.real**3).sum()):
        assert nnk.check_gradients(function, lambda x: 3 * x**2, np.array([0.5, 2.0])).ok


def test_large_parameters_are_checked_along_directions():
    calls = 0

    def function(w):
        nonlocal calls
        calls += 1
        return (w**2).sum() / 2

    assert nnk.check_gradients(function, lambda w: w, np.random.default_rng(0).normal(size=(300, 40))).ok
    assert calls < 200
    report = nnk.check_gradients(function, lambda w: -w, np.random.default_rng(0).normal(size=(300, 40)))
    assert codes(report) == ["gradient_differs"]


# ---- misuse ----------------------------------------------------------------------------------------------------------


def in_place(p):
    p["w"] -= 0.1
    return loss(p)


COUNTER = {"calls": 0, "last": None}


def counting(p):
    COUNTER["calls"] += 1
    return loss(p) + 1e-3 * COUNTER["calls"]


def remembering(p):
    COUNTER["last"] = p["w"].copy()
    return loss(p)


STORED = parameters()
MISUSE = {
    "the output": (lambda p: X @ p["w"], gradient, "not_scalar"),
    "a loss a row": (lambda p: ((X @ p["w"]) ** 2).sum(axis=1), gradient, "not_scalar"),
    "in place": (in_place, gradient, "mutates"),
    "gradient in place": (loss, lambda p: (p["b"].fill(0), gradient(p))[1], "mutates"),
    "random": (counting, gradient, "not_deterministic"),
    "dropout": (
        loss,
        lambda p: {k: g * np.random.default_rng().uniform() for k, g in gradient(p).items()},
        "not_deterministic",
    ),
    "stored": (lambda p: loss(STORED), gradient, "cached"),
    "stored forward pass": (remembering, lambda p: gradient({**p, "w": COUNTER["last"]}), "cached"),
    "nan": (lambda p: np.nan, gradient, "not_finite"),
    "nan in the gradient": (loss, lambda p: gradient(p) | {"b": np.full(4, np.nan)}, "not_finite"),
    "a bias a row": (loss, lambda p: gradient(p) | {"b": np.zeros((12, 4))}, "gradient_shape"),
    "transposed": (loss, lambda p: {k: g.T for k, g in gradient(p).items()}, "gradient_shape"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_found_before_anything_is_compared(name):
    function, slope, code = MISUSE[name]
    report = nnk.check_gradients(function, slope, parameters())
    assert codes(report) == [code]
    assert report.findings[0].remedy
    assert set(report.status.values()) == {"cannot be told"}


def test_integer_parameters_are_found():
    report = nnk.check_gradients(lambda w: (w**2).sum(), lambda w: 2 * w, np.array([1, 2]))
    assert codes(report) == ["integer_parameters"]
    assert "astype(float)" in report.findings[0].remedy


def test_the_users_parameters_are_not_changed():
    mine = parameters()
    kept = {name: value.copy() for name, value in mine.items()}
    nnk.check_gradients(in_place, gradient, mine)
    for name, value in mine.items():
        np.testing.assert_array_equal(value, kept[name])


@pytest.mark.parametrize(
    ("function", "slope", "start", "error", "message"),
    [
        (3, gradient, parameters(), TypeError, "function must be a function"),
        (loss, None, parameters(), TypeError, "gradient must be a function"),
        (loss, gradient, {}, ValueError, "empty"),
        (loss, gradient, {"w": ["a"]}, nnk.DataError, "real numbers"),
        (loss, gradient, {"w": [np.inf]}, nnk.DataError, "finite"),
        (lambda p: p["q"], gradient, parameters(), nnk.DataError, r"function\(parameters\) raised KeyError"),
        (loss, lambda p: 1 / 0, parameters(), nnk.DataError, r"gradient\(parameters\) raised ZeroDivisionError"),
        (loss, lambda p: {"w": p["w"]}, parameters(), KeyError, "returned no 'b'"),
        (loss, lambda p: [p["w"]], parameters(), nnk.ShapeError, "1 arrays for 3 parameters"),
    ],
    ids=["function", "gradient", "empty", "text", "infinite", "raises", "gradient raises", "name missing", "too few"],
)
def test_bad_arguments_get_one_error(function, slope, start, error, message):
    with pytest.raises(error, match=message):
        nnk.check_gradients(function, slope, start)
