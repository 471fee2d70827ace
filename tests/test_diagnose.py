"""diagnose names the mistakes in backward passes, and accuses nobody who made none."""

import time

import backprops.right
import backprops.wrong  # noqa: F401 - each adds its cases
import hypothesis.strategies as st
import numpy as np
import pytest
from backprops import CASES, generated
from hypothesis import given, settings
from mutations import space
from tolerances import relative

import nnkernels as nnk
from nnkernels._diagnosis.codes import CODES
from nnkernels._diagnosis.factors import Change, backprop
from nnkernels._diagnosis.point import Point, random_point
from nnkernels._diagnosis.wording import words
from nnkernels._losses import NAMES
from nnkernels._training import Problem

WRONG = [case for case in CASES if case.codes]
RIGHT = [case for case in CASES if not case.codes]
UNNAMED = {"tied", "unexplained"}


def network_of(layers, parameters, dtype="float64"):
    layers = [nnk.Dense(n_in, n_out, activation=name, bias=bias) for n_in, n_out, name, bias in layers]
    net = nnk.Sequential(*layers, device="numpy", dtype=dtype)
    net.parameters.update(parameters)
    return net


def diagnose(case, dtype=np.float64):
    parameters, x, t = case.data(dtype)
    gradients = case.run({name: value.copy() for name, value in parameters.items()}, x, t)
    loss = NAMES[case.problem.loss](reduction=case.problem.reduction)
    net = network_of(case.problem.layers, parameters, np.dtype(dtype).name)
    return nnk.diagnose(net, x, t, loss=loss, gradients=gradients)


def names_of(report):
    """The codes of each finding, other names of the same program included."""
    return [{f.code, *(other.partition(":")[0] for other in f.also)} for f in report.findings]


def says(report, codes):
    """Tell whether the findings are these codes and no others."""
    found, codes = names_of(report), sorted(codes)
    if not codes:
        return not found
    if not all(any(code in names for names in found) for code in codes):
        return False
    return all(names & set(codes) for names in found)


# ---- what learners write ---------------------------------------------------------------------------------------------


