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

from benchmarks import cycles, floors, gpu, ours, readme, reference, report
from benchmarks.__main__ import command
from benchmarks.case import FAILED, WRONG, Case, Row, Settings
from benchmarks.cases import (
    GPU_NAMES,
    NAMES,
    autoencoder,
    many,
    many_regression,
    mnist_quadratic,
    mnist_softmax,
    regression,
    sine,
)
from benchmarks.limits import rows as limits
from benchmarks.operations import LOSSES, Operation
from benchmarks.peers import numpy_by_hand
from benchmarks.peers import sklearn as sklearn_peer
from benchmarks.timing import Absent, Failed, Measured, interleave
from benchmarks.training import Entry, deviation, gpu_entries, training_case
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


def test_a_row_of_ours_that_breaks_is_kept_and_makes_the_run_fail(capfd):
    def broken():
        raise Failed(f"{FAILED}: KernelFault: an illegal address")

    case = Case("sine", "", "s", 1, {"nnkernels cuda": Row("own", broken), "JAX": Row("peer", lambda: 1.0)}, 1)
    result = case.measure()
    assert "median" in result["rows"]["JAX"]
    assert report.wrong({"cases": {"sine": result}}) == ["sine, nnkernels cuda"]
    with Workers() as workers:
        with pytest.raises(Failed, match="TypeError"):
            workers.row("benchmarks.ours", "fit", None, processors=1, nonsense=True)
        broke = workers.running["benchmarks.ours", 1, False]
        workers.row("benchmarks.ours", "fit", autoencoder.problem(2), processors=1, device="numpy", way="composed")
        assert workers.running["benchmarks.ours", 1, False] is not broke, "its process is not asked again"
    assert "Traceback" in capfd.readouterr().err


def test_a_row_that_takes_too_long_to_build_is_absent():
    with Workers(patience=0.01) as workers, pytest.raises(Absent, match="took longer than"):
        workers.row("benchmarks.ours", "fit", autoencoder.problem(2), processors=1, device="numpy", way="composed")


def test_a_run_may_time_itself(monkeypatch):
    monkeypatch.setattr(ours, "fit", lambda: lambda: lambda: Measured(0.25, "the weights"))
    rows = {}
    workers_answer = sys.modules["benchmarks.workers"]._answer
    workers_answer("benchmarks.ours", rows, "build", 1, "fit", (), {})
    assert workers_answer("benchmarks.ours", rows, "run", 1) == 0.25
    assert workers_answer("benchmarks.ours", rows, "result", 1) == "the weights"


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


# ---- on a GPU: what can be tested without one ------------------------------------------------------------------------


def test_the_work_of_a_step_is_what_it_is_by_hand():
    """mnist-softmax, batch 32: 784-128-10."""
    work = floors.of_step(mnist_softmax.gpu_problem(32, 1))
    assert work.flop == 2 * 32 * (2 * 784 * 128 + 3 * 128 * 10)
    assert work.special == 32 * (2 * 128 + 10 + 2)
    assert work.moved == 4 * 32 * (784 + 10)  # parameters and activations stay on the chip
    assert work.held == 4 * (20_480 * (784 + 10) + 2 * 32 * 128)
    seconds = work.seconds(floors.H200)
    assert seconds["arithmetic"] == pytest.approx(work.flop / 66.9e12, rel=1e-3)
    assert seconds["special functions"] == pytest.approx(work.special / 4.18e12, rel=1e-3)
    assert seconds["memory"] == work.moved / 4.8e12
    assert work.floor(floors.H200)[0] == "arithmetic"


def test_the_chain_of_the_sine_is_what_it_is_by_hand():
    """Multiply and ex2, 1 + e, rcp and its correction; multiply, shared memory, a tree over 10; the update."""
    work = floors.of_step(sine.problem(1))
    assert work.cycles == (4 + 20) + 4 + (20 + 8) + (4 + 29 + 4 * 4) + 4
    assert work.floor(floors.H200) == ("latency chain", work.cycles / 1.98e9)
    two_rows = floors.of_step(autoencoder.problem(1))
    assert two_rows.cycles == 2 * 56 + 4 + 4 + (4 + 29 + 4 * 4) + 4


