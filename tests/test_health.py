"""health: each condition is found where it is, and nowhere else."""

import numpy as np
import pytest
from mpmath import mp

import nnkernels as nnk
from nnkernels._diagnosis.conditions import largest_stable_rate
from nnkernels._diagnosis.diagnosing import make_point


def network(*layers, dtype="float64", rng=0):
    return nnk.Sequential(*layers, device="numpy", dtype=dtype, rng=rng)


def small(activation="tanh", last=None, n_in=1, n_hidden=8, **kwargs):
    hidden = nnk.Dense(n_in, n_hidden, activation=activation, **kwargs)
    return network(hidden, nnk.Dense(n_hidden, 1, activation=last))


def codes(net, x, y, loss="mean_squared_error", **kwargs):
    return [finding.code for finding in nnk.health(net, x, y, loss=loss, **kwargs).findings]


X = np.linspace(-1.7, 1.7, 40)
Y = np.sin(2 * X)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "gelu"])
@pytest.mark.parametrize("rng", range(5))
def test_a_healthy_network_has_no_findings(activation, rng):
    x = np.random.default_rng(rng).normal(size=(60, 3))
    net = network(
        nnk.Dense(3, 12, activation=activation), nnk.Dense(12, 12, activation=activation), nnk.Dense(12, 1), rng=rng
    )
    report = nnk.health(net, x, x[:, 0] * x[:, 1], loss="mean_squared_error")
    assert report.ok, str(report)
    assert set(report.status.values()) == {"healthy"}
    assert "curvature" in report.notes[0]


def stretched(net, factor):
    net.parameters["0.weight"] = factor * np.asarray(net.parameters["0.weight"])
    return net


def zeros():
    return network(
        nnk.Dense(1, 1, "sigmoid", weight_initializer="zeros", bias_initializer="zeros"),
        nnk.Dense(1, 1, "sigmoid", weight_initializer="zeros", bias_initializer="zeros"),
    )


def dead():
    net = small("relu", n_hidden=4)
    net.parameters["0.bias"] = [-50.0, -50.0, -50.0, 0.0]
    return net


def copies():
    hidden = nnk.Dense(1, 8, activation="tanh", weight_initializer="ones", bias_initializer="zeros")
    return network(hidden, nnk.Dense(8, 1, weight_initializer="ones"))


def deep(factor):
    net = network(*(nnk.Dense(6, 6, activation="sigmoid" if factor < 1 else None) for _ in range(8)), nnk.Dense(6, 1))
    for name, value in net.parameters.to_host().items():
        net.parameters[name] = value * factor
    return net


ROWS = np.random.default_rng(0).normal(size=(40, 6))
BALANCED = np.array([0, 1] * 6)
CONDITIONS = {
    "unscaled_inputs": lambda: (small(), 100 + X, Y, {}),
    "unscaled_targets": lambda: (small(), X, 1000 * Y, {}),
    "target_range": lambda: (small(last="sigmoid"), X, 3 * Y, {}),
    "saturated": lambda: (stretched(small("sigmoid"), 100), X, Y, {}),
    "underflow": lambda: (stretched(small("sigmoid"), 1000), X, Y, {}),
    "dead_relu": lambda: (dead(), X, Y, {}),
    "symmetric": lambda: (copies(), X, Y, {}),
    "only_linear": lambda: (small(None), X, Y, {}),
    "constant_output": lambda: (stretched(small(), 0), X, Y, {}),
    "vanishing": lambda: (deep(0.5), ROWS, ROWS[:, 0], {}),
    "exploding": lambda: (deep(6.0), ROWS, ROWS[:, 0], {}),
    "critical_point": lambda: (zeros(), BALANCED, BALANCED, {}),
    "rate_too_large": lambda: (small(), X, Y, {"learning_rate": 50.0}),
    "rate_too_small": lambda: (small(), X, Y, {"learning_rate": 1e-6}),
}


@pytest.mark.parametrize("code", CONDITIONS)
def test_a_condition_is_found_with_numbers_and_a_remedy(code):
    net, x, y, kwargs = CONDITIONS[code]()
    report = nnk.health(net, x, y, loss="mean_squared_error", **kwargs)
    (finding,) = [finding for finding in report.findings if finding.code == code]
    assert any(character.isdigit() for character in finding.evidence)
    assert finding.remedy
    assert finding.message.endswith(".")


def test_the_scale_that_cures_saturation_does():
    net, x, y, _ = CONDITIONS["saturated"]()
    (finding,) = [f for f in nnk.health(net, x, y, loss="mean_squared_error").findings if f.code == "saturated"]
    names = {"x": x}
    exec(finding.remedy, names)
    assert "saturated" not in codes(net, names["x"], y)


