"""The benchmarks check what they time and say what they found; their C computes what the reference device does."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks import ours, readme, reference, report
from benchmarks.__main__ import command
from benchmarks.case import WRONG, Case, Row, Settings
from benchmarks.cases import NAMES, autoencoder, mnist_quadratic, mnist_softmax, regression, sine
from benchmarks.cases import many as many_cases
from benchmarks.limits import rows as limits
from benchmarks.operations import LOSSES, Operation
from benchmarks.peers import numpy_by_hand
from benchmarks.peers import sklearn as sklearn_peer
from benchmarks.timing import Absent, interleave
from benchmarks.training import Entry, deviation, training_case
from benchmarks.workers import Workers

ROOT = Path(__file__).parent.parent


# ---- timing ----------------------------------------------------------------------------------------------------------


def test_a_round_runs_every_row_once_and_the_first_does_not_count():
    calls = []

    def row(name, values):
        values = iter(values)

        def run():
            calls.append(name)
            return next(values)

        return run

    measured, lost = interleave({"a": row("a", [9, 1, 2]), "b": row("b", [8, 3, 4])}, 2)
    assert calls == ["a", "b"] * 3
    assert measured == {"a": [1, 2], "b": [3, 4]}
    assert lost == {}


def test_a_row_that_is_lost_on_the_way_leaves_the_others_alone():
    def broken():
        raise Absent("its process died")

    measured, lost = interleave({"a": lambda: 1.0, "b": broken}, 3)
    assert measured == {"a": [1.0] * 3}
    assert lost == {"b": "its process died"}


# ---- the report ------------------------------------------------------------------------------------------------------


def results(more_is_better=False):
    rows = {
        "nnkernels numpy": Row("own", lambda: 2.0, work=2),
        "nnkernels numba, generated": Row("own", None, note='plan="generated" is not there'),
        "JAX": Row("peer", lambda: 4.0),
        "C": Row("limit", lambda: 0.5),
    }
    case = Case("speed", "a case", "GB/s" if more_is_better else "s/step", 1, rows, 2, more_is_better)
    machine = {"processor": "a processor", "cores": 2, "packages": {"numpy": "2.4"}}
    return {"date": "2026-01-01", "machine": machine, "cases": {"speed": case.measure()}}


@pytest.mark.parametrize("more_is_better", [False, True])
def test_figures_and_ratios(more_is_better):
    result = results(more_is_better)["cases"]["speed"]
    assert result["rows"]["nnkernels numpy"]["median"] == 1
    assert report.speed(result, "nnkernels numpy", "JAX") == 4
    assert report.speed(result, "nnkernels numpy", "C") == 0.5
    assert report.best(result, "own") == "nnkernels numpy"


def test_the_report_is_printed_and_its_json_comes_back(tmp_path):
    found, output = results(), StringIO()
    report.show(Console(file=output, width=120), found["cases"]["speed"])
    text = output.getvalue()
    assert 'nnkernels numba, generated: absent, plan="generated" is not there' in text
    assert "best peer: JAX" in text
    report.write_json(found, tmp_path / "found.json")
    assert report.read_json(tmp_path / "found.json") == found


def test_a_picture_a_case(tmp_path):
    found = results()
    for width in (1, 2):
        case = Case("sweep", "", "us/step", 1, {"nnkernels numba, composed": Row("own", lambda: 1.0)}, 1)
        point = {"width": width, "depth": 1, "batch": 1, "chosen": "numba, composed"}
        found["cases"][f"sweep {width}"] = case._replace(point=point).measure()
    written = report.plot(found, tmp_path)
    assert [path.name for path in written] == ["speed.png", "sweep.png"]
    assert all(path.stat().st_size > 5000 for path in written)
    assert set(report.sweep_ratios(report.sweeps(found)).values()) == {1.0}


def test_the_readmes_table_is_that_of_the_newest_results():
    table = readme.markdown(report.read_json(readme.latest()))
    assert table.startswith("| case |")
    assert "| sine |" in table
    text = (ROOT / "README.md").read_text()
    printed = readme.section(text)
    assert printed in (None, table), "run `python -m benchmarks.readme` and paste what it prints"
    assert readme.section(f"{readme.BEGIN}\n{table}\n{readme.END}") == table


# ---- that all compute the same ---------------------------------------------------------------------------------------

PROBLEMS = {
    "sine": lambda: (sine.problem(300), limits.sine, [{}]),
    "sine, float64": lambda: (sine.problem(300, "float64"), limits.sine, [{}]),
    "autoencoder": lambda: (autoencoder.problem(300), limits.autoencoder, [{}]),
    "regression": lambda: (regression.problem(3), limits.regression, [{"threads": 1}, {"threads": 2}]),
    "mnist-softmax, batch 10": lambda: (
        mnist_softmax.problem(10, 1024).first(5),
        limits.mnist,
        [{"threads": 1}, {"threads": 2}],
    ),
    "mnist-softmax, batch 32": lambda: (
        mnist_softmax.problem(32, 1024).first(5),
        limits.mnist,
        [{"threads": 1}, {"threads": 2}],
    ),
    "mnist-quadratic": lambda: (
        mnist_quadratic.problem(1024).first(5),
        limits.mnist,
        [{"threads": 1}, {"threads": 2}],
    ),
}


def built(limit, *arguments, **options):
    """Build a row of C, or skip with the reason why it is absent."""
    try:
        return limit(*arguments, **options)
    except Absent as absent:
        pytest.skip(str(absent))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_reference_and_the_c_agree_with_the_numpy_device(name):
    problem, limit, variants = PROBLEMS[name]()
    expected = ours.fit(problem, device="numpy", way="composed")()()
    assert deviation(reference.train(problem), expected, problem.dtype) == ""
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(problem.start, expected, strict=True))
    for options in variants:
        assert deviation(built(limit, problem, **options)()(), expected, problem.dtype) == ""


@pytest.mark.parametrize("name", PROBLEMS)
def test_numpy_by_hand_agrees_with_the_reference(name):
    problem = PROBLEMS[name]()[0]
    assert deviation(numpy_by_hand.train(problem)()(), reference.train(problem), problem.dtype) == ""


def test_scikit_learn_starts_and_ends_where_the_others_do():
    for problem in (regression.problem(3), mnist_softmax.problem(10, 1024).first(5)):
        assert deviation(sklearn_peer.fit(problem)()(), reference.train(problem), problem.dtype) == ""
    with pytest.raises(Absent, match="squared error"):
        sklearn_peer.fit(mnist_quadratic.problem(1024).first(5))


OPERATIONS = [("matmul_forward", (4, 3, 2)), ("matmul_backward", (4, 3, 2))]
OPERATIONS += [(name, (20, 10)) for name in ("sigmoid_forward", "sigmoid_pair", *LOSSES)]


@pytest.mark.parametrize(("name", "shape"), OPERATIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_single_kernels_agree_with_what_is_expected(name, shape, monkeypatch):
    monkeypatch.setattr(Operation, "loops", 1)
    op = Operation(name, shape)
    for got, right in zip(ours.operation(op, device="numpy")()(), op.expected(), strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sigmoid_forward", "sigmoid_pair"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_sigmoid_in_c_is_right_for_any_length(name, threads, monkeypatch):
    monkeypatch.setattr(Operation, "loops", 1)
    op = Operation(name, (101, 10))
    for got, right in zip(built(limits.operation, op, threads=threads)()(), op.expected(), strict=True):
        np.testing.assert_allclose(got.reshape(right.shape), right, rtol=1e-5, atol=1e-7)


def test_a_row_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(reference, "train", lambda problem: [array + 1.0 for array in problem.start])
    entry = Entry("NumPy by hand", "numpy", "train")
    with Workers() as workers:
        case = training_case(
            Settings(quick=True, devices=("numpy",)),
            workers,
            autoencoder.problem(20),
            [entry],
            name="wrong",
            title="",
            unit="ns/step",
            scale=1e9,
            checked_steps=10,
        )
    assert [row.run for row in case.rows.values()] == [None, None]
    assert all(row.note.startswith(WRONG) for row in case.rows.values())
    assert report.wrong({"cases": {"wrong": case.measure()}}) == ["wrong, nnkernels numpy"]


# ---- the command -----------------------------------------------------------------------------------------------------


def test_every_case_is_there():
    text = CliRunner().invoke(command, ["--help"]).output
    for name in NAMES:
        assert name in text


def test_two_small_cases_run_quickly_as_a_user_runs_them(tmp_path):
    arguments = ["--quick", "--case", "autoencoder", "--case", "import", "--rounds", "1", "--device", "numpy"]
    arguments += ["--peers", "numpy", "--json", str(tmp_path / "found.json"), "--plot", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "x best peer" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["cases"]) == {"autoencoder", "import"}
    assert {"nnkernels numpy", "NumPy by hand"} <= set(found["cases"]["autoencoder"]["rows"])
    assert (tmp_path / "autoencoder.png").exists()


def test_the_terminal_tool_has_the_same_command():
    from nnkernels._cli.app import app

    result = CliRunner().invoke(app, ["bench", "--help"])
    assert result.exit_code == 0
    assert "--quick" in result.output
    assert CliRunner().invoke(app, ["bench", "--case", "nonsense"]).exit_code == 2


def test_without_the_benchmarks_the_terminal_tool_says_where_they_are(monkeypatch):
    from nnkernels._cli.app import app

    monkeypatch.setitem(sys.modules, "benchmarks", None)
    monkeypatch.delitem(sys.modules, "benchmarks.__main__", raising=False)
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 1
    assert "clone the repository" in result.output


# ---- many networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["C", "lanes", "composed"])
def test_many_networks_agree_with_the_reference(row):
    many = many_cases.sines(48, 150)
    fresh = built(limits.many_sine, many) if row == "C" else ours.fit_many(many, device="numba", way=row)
    assert deviation(fresh()(), many.by_reference(), "float32") == ""
    if row != "C":
        regressions = many_cases.regressions(5, 10)
        fresh = ours.fit_many(regressions, device="numba", way=row)
        assert deviation(fresh()(), regressions.by_reference(), "float32") == ""