def test_the_floor_of_many_networks_is_that_of_the_special_functions():
    work = floors.of_many(many.problem(65536, 1))
    assert work.special == 65536 * 20
    name, seconds = work.floor(floors.H200)
    assert name == "special functions"
    assert 65536 / seconds == pytest.approx(132 * 16 * 1.98e9 / 20)


def test_the_floor_of_a_large_elementwise_kernel_is_memory():
    op = Operation("sigmoid_forward", (10**7, 10), cold=True)
    assert floors.of_operation(op).floor(floors.H200) == ("memory", 8e8 / 4.8e12)
    assert floors.of_operation(op).floor(floors.H100) == ("memory", 8e8 / 3.35e12)
    product = floors.of_operation(Operation("matmul_backward", (4, 3, 2)))
    assert product.flop == pytest.approx(2 * 2 * 4 * 3 * 2)
    assert product.moved == 4 * (2 * (4 * 3 + 3 * 2) + 4 * 2)


def test_predictions_are_above_the_floors_and_in_the_readme():
    works = floors.works()
    assert set(works) == set(floors.PREDICTIONS)
    for name, prediction in floors.PREDICTIONS.items():
        assert prediction.seconds > works[name].floor(floors.H200)[1], name
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert floors.markdown() in text, "run `python -m benchmarks.floors` and paste what it prints"


def instruction(address, text, stall, sets=7, waits=0):
    """Return an instruction as nvdisasm prints it."""
    control = (waits << 11 | sets << 5 | stall) << 41
    return f"        /*{address:04x}*/  {text} ;  /* 0x{0:016x} */\n    /* 0x{control:016x} */\n"


def test_the_cycles_of_a_loop_are_what_they_are_by_hand():
    """A special function that is waited for, and the slow path of a division, which is not taken."""
    text = instruction(0x0, "MOV R1, RZ", 4)
    text += ".L_x_4:\n" + instruction(0x10, "MUFU.EX2 R4, R4", 1, sets=2)
    text += instruction(0x20, "FADD R5, R4, 1", 4, waits=0b100)
    text += instruction(0x30, "@P0 BRA `(.L_x_2)", 5)
    text += instruction(0x40, "MOV R6, 0x60", 7) + instruction(0x50, "CALL.REL.NOINC `(slow)", 5)
    text += instruction(0x60, "BRA `(.L_x_3)", 5)
    text += ".L_x_2:\n" + instruction(0x70, "FMUL R4, R5, R5", 4) + ".L_x_3:\n"
    text += instruction(0x80, "@!P1 BRA `(.L_x_4)", 6) + instruction(0x90, "EXIT", 5)
    body = cycles.loop(cycles.parse(text))
    assert [one.name for one in body] == ["MUFU.EX2", "FADD", "BRA", "FMUL", "BRA"]
    found = cycles.estimate(body)
    assert found.cycles == 20 + 4 + 5 + 4 + 6
    assert found.waits == [(19, "FADD R5, R4, 1")]


def test_the_program_of_the_sine_is_estimated_from_its_machine_code():
    try:
        found = cycles.of_problem(sine.problem(1))
    except Absent as absent:
        pytest.skip(str(absent))
    assert floors.of_step(sine.problem(1)).cycles < found.cycles < 500
    assert 50 < found.instructions < 200


def test_every_peer_on_a_gpu_runs_what_takes_about_as_long():
    run = sine.problem(500_000, drawn=30_000)
    assert len(run.order) == 30_000
    shares = {entry.name: entry.share * run.steps for entry in gpu_entries(run)}
    assert shares["JAX scan"] == pytest.approx(30_000)
    assert shares["PyTorch Module"] == pytest.approx(600)
    assert "PyTorch CUDA graphs, compiled" in shares
    adam = {entry.function for entry in gpu_entries(regression.problem(2000), compiled=False)}
    assert adam == {"scan", "module_graphs", "by_hand", "module"}


class Clock:
    """Stands in for a GPU's events: the calls are made, and no time passes."""

    def zero(self):
        pass

    def seconds_of(self, call, loops):
        for _ in range(loops):
            call()
        return 1.0


@pytest.fixture
def no_events(monkeypatch):
    monkeypatch.setattr(ours, "_scrap", Clock)