def test_the_corpus_is_as_large_as_promised():
    assert len(WRONG) >= 40
    assert len(RIGHT) >= 12
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_a_wrong_backprop_is_named_exactly(case):
    report = diagnose(case)
    assert {f.code for f in report.findings} == case.codes, str(report)
    for finding in report.findings:
        assert finding.message
        assert finding.evidence
        assert finding.wrong != finding.right


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_a_right_backprop_is_not_accused(case, dtype):
    if case.name == "finite_differences_of_the_loss" and dtype == np.float32:
        pytest.skip("differences in float32 are wrong to the second digit, and no derivative of the loss")
    report = diagnose(case, dtype)
    assert report.ok, str(report)
    assert set(report.status.values()) <= {"right", "not given"}


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_nobody_is_accused_of_something_else_in_float32(case):
    for names in names_of(diagnose(case, np.float32)):
        assert names & (case.codes | UNNAMED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_users_arrays_are_not_changed(case):
    parameters, x, t = case.data()
    gradients = case.run({name: value.copy() for name, value in parameters.items()}, x, t)
    kept = {name: np.array(value, copy=True) for name, value in gradients.items()}
    net, loss = network_of(case.problem.layers, parameters), NAMES[case.problem.loss](reduction=case.problem.reduction)
    data = x.copy(), t.copy()
    nnk.diagnose(net, x, t, loss=loss, gradients=gradients)
    for name, value in gradients.items():
        np.testing.assert_array_equal(value, kept[name])
    for before, after in zip((*data, *parameters.values()), (x, t, *net.parameters.to_host().values()), strict=True):
        np.testing.assert_array_equal(before, after)


# ---- the second corpus, scored by itself -----------------------------------------------------------------------------


def draw_slips(rng, layers, loss, rows, count):
    fitting = [slip for slip in generated.SLIPS if generated.fits(slip, layers, loss, rows)]
    while True:
        slips = [str(slip) for slip in rng.choice(fitting, count, replace=False)]
        if not any(len(set(slips) & exclusive) > 1 for exclusive in generated.EXCLUSIVE):
            return slips


def score(number, seed):
    """Return how many of so many drawn backprops are named, are not named, and are accused of something else."""
    rng, named, accused = np.random.default_rng(seed), 0, []
    for index in range(number):
        layers, loss, weights, biases, x, t = generated.draw(rng)
        slips = draw_slips(rng, layers, loss, len(x), 2 if index % 3 == 0 else 1)
        gradients = generated.Network(layers, weights, biases, loss, slips).gradients(x, t)
        parameters = {f"{i}.weight": w for i, w in enumerate(weights)} | {f"{i}.bias": b for i, b in enumerate(biases)}
        net = network_of([(*layer, True) for layer in layers], parameters)
        report = nnk.diagnose(net, x, t, loss=loss, gradients=gradients)
        codes = {code for slip in slips for code in generated.SLIPS[slip]}
        named += says(report, codes)
        if not all(names & (codes | UNNAMED) for names in names_of(report)):
            accused.append((layers, loss, len(x), slips, str(report)))
    return named, accused


def test_the_second_corpus_is_named_and_nobody_is_accused_of_something_else():
    named, accused = score(30, seed=100)
    assert accused == []
    assert named >= 0.9 * 30


@pytest.mark.long
def test_the_second_corpus_at_length():
    named, accused = score(1000, seed=200)
    assert accused == []
    assert named >= 0.9 * 1000


# ---- right gradients -------------------------------------------------------------------------------------------------


@st.composite
def right_gradients(draw):
    """A network of any depth, width and dtype, and gradients of a learner's class that has no slip."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layers, loss, weights, biases, x, t = generated.draw(rng, depth=draw(st.integers(1, 3)))
    dtype, spread = draw(st.sampled_from(["float32", "float64"])), draw(st.sampled_from([0.1, 1.0, 4.0]))
    weights, biases = [(spread * w).astype(dtype) for w in weights], [b.astype(dtype) for b in biases]
    return layers, loss, weights, biases, x.astype(dtype) * draw(st.sampled_from([0.1, 1.0, 10.0])), t.astype(dtype)


def check_right(problem):
    layers, loss, weights, biases, x, t = problem
    with np.errstate(over="ignore"):
        gradients = generated.Network(layers, weights, biases, loss).gradients(x, t)
    parameters = {f"{i}.weight": w for i, w in enumerate(weights)} | {f"{i}.bias": b for i, b in enumerate(biases)}
    gradients = {name: value.astype(x.dtype) for name, value in gradients.items()}
    net = network_of([(*layer, True) for layer in layers], parameters, x.dtype.name)
    report = nnk.diagnose(net, x, t, loss=loss, gradients=gradients)
    assert report.ok, str(report)


@given(problem=right_gradients())
@settings(max_examples=500)
def test_right_gradients_raise_no_alarm(problem):
    check_right(problem)


@pytest.mark.long
@given(problem=right_gradients())
@settings(max_examples=10_000)
def test_ten_thousand_right_gradients_raise_no_alarm(problem):
    check_right(problem)


# ---- every mistake in the space, and pairs ---------------------------------------------------------------------------

NETWORKS = {
    "regression": ((3, 5, 4, 2), ("sigmoid", "tanh", "sigmoid"), "mean_squared_error", 7),
    "classes": ((4, 6, 3), ("tanh", "softmax"), "categorical_cross_entropy", 11),
    "binary": ((2, 6, 1), ("relu", "sigmoid"), "binary_cross_entropy", 9),
    "sine": ((1, 10, 1), ("sigmoid", "identity"), "half_squared_error", 11),
    "softmax, squared": ((3, 4, 4, 5), ("softplus", "sigmoid", "softmax"), "mean_squared_error", 7),
    "square": ((4, 4, 4, 4, 3), ("tanh", "sigmoid", "elu", "identity"), "huber", 13),
}


def make_point(widths, activations, loss, rows, seed=0):
    layers = [nnk.Dense(a, b, activation=f) for a, b, f in zip(widths[:-1], widths[1:], activations, strict=True)]
    net = nnk.Sequential(*layers, device="numpy", dtype="float64", rng=seed)
    rng = np.random.default_rng(seed)
    n_out = widths[-1]
    t = (
        np.eye(n_out)[rng.integers(0, n_out, rows)]
        if n_out > 1 and "entropy" in loss
        else rng.integers(0, 2, (rows, n_out))
    )
    t = t if "entropy" in loss else rng.normal(size=(rows, n_out))
    problem = Problem.check(net, rng.normal(size=(rows, widths[0])), t, loss)
    start = Point(net.layers, net.parameters.to_host(), problem.x, problem.t, problem.loss, problem.factors())
    return net, random_point(start, rng, rows)


def is_named(net, point, changes):
    """Tell whether changes are named: as themselves, or as a program that gives the same numbers elsewhere, too."""
    gradients = backprop(point, changes)
    net.parameters.update(point.parameters)
    report = nnk.diagnose(net, point.x, point.t, loss=point.loss, gradients=gradients)
    right = backprop(point)
    if all(np.allclose(gradients[name], right[name], rtol=1e-9, atol=1e-15) for name in right):
        return report.ok
    expected = {words(point, change).code for change in changes}
    return bool(report.findings) and says(report, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_single_mistakes_are_named(name):
    net, point = make_point(*NETWORKS[name])
    changes = space(point)
    rng = np.random.default_rng(0)
    some = [changes[i] for i in rng.choice(len(changes), 25, replace=False)]
    missed = [change for change in some if not is_named(net, point, (change,))]
    assert len(missed) <= 0.05 * len(some), missed


def draw_pair(rng, changes):
    while True:
        first, second = (changes[i] for i in rng.choice(len(changes), 2, replace=False))
        if (first.site, first.layer) != (second.site, second.layer):
            return first, second


def unnamed_pairs(number, seed):
    rng, missed = np.random.default_rng(seed), []
    for index in range(number):
        net, point = make_point(*list(NETWORKS.values())[index % len(NETWORKS)], seed=index)
        pair = draw_pair(rng, space(point))
        gradients = backprop(point, pair)
        net.parameters.update(point.parameters)
        report = nnk.diagnose(net, point.x, point.t, loss=point.loss, gradients=gradients)
        if report.ok or {f.code for f in report.findings} & UNNAMED:
            missed.append((pair, str(report)))
    return missed


def test_pairs_of_mistakes_are_explained():
    assert len(unnamed_pairs(60, seed=0)) <= 1


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_every_single_mistake_is_named(name):
    net, point = make_point(*NETWORKS[name])
    changes = space(point)
    missed = [change for change in changes if not is_named(net, point, (change,))]
    assert len(missed) <= 0.01 * len(changes), missed


@pytest.mark.long
def test_thousands_of_pairs_are_explained():
    assert len(unnamed_pairs(3000, seed=1)) <= 30


def test_the_right_program_is_the_complex_step():
    """The program that all mistakes are mutations of, against derivatives of a forward pass that is written here."""

    def loss(parameters, x, t):
        a = 1 / (1 + np.exp(-(x @ parameters["0.weight"] + parameters["0.bias"])))
        p = np.tanh(a @ parameters["1.weight"] + parameters["1.bias"])
        return ((p - t) ** 2).mean(axis=1).mean()

    _, point = make_point((3, 5, 2), ("sigmoid", "tanh"), "mean_squared_error", 6)
    for name, gradient in backprop(point).items():
        for index in np.ndindex(gradient.shape):
            moved = {key: value.astype(complex) for key, value in point.parameters.items()}
            moved[name][index] += 1e-200j
            expected = loss(moved, point.x, point.t).imag / 1e-200
            assert gradient[index] == pytest.approx(expected, rel=relative("float64", "gradient"), abs=1e-15)


def test_every_mistake_has_words_and_a_documented_code():
    for network in NETWORKS.values():
        _, point = make_point(*network)
        numbers = [
            Change("weight end", 0, "penalty", 0.1),
            Change("weight end", 0, "rounded", 2),
            Change("bias end", 0, "unsummed"),
            Change("weight end", 0, "transposed"),
            Change("weight end", 0, "truncated"),
            Change("bias end", 0, "zero"),
            Change("pass", 0, "updated_first", 0.1),
        ]
        for change in [*space(point), *numbers]:
            said = words(point, change)
            assert said.code in CODES
            assert said.message.endswith(".")
            assert said.wrong != said.right, change


# ---- proof, ties, and what cannot be named ---------------------------------------------------------------------------


@pytest.fixture
def small():
    """A network, its data with two rows, and its right gradients."""
    net = nnk.Sequential(nnk.Dense(2, 3, activation="tanh"), nnk.Dense(3, 1), device="numpy", dtype="float64", rng=0)
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(2, 2)), rng.normal(size=(2, 1))
    return net, x, t, net.loss_and_gradients(x, t, loss="half_squared_error")[1]


def test_a_tie_is_listed_and_names_nobody(small):
    net, x, t, gradients = small
    doubled = {name: 2 * gradient for name, gradient in gradients.items()}
    report = nnk.diagnose(net, x, t, loss="half_squared_error", gradients=doubled)
    (finding,) = report.findings
    assert finding.code == "tied"
    codes = {some[0].code for some in finding.alternatives} | {
        o.partition(":")[0] for s in finding.alternatives for o in s[0].also
    }
    assert codes >= {"factor_2", "not_divided_by_rows"}
    assert "gradient=" in finding.remedy


@pytest.mark.parametrize(("factor", "code"), [(lambda x: 2, "factor_2"), (len, "not_divided_by_rows")], ids=["2", "B"])
def test_a_function_tells_what_two_rows_cannot(small, factor, code):
    net, x, t, _ = small

    def gradient(parameters, x, y):
        assert isinstance(parameters["0.weight"], np.ndarray)
        h = np.tanh(x @ parameters["0.weight"] + parameters["0.bias"])
        d1 = factor(x) * (h @ parameters["1.weight"] + parameters["1.bias"] - y) / len(x)
        d0 = d1 @ parameters["1.weight"].T * (1 - h * h)
        return {"0.weight": x.T @ d0, "0.bias": d0.sum(0), "1.weight": h.T @ d1, "1.bias": d1.sum(0)}

    report = nnk.diagnose(net, x, t, loss="half_squared_error", gradient=gradient)
    assert code in names_of(report)[0]
    assert len(report.findings) == 1


def test_a_function_that_is_right_is_right(small):
    net, x, t, _ = small

    def gradient(parameters, x, y):
        other = nnk.Sequential(*net.layers, device="numpy", dtype="float64", rng=1)
        other.parameters.update(parameters)
        return other.loss_and_gradients(x, y, loss="huber")[1]

    assert nnk.diagnose(net, x, t, loss="huber", gradient=gradient).ok


def test_what_no_mistake_explains_is_described_and_not_named(small):
    net, x, t, gradients = small
    wrong = dict(gradients)
    wrong["0.weight"] = gradients["0.weight"] * np.array([1.3, -0.7, 2.2])
    report = nnk.diagnose(net, x, t, loss="half_squared_error", gradients=wrong)
    (finding,) = report.findings
    assert (finding.code, finding.parameter) == ("unexplained", "0.weight")
    assert "same for each unit: 1.3, -0.7, 2.2" in finding.evidence
    assert report.status["0.bias"] == report.status["1.weight"] == "right"
    wrong["0.weight"] = gradients["0.weight"] * 1.37
    (finding,) = nnk.diagnose(net, x, t, loss="half_squared_error", gradients=wrong).findings
    assert finding.code == "unexplained"
    assert "ratio to the right one is 1.37 everywhere" in finding.evidence


@given(seed=st.integers(0, 2**32), dtype=st.sampled_from(["float32", "float64"]))
def test_random_numbers_are_explained_by_nothing(seed, dtype):
    rng = np.random.default_rng(seed)
    layers, loss, weights, biases, x, t = generated.draw(rng, depth=1)
    parameters = {f"{i}.weight": w for i, w in enumerate(weights)} | {f"{i}.bias": b for i, b in enumerate(biases)}
    net = network_of([(*layer, True) for layer in layers], parameters, dtype)
    gradients = {name: rng.normal(size=value.shape).astype(dtype) for name, value in parameters.items()}
    report = nnk.diagnose(net, x, t, loss=loss, gradients=gradients)
    assert {f.code for f in report.findings} <= UNNAMED


def test_a_saturated_a_times_one_minus_a_is_a_matter_of_health():
    net = nnk.Sequential(nnk.Dense(1, 1, activation="sigmoid", bias=False), device="numpy", dtype="float64")
    net.parameters["0.weight"] = [[0.8]]
    a = 1 / (1 + np.exp(-50.0))
    gradients = {"0.weight": [[a * a * (1 - a) * 62.5]]}
    assert gradients["0.weight"][0][0] == 0
    report = nnk.diagnose(net, [62.5], [0.0], loss="half_squared_error", gradients=gradients)
    assert report.ok
    assert "saturated" in report.notes[0]


def test_penalties_belong_to_the_right_gradient_if_they_are_asked_for(small):
    net, x, t, gradients = small
    weights = net.parameters.to_host()
    penalized = {k: g + 0.1 * weights[k] * k.endswith("weight") for k, g in gradients.items()}
    assert nnk.diagnose(net, x, t, loss="half_squared_error", gradients=penalized, l2=0.1).ok
    report = nnk.diagnose(net, x, t, loss="half_squared_error", gradients=gradients, l2=0.1)
    assert [f.code for f in report.findings] == ["penalty"]


def test_a_wide_network_takes_less_than_two_seconds():
    rng = np.random.default_rng(0)
    layers = [nnk.Dense(20, 20, activation="tanh") for _ in range(3)]
    net = nnk.Sequential(*layers, nnk.Dense(20, 3), device="numpy", dtype="float64", rng=0)
    x, t = rng.normal(size=(64, 20)), rng.normal(size=(64, 3))
    _, gradients = net.loss_and_gradients(x, t, loss="mean_squared_error")
    wrong = {name: -gradient for name, gradient in gradients.items()}
    wrong["1.bias"] = wrong["1.bias"] / 64
    nnk.diagnose(net, x, t, loss="mean_squared_error", gradients=gradients)
    start = time.process_time()
    report = nnk.diagnose(net, x, t, loss="mean_squared_error", gradients=wrong)
    assert time.process_time() - start < 2
    assert {f.code for f in report.findings} == {"sign", "divided_by_rows"}


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda g: {"0.weigth": g["0.weight"]}, KeyError, "Did you mean '0.weight'"),
        (
            lambda g: {"0.weight": g["0.weight"][:, :2]},
            nnk.ShapeError,
            r'gradients\["0.weight"\] has the shape \(2, 2\)',
        ),
        (lambda g: {"1.bias": np.zeros(5)}, nnk.ShapeError, "no orientation"),
        (lambda g: {"0.weight": g["0.weight"] * np.array([1, np.nan, 1])}, nnk.DataError, r"nan at \(0, 1\) \(2 of 6"),
        (lambda g: {"0.weight": [["a"] * 3] * 2}, nnk.DataError, "numeric"),
        (lambda g: {}, ValueError, "empty"),
        (lambda g: [g["0.weight"]], TypeError, "must map parameter names"),
    ],
    ids=["name", "shape", "bias", "nan", "text", "empty", "list"],
)
def test_bad_gradients_get_one_error(small, change, error, message):
    net, x, t, gradients = small
    with pytest.raises(error, match=message):
        nnk.diagnose(net, x, t, loss="half_squared_error", gradients=change(gradients))


def test_bad_arguments_get_one_error(small):
    net, x, t, gradients = small
    with pytest.raises(TypeError, match="one of them"):
        nnk.diagnose(net, x, t, loss="huber")
    with pytest.raises(TypeError, match="one of them"):
        nnk.diagnose(net, x, t, loss="huber", gradients=gradients, gradient=lambda p, x, y: gradients)
    with pytest.raises(TypeError, match=r"must be a nnkernels\.Sequential"):
        nnk.diagnose([3, 2], x, t, loss="huber", gradients=gradients)
    with pytest.raises(nnk.DataError, match="raised ZeroDivisionError"):
        nnk.diagnose(net, x, t, loss="huber", gradient=lambda p, x, y: 1 / 0)
    with pytest.raises(TypeError, match="must return a dict"):
        nnk.diagnose(net, x, t, loss="huber", gradient=lambda p, x, y: 3)
    unbiased = nnk.Sequential(nnk.Dense(2, 1, bias=False), device="numpy")
    with pytest.raises(KeyError, match="bias=False"):
        nnk.diagnose(unbiased, x, t, loss="huber", gradients={"0.bias": [0.0]})


# ---- updates ---------------------------------------------------------------------------------------------------------

RATE = 0.1
UPDATES = {
    "right": (lambda p, g: p - RATE * g, None),
    "climbs": (lambda p, g: p + RATE * g, "climbs"),
    "rate twice": (lambda p, g: p - RATE**2 * g, "rate_twice"),
    "no rate": (lambda p, g: p - g, "rate_missing"),
    "assigned": (lambda p, g: -RATE * g, "assigned"),
    "skipped": (lambda p, g: p, "not_updated"),
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("known", [True, False], ids=["with gradients", "without"])
def test_the_update_rule(small, name, known):
    net, x, t, gradients = small
    rule, code = UPDATES[name]
    before = net.parameters.to_host()
    after = {key: value - RATE * gradients[key] for key, value in before.items()}
    after["0.bias"] = rule(before["0.bias"], gradients["0.bias"])
    report = nnk.diagnose(
        net, x, t, loss="half_squared_error", gradients=gradients if known else None, update=(before, after, RATE)
    )
    assert [(f.code, f.parameter) for f in report.findings] == ([] if code is None else [(code, "0.bias")])


def test_an_update_with_a_bias_for_each_row_and_a_wrong_gradient(small):
    net, x, t, gradients = small
    before = net.parameters.to_host()
    after = {key: value - RATE * gradients[key] for key, value in before.items()}
    after["0.bias"] = np.stack([after["0.bias"]] * 2)
    after["1.weight"] = before["1.weight"] - RATE * gradients["1.weight"] / 2
    report = nnk.diagnose(net, x, t, loss="half_squared_error", update=(before, after, RATE))
    codes = {f.code for f in report.findings}
    assert "one_bias_per_row" in codes
    assert codes <= {"one_bias_per_row", "tied", "factor_half", "divided_by_rows"}
    report = nnk.diagnose(net, x, t, loss="half_squared_error", gradients=gradients, update=(before, after, RATE))
    assert {f.code for f in report.findings} == {"one_bias_per_row", "update_unexplained"}


def test_bad_updates_get_one_error(small):
    net, x, t, _ = small
    before = net.parameters.to_host()
    with pytest.raises(TypeError, match="before, after, learning_rate"):
        nnk.diagnose(net, x, t, loss="huber", update=(before, before))
    with pytest.raises(ValueError, match="positive"):
        nnk.diagnose(net, x, t, loss="huber", update=(before, before, -1))
    with pytest.raises(KeyError, match=r"9\.weight"):
        nnk.diagnose(net, x, t, loss="huber", update=(before, {"9.weight": 1}, 0.1))
    with pytest.raises(nnk.ShapeError, match="before"):
        nnk.diagnose(net, x, t, loss="huber", update=({"0.bias": [1.0]}, {"0.bias": [1.0]}, 0.1))


# ---- reports ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    return diagnose(next(case for case in WRONG if case.name == "the_posted_sine"))


def test_a_report_reads_well(report):
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    for part in ("sign", "slope_at_activation", "wrong: delta1 = (t - p)", "right: delta1 = (p - t)", "a0 * (1 - a0)"):
        assert part in text
    assert not report.ok
    assert report.findings[1].parameter == "0.weight"


def test_a_report_prints_in_color(report):
    from rich.console import Console

    console = Console(width=100, record=True, force_terminal=True)
    with console.capture() as capture:
        console.print(report)
    assert "slope_at_activation" in capture.get()
    assert "\x1b[" in capture.get()


def test_a_report_is_data(report):
    import json

    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"] is False
    assert [finding["code"] for finding in data["findings"]] == ["sign", "slope_at_activation"]


def test_a_page_needs_nothing_beside_it(report, tmp_path):
    assert "<div class='nnk'>" in report._repr_html_()
    assert "<img" not in report._repr_html_()
    report.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 4  # histograms, flow, and the pattern of both gradients
    for outside in ("src='http", "href=", "<script", "@import"):
        assert outside not in page
    assert "&lt;" not in report.findings[0].message


def test_a_page_escapes_what_it_shows():
    finding = nnk._diagnosis.report.Finding("sign", "<b>", "a < b", "", "")
    page = nnk._diagnosis.report.Report("<script>", [finding], {"<i>": "wrong"}, ["<u>"])._repr_html_()
    for raw in ("<script>", "<b>", "<i>", "<u>"):
        assert raw not in page.replace("<b class", "")


# ---- mistakes that are in no space -----------------------------------------------------------------------------------


def with_noise(network, x, t, rng):
    return {name: value * (1 + 0.01 * rng.normal(size=value.shape)) for name, value in network.gradients(x, t).items()}


def clipped(network, x, t, rng):
    return {name: np.clip(v, -np.abs(v).max() / 2, np.abs(v).max() / 2) for name, v in network.gradients(x, t).items()}


def weighted_rows(network, x, t, rng):
    weights = rng.uniform(0.5, 2, len(x)) / len(x)
    parts = [network.gradients(x[i : i + 1], t[i : i + 1]) for i in range(len(x))]
    return {name: sum(w * part[name] for w, part in zip(weights, parts, strict=True)) for name in parts[0]}


def at_other_weights(network, x, t, rng):
    moved = [1.01 * w for w in network.weights]
    return generated.Network(network.layers, moved, network.biases, network.loss).gradients(x, t)


OUTSIDE = {
    "noise": with_noise,
    "clipped": clipped,
    "weighted rows": weighted_rows,
    "other weights": at_other_weights,
    "missing row": lambda network, x, t, rng: network.gradients(x[1:], t[1:]),
    "shifted inputs": lambda network, x, t, rng: network.gradients(x + 0.1, t),
    "smoothed labels": lambda network, x, t, rng: network.gradients(x, 0.9 * t + 0.05),
    "scaled by 0.37": lambda network, x, t, rng: {k: 0.37 * v for k, v in network.gradients(x, t).items()},
    "squared": lambda network, x, t, rng: {k: v**2 for k, v in network.gradients(x, t).items()},
}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_in_no_space_is_not_called_something_else(name, dtype):
    rng = np.random.default_rng(len(name))
    for _ in range(4):
        layers, loss, weights, biases, x, t = generated.draw(rng)
        x, t = np.concatenate([x] * 2)[:40] + 0.01, np.concatenate([t] * 2)[:40]
        gradients = OUTSIDE[name](generated.Network(layers, weights, biases, loss), x, t, rng)
        parameters = {f"{i}.weight": w for i, w in enumerate(weights)} | {f"{i}.bias": b for i, b in enumerate(biases)}
        net = network_of([(*layer, True) for layer in layers], parameters, dtype)
        gradients = {key: value.astype(dtype) for key, value in gradients.items()}
        report = nnk.diagnose(net, x, t, loss=loss, gradients=gradients)
        assert {finding.code for finding in report.findings} <= UNNAMED, str(report)
        assert not report.ok, "a wrong gradient of a deep network passes as right"