def test_standardizing_cures_unscaled_data():
    report = nnk.health(small(), 100 + X, 1000 * Y, loss="mean_squared_error")
    names = {"x": (100 + X)[:, None], "y": (1000 * Y)[:, None]}
    for finding in report.findings:
        if finding.code.startswith("unscaled"):
            exec(finding.remedy, names)
    assert codes(small(), names["x"], names["y"]) == []


def test_a_minimum_is_no_critical_point():
    """A line fitted exactly: its gradient is zero, too, and there is nothing to be found nearby."""
    net = network(nnk.Dense(1, 1))
    net.parameters.update({"0.weight": [[2.0]], "0.bias": [1.0]})
    assert codes(net, X, 2 * X + 1) == []


def test_underflow_is_told_from_a_gradient_that_is_zero():
    net = network(nnk.Dense(1, 1, activation="sigmoid", bias=False), dtype="float32")
    net.parameters["0.weight"] = [[0.8]]
    report = nnk.health(net, [62.5, 62.4], [0.0, 0.0], loss="half_squared_error")
    (finding,) = [f for f in report.findings if f.code == "underflow"]
    slope = mp.exp(-50) / (1 + mp.exp(-50)) ** 2
    assert f"{float(slope):.2g}" in finding.evidence
    assert "critical_point" not in [f.code for f in report.findings]


def test_the_stable_rate_is_that_of_a_quadratic():
    """Least squares: the curvature is the largest eigenvalue of x^T x / rows, by an independent routine."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)) * [1, 2, 3], rng.normal(size=50)
    net = network(nnk.Dense(3, 1, bias=False))
    curvature = np.linalg.eigvalsh(x.T @ x / 50).max()
    point = make_point(net, x, y, "half_squared_error", None)
    assert largest_stable_rate(point, 200) == pytest.approx(2 / curvature, rel=1e-4)

    def final(rate):
        net = network(nnk.Dense(3, 1, bias=False))
        try:
            net.fit(x, y, loss="half_squared_error", optimizer=nnk.SGD(rate), steps=3000)
        except nnk.DivergenceError:
            return np.inf
        return net.evaluate(x, y, loss="half_squared_error")

    assert final(1.9 / curvature) < 1
    assert final(2.1 / curvature) > 1e6


def test_a_run_that_ended_too_early_is_told_from_one_that_did_not():
    def history(steps):
        net = small()
        return net, net.fit(X, Y, loss="mean_squared_error", optimizer=nnk.SGD(0.1), steps=steps)

    net, short = history(40)
    assert "too_few_steps" in codes(net, X, Y, history=short)
    constant = network(nnk.Dense(1, 1))
    long = constant.fit(X, Y, loss="mean_squared_error", optimizer=nnk.SGD(0.1), steps=2000)
    assert codes(constant, X, Y, history=long) == []


def test_the_callback_looks_at_log_points():
    check = nnk.HealthCheck(X, Y, loss="mean_squared_error", every=2)
    net = small()
    net.fit(X, Y, loss="mean_squared_error", optimizer=nnk.SGD(0.01), steps=60, log_every=10, callbacks=check)
    assert list(check.reports) == [20, 40, 60]
    assert all(report.status for report in check.reports.values())
    short = nnk.HealthCheck(X, Y, loss="mean_squared_error")
    small().fit(X, Y, loss="mean_squared_error", optimizer=nnk.SGD(0.1), steps=40, log_every=1, callbacks=short)
    assert "too_few_steps" in [finding.code for finding in short.reports[40].findings]
    with pytest.raises(ValueError, match="every must be at least 1"):
        nnk.HealthCheck(X, Y, loss="mean_squared_error", every=0)


def test_networks_of_every_device_are_looked_at(device):
    net = nnk.Sequential(nnk.Dense(1, 4, activation="tanh"), nnk.Dense(4, 1), device=device, rng=0)
    assert nnk.health(net, X, Y, loss="mean_squared_error").ok


@pytest.mark.parametrize("loss", ["half_squared_error", "absolute_error", "huber", "poisson"])
def test_every_loss_is_looked_at(loss):
    assert nnk.health(small(), X, np.abs(Y), loss=loss).ok


def test_a_page_shows_histograms_and_the_flow(tmp_path):
    nnk.health(small(), X, Y, loss="mean_squared_error").save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("data:image/png") == 2


def test_bad_arguments_get_one_error():
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        nnk.health(small(), X, Y, loss="mean_squared_error", learning_rate=0.0)
    with pytest.raises(TypeError, match="Sequential"):
        nnk.health("net", X, Y, loss="mean_squared_error")
    with pytest.raises(nnk.ShapeError):
        nnk.health(small(), X, Y[:5], loss="mean_squared_error")