@pytest.mark.parametrize("device", ["cuda"])
@pytest.mark.parametrize("form", ["thread", "warp"])
def test_whole_run_programs_of_many_networks_agree_with_the_reference(device, form, no_events, emulator, monkeypatch):
    run = many.problem(5, 20, 20)
    monkeypatch.setattr(ours, "ORDER_BYTES", 8 * 5 * 7)  # three launches
    seconds, got = ours.program(run, device=device, form=form)()()
    assert seconds == 1
    assert deviation(got, reference.train_many(run), "float32") == ""
    assert any(np.abs(a - b).max() > 1e-2 for a, b in zip(got, run.start, strict=True))


@pytest.mark.parametrize("device", ["cuda"])
@pytest.mark.parametrize("way", ["composed", "generated"])
def test_our_fit_is_timed_by_its_history(device, way, no_events, emulator):
    run = sine.problem(50)
    seconds, got = ours.fit(run, device=device, way=way)()()
    assert 0 < seconds < 60
    assert deviation(got, reference.train(run), "float32") == ""


@pytest.mark.parametrize("device", ["cuda"])
@pytest.mark.parametrize("name", ["matmul_forward", "sigmoid_pair", "huber"])
def test_our_single_kernels_are_called_with_a_cold_cache(device, name, no_events, emulator):
    op = Operation(name, (20, 10, 4) if "matmul" in name else (20, 10), cold=True)
    _, got = ours.operation(op, device=device)()()
    for array, right in zip(got, op.expected(), strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-4, atol=1e-5)


def test_the_reference_of_many_networks_is_that_of_each():
    run = many.problem(3, 15, 15)
    together = reference.train_many(run)
    for number in range(3):
        one = sine.problem(15)
        one.order[:, 0] = run.order[:, number]
        alone = type(one)(
            **{name: getattr(one, name) for name in one.__dataclass_fields__}
            | {"start": [array[number] for array in run.start], "lr": float(run.rates[number])}
        )
        for got, right in zip(together, reference.train(alone), strict=True):
            np.testing.assert_allclose(got[number], right, rtol=1e-12)


@pytest.mark.skipif(gpu.name() is not None, reason="there is a GPU")
def test_without_a_gpu_every_row_of_its_benchmark_says_why_it_is_absent(tmp_path):
    file = tmp_path / "found.json"
    arguments = ["--device", "cuda", "--quick", "--json", str(file), "--rounds", "1"]
    for name in ("sine", "many", "kernels", "sweep"):
        arguments += ["--case", name]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    rows = [(name, row) for result in found["cases"].values() for name, row in result["rows"].items()]
    assert len(found["cases"]) > 6
    assert found["machine"]["gpu"] is None
    for name, row in rows:
        assert ("median" in row) == name.startswith("floor: "), name
        assert row["note"], name
    own = [row["note"] for name, row in rows if name.startswith("nnkernels") and "ensemble" not in name]
    assert all(note.startswith('"cuda" ') for note in own), own
    assert {row["note"] for name, row in rows if name.startswith("floor")} == {"computed for an H200, not measured"}


def test_on_a_gpu_no_case_begins_after_the_time_is_over(tmp_path):
    file = tmp_path / "found.json"
    done = CliRunner().invoke(
        command, ["--device", "cuda", "--quick", "--peers", "none", "--minutes", "0.0001", "--json", str(file)]
    )
    assert done.exit_code == 0, done.output
    assert list(json.loads(file.read_text())["cases"]) == ["sine"]
    assert "stopped after sine. Left: mnist-softmax, many" in " ".join(done.output.split())


def test_the_cases_of_a_gpu_are_cases():
    assert set(GPU_NAMES) < set(NAMES)


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


@pytest.mark.parametrize("row", ["C", "numba", "numpy"])
def test_many_networks_agree_with_the_reference(row):
    run = many.problem(48, 100, 100)
    fresh = built(limits.many_sine, run, threads=2) if row == "C" else ours.ensemble(run, device=row)
    assert deviation(fresh()(), reference.train_many(run), "float32") == ""
    if row != "C":
        copies = many_regression.problem(5, 10)
        assert deviation(ours.copies(copies, device=row)()(), copies.by_reference(), "float32") == ""
