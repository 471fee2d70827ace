"""A plan is a pure function of the work; it says what it chose, why, and shows the program."""

import ast
import subprocess
import sys

import numpy as np
import pytest

import nnkernels as nnk

X, Y = np.linspace(0, 1, 50), np.linspace(0, 1, 50)


def network(*sizes, device="numba", **kwargs):
    layers = [nnk.Dense(a, b, activation="tanh") for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    return nnk.Sequential(*layers, device=device, rng=0, **kwargs)


def plan(net, steps, batch_size=1, **kwargs):
    x, y = np.zeros((50, net.n_in)), np.zeros((50, net.n_out))
    return net.plan(
        x,
        y,
        loss="half_squared_error",
        optimizer="sgd",
        batch_size=batch_size,
        steps=steps,
        **kwargs,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_long_run_of_a_small_network_is_worth_a_program_and_a_short_one_is_not(dtype):
    """Compiling counts through the number of steps, whatever is in the cache."""
    assert plan(network(1, 10, 1, dtype=dtype), 500_000).way == "generated"
    assert plan(network(1, 10, 1, dtype=dtype), 100).way == "generic"


def test_large_layers_are_composed():
    assert plan(network(1024, 1024, 1024, 10), 10_000, batch_size=50).way == "composed"


def test_equal_work_gives_equal_plans_in_any_process(tmp_path):
    code = (
        "import numpy as np, nnkernels as nnk\n"
        "net = nnk.Sequential(nnk.Dense(1, 9, activation='tanh'), nnk.Dense(9, 1), device='numba', rng=0)\n"
        "for steps in (10, 10**4, 10**7):\n"
        "    plan = net.plan(np.zeros(50), np.zeros(50), loss='huber', batch_size=5, steps=steps)\n"
        "    print(plan.explain(), plan.chunk)\n"
    )
    import os

    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "NNKERNELS_CACHE_DIR": str(tmp_path / number),
                "NNKERNELS_NUM_THREADS": number,
            },
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for number in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert "generated" in printed[0]


@pytest.mark.parametrize("way", ["composed", "generic", "generated"])
def test_a_way_can_be_forced(way):
    net = network(1, 4, 1)
    forced = plan(net, 10, plan=way)
    assert (forced.way, forced.reason) == (way, "asked for")
    history = net.fit(
        X,
        Y,
        loss="half_squared_error",
        optimizer="sgd",
        batch_size=1,
        steps=10,
        plan=way,
    )
    assert history.plan.way == way


def test_explain_predicts_every_way():
    text = plan(network(1, 4, 1), 1000).explain()
    for way in ("composed", "generic", "generated"):
        assert f"predicted  {way}: " in text


def test_ways_that_are_not_there_say_why():
    with pytest.raises(nnk.PlanError, match=r'"generated" is not there on numpy\. Use plan="composed"'):
        plan(network(1, 4, 1, device="numpy"), 10, plan="generated")
    with pytest.raises(nnk.PlanError, match="a layer of 600 units is wider than 256"):
        plan(network(60, 600, 600, 1), 10, plan="generated")


def test_a_plan_of_other_work_is_refused_by_what_differs():
    net = network(1, 4, 1)
    with pytest.raises(nnk.PlanError, match=r"batch was 1, now 7.*factor was 1\.0"):
        plan(net, 10, batch_size=7, plan=plan(net, 10))


def test_the_source_is_the_program(monkeypatch):
    from nnkernels.backends.numba import training

    chosen = plan(network(3, 20, 20, 2), 10**6, batch_size=8)
    tree = ast.parse(chosen.source)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert names[-1] == "run"
    assert chosen.source == plan(network(3, 20, 20, 2), 10**6, batch_size=8).source
    arrays = [line for line in chosen.source.splitlines() if " = workspace + " in line or " = own + " in line]
    assert arrays
    assert all(line.rstrip().endswith(")") and "  # " in line for line in arrays)  # each with its shape
    compiled = []
    program = training.program.__wrapped__
    monkeypatch.setattr(
        training,
        "program",
        lambda source, *rest: compiled.append(source) or program(source, *rest),
    )
    x, y = np.zeros((50, 3)), np.zeros((50, 2))
    network(3, 20, 20, 2).fit(
        x,
        y,
        loss="half_squared_error",
        optimizer="sgd",
        batch_size=8,
        steps=3,
        plan="generated",
    )
    assert compiled == [chosen.source]
    assert plan(network(1, 4, 1), 10, plan="composed").source == ""


def test_explain_is_honest_about_the_work():
    lines = plan(network(1, 4, 1, dtype="float64"), 1000, batch_size=5).explain().splitlines()
    assert lines[0].endswith(": predicted to be fastest")
    assert "1,000 steps of 5 rows from 50, float64" in lines[1]
    assert "1 -> 4 tanh -> 1 tanh, 13 parameters" in lines[2]
    seconds = [float(line.split()[-2]) for line in lines if line.startswith("  predicted")]
    assert len(seconds) == 3
    assert all(number > 0 for number in seconds)


@pytest.mark.parametrize("steps", [1, 100, 10**4, 10**6, 10**8])
@pytest.mark.parametrize("sizes", [(1, 10, 1), (1, 1, 1), (4, 32, 16, 4), (784, 128, 10), (300, 300, 300)])
def test_the_way_that_is_chosen_is_the_one_predicted_to_be_fastest(sizes, steps):
    chosen = plan(network(*sizes), steps, batch_size=10)
    assert chosen.seconds[chosen.way] == min(chosen.seconds.values())
    assert chosen.chunk >= 1
    assert chosen.chunk & (chosen.chunk - 1) == 0
    assert chosen == plan(network(*sizes), steps, batch_size=10)


def test_a_plan_does_not_depend_on_numbers_that_only_scale():
    """So that a sweep over rates and penalties compiles once."""
    net = network(2, 5, 1)
    sources = set()
    for optimizer in (
        nnk.SGD(0.1, momentum=0.5, l2=0.1),
        nnk.SGD(0.3, momentum=0.9, l2=0.2),
    ):
        arguments = {
            "loss": nnk.Huber(),
            "optimizer": optimizer,
            "batch_size": 4,
            "steps": 10,
            "plan": "generated",
        }
        sources.add(net.plan(np.zeros((50, 2)), np.zeros(50), **arguments).source)
    assert len(sources) == 1


def test_a_plan_that_is_no_way_is_refused_with_what_there_is():
    with pytest.raises(
        nnk.PlanError,
        match=r"plan must be one of composed, generic, generated, .*'generatd'",
    ):
        plan(network(1, 4, 1), 10, plan="generatd")


@pytest.mark.parametrize("change", ["steps", "n_rows", "loss", "device"])
def test_a_plan_of_other_work_names_the_difference(change):
    net = network(1, 4, 1)
    arguments = {"loss": "huber", "optimizer": "sgd", "batch_size": 5, "steps": 10}
    made = net.plan(X, Y, **arguments)
    x = X[:40] if change == "n_rows" else X
    changes = {"steps": {"steps": 11}, "loss": {"loss": "absolute_error"}}
    arguments |= changes.get(change, {})
    if change == "device":
        net.to("numpy")
    before = net.parameters.flat.copy()
    with pytest.raises(nnk.PlanError, match=rf"made for other work:.*\b{change} was .*, now "):
        net.fit(x, x, plan=made, **arguments)
    np.testing.assert_array_equal(net.parameters.flat, before)


def test_a_plan_of_weighted_rows_is_one_for_a_fit_of_them():
    net, weight = network(1, 4, 1), np.arange(50.0)
    arguments = {"loss": "half_squared_error", "batch_size": 5, "steps": 10, "sample_weight": weight}
    chosen = net.plan(X, Y, **arguments)
    assert net.fit(X, Y, plan=chosen, **arguments).plan == chosen
    with pytest.raises(nnk.PlanError, match="weighted was True, now False"):
        net.fit(X, Y, plan=chosen, **{**arguments, "sample_weight": None})
