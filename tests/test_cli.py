"""The command line, as a user and as a script meet it."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

import nnkernels as nnk
from nnkernels._cli.app import app

MAIN = [sys.executable, "-W", "error", "-m", "nnkernels"]
COMMANDS = [
    (),
    ("devices",),
    ("train",),
    ("predict",),
    ("sweep",),
    ("demo",),
    ("demo", "autoencoder"),
    ("demo", "sine"),
    ("demo", "saturation"),
    ("demo", "chain"),
    ("demo", "broken-sine"),
    ("check",),
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NNKERNELS_DEVICE", "numpy")

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="nnkernels")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def data(tmp_path):
    """Two kinds of points, with a number and a color; `kind` is a class, `y` a number."""
    rng = np.random.default_rng(0)
    path = tmp_path / "data.csv"
    lines = ["a,color,y,kind"]
    for _ in range(120):
        a, color = rng.normal(), rng.choice(["red", "blue"])
        y = 100 + 10 * a + 20 * (color == "red")
        lines.append(f"{a:.6f},{color},{y:.6f},{'high' if y > 110 else 'low'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def stop_in(text):
    """Return the one line of an error."""
    lines = [line for line in text.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    return lines[0]


# ---- every command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "nnkernels")
def test_help_reads_well(run, command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert "..." not in result.stdout.partition("Commands:")[2]  # no summary is cut
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_help_names_the_exit_codes(run):
    for code in ("0", "1", "2", "3", "130"):
        assert any(line.split()[:1] == [code] for line in run("--help").stdout.splitlines())


def test_version(run):
    assert run("--version").stdout == f"nnkernels {nnk.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("train",),
        ("train", "data.csv"),
        ("train", "data.csv", "--target", "y", "--hidden", "ten"),
        ("train", "data.csv", "--target", "y", "--optimizer", "sgdd"),
        ("train", "data.csv", "--target", "y", "--lr", "0"),
        ("train", "data.csv", "--target", "y", "--delimiter", "two"),
        ("demo", "nothing"),
        ("--steps", "10", "devices"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [("train", "data.csv", "--target", "y"), ("demo", "chain"), ("demo", "sine", "--steps", "5")],
    ids=["train", "chain", "sine"],
)
@pytest.mark.parametrize(("device", "says"), [("cuda:99", "cuda"), ("nmpy", "Did you mean 'numpy'")])
@pytest.mark.usefixtures("data")
def test_an_unavailable_device_is_3(run, arguments, device, says):
    result = run(*arguments, "--device", device, "--json")
    assert result.exit_code == 3
    assert says in stop_in(result.stderr)
    assert result.stdout == ""


# ---- nnkernels, devices ----------------------------------------------------------------------------------------------


def test_without_a_command_all_devices_are_compared(run):
    result = run("--steps", "200")
    assert result.exit_code == 0
    for word in ("numpy", "numba", "composed", "steps per second", "mean squared error"):
        assert word in result.stdout
    for status in nnk.devices():
        assert status.available or status.remedy.split()[0] in result.stdout


def test_the_comparison_as_json(run):
    report = json.loads(run("--steps", "200", "--json").stdout)
    assert report["steps"] == 200
    devices = {device["device"]: device for device in report["devices"]}
    assert set(devices) == {status.device for status in nnk.devices()}
    assert devices["numpy"]["mean_squared_error"] == pytest.approx(devices["numba"]["mean_squared_error"], rel=1e-3)
    assert all(device["available"] or device["reason"] for device in devices.values())


def test_devices(run):
    assert "auto chooses it" in run("devices").stdout
    listed = json.loads(run("devices", "--json").stdout)
    assert [device["device"] for device in listed] == [status.device for status in nnk.devices()]
    assert sum(device["auto"] for device in listed) == 1
    assert json.loads(run("--json", "devices").stdout) == listed


# ---- train, predict --------------------------------------------------------------------------------------------------


def test_train_then_predict_a_number(run, data):
    result = run("train", data, "--target", "y", "--ignore", "kind", "--out", "m.safetensors", "--plot", "loss.png")
    assert result.exit_code == 0, result.stderr
    for words in ("regression of 'y'", "--task classification overrides", "R^2", "RMSE", "always the mean", "on numpy"):
        assert words in result.stdout
    assert (data.parent / "loss.png").read_bytes().startswith(b"\x89PNG")
    result = run("predict", "m.safetensors", data)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    truth = [float(row["y"]) for row in csv.DictReader(io.StringIO(data.read_text()))]
    predicted = [float(row["y"]) for row in rows]
    assert np.corrcoef(truth, predicted)[0, 1] > 0.97
    assert run("predict", "m.safetensors", data, "--out", "p.csv").exit_code == 0
    assert (data.parent / "p.csv").read_text() == result.stdout
    assert sorted(path.name for path in data.parent.iterdir()) == ["data.csv", "loss.png", "m.safetensors", "p.csv"]


def test_train_then_predict_a_class_as_json(run, data):
    report = json.loads(run("train", data, "--target", "kind", "--out", "m.safetensors", "--json").stdout)
    assert report["task"] == "classification"
    assert report["rows"] == {"train": 78, "validation": 18, "test": 24}
    assert report["metrics"]["accuracy"] > report["baseline"]["accuracy"]
    assert report["best_epoch"] <= report["epochs"]
    report = json.loads(run("predict", "m.safetensors", data, "--json").stdout)
    assert report["classes"] == ["high", "low"]
    for label, row in zip(report["predictions"], report["probabilities"], strict=True):
        assert label == report["classes"][int(np.argmax(row))]
        assert sum(row) == pytest.approx(1)
    header = run("predict", "m.safetensors", data).stdout.splitlines()[0]
    assert header == "kind,p(high),p(low)"


def test_the_same_seed_is_the_same_result(run, data):
    def metrics(seed):
        return json.loads(run("train", data, "--target", "y", "--seed", seed, "--epochs", 3, "--json").stdout)[
            "metrics"
        ]

    assert metrics(1) == metrics(1) != metrics(2)


def test_options_reach_the_network(run, data):
    options = ["--hidden", "7", "--activation", "relu", "--loss", "huber", "--optimizer", "sgd", "--lr", "0.1"]
    options += ["--epochs", "2", "--batch-size", "5", "--patience", "1"]
    result = run("train", data, "--target", "y", "--ignore", "kind", *options)
    assert "3 -> 7 relu -> 1 identity" in result.stdout
    result = run("train", data, "--target", "y", "--ignore", "kind", "--hidden", "", "--json")
    assert json.loads(result.stdout)["layers"] == [3, 1]


def test_notes_are_beside_the_result(run, data):
    data.write_text(data.read_text().replace(",", ";"))
    result = run("train", data, "--target", "y", "--epochs", 2)
    assert "note: the delimiter is ';'" in result.stderr
    assert "note:" not in result.stdout
    result = run("train", data, "--target", "y", "--epochs", 2, "--json")
    assert result.stderr == ""
    assert any("delimiter" in message for message in json.loads(result.stdout)["notes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "Y"), "Did you mean 'y'?"),
        (("--target", "y", "--delimiter", "tab"), "delimiter"),
        (("--target", "y", "--out", "none/m.safetensors"), "there is no folder"),
        (("--target", "y", "--out", "."), "is a folder"),
        (("--target", "y", "--plot", "loss.bmp"), "must end in .png"),
        (("--target", "y", "--plot", "none/loss.png"), "there is no folder"),
        (("--target", "y", "--lr", "1e30"), "not finite at step"),
        (("--target", "kind", "--loss", "huber"), "is for regression"),
    ],
    ids=["target", "delimiter", "folder", "is a folder", "picture", "picture's folder", "divergence", "loss"],
)
@pytest.mark.usefixtures("data")
def test_what_the_user_can_mend_is_1_and_one_line(run, tmp_path, arguments, message):
    result = run("train", "data.csv", *arguments, "--json")
    assert result.exit_code == 1
    assert message in stop_in(result.stderr)
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_outputs_are_checked_before_anything_is_read(run):
    assert "there is no folder" in run("train", "none.csv", "--target", "y", "--out", "none/m.safetensors").stderr
    assert "there is no folder" in run("predict", "none.safetensors", "none.csv", "--out", "none/p.csv").stderr


def test_a_target_beyond_float64_is_told_before_training(run, tmp_path):
    (tmp_path / "huge.csv").write_text("a,y\n" + "".join(f"{i},{i - 29.5}e200\n" for i in range(60)))
    result = run("train", "huge.csv", "--target", "y", "--out", "m.safetensors", "--json")
    assert result.exit_code == 1
    assert "the target 'y' varies beyond the reach of float64" in stop_in(result.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["huge.csv"]


@pytest.mark.parametrize("content", [None, "", "a,y\n", "a,y\n1,2\n"], ids=["absent", "empty", "header", "one row"])
def test_files_without_data(run, tmp_path, content):
    if content is not None:
        (tmp_path / "few.csv").write_text(content)
    result = run("train", "few.csv", "--target", "y")
    assert result.exit_code == 1
    assert "few.csv" in stop_in(result.stderr)


def test_predict_names_what_is_wrong(run, data, tmp_path):
    assert (
        run("train", data, "--target", "y", "--ignore", "kind", "--epochs", 1, "--out", "m.safetensors").exit_code == 0
    )
    lacking = tmp_path / "lacking.csv"
    lacking.write_text("color\nred\n")
    other = tmp_path / "other.csv"
    other.write_text("b\n1\n")
    for model, table, message in [
        ("m.safetensors", "lacking.csv", "no column 'a'"),
        ("m.safetensors", "other.csv", "lacks columns that the model needs: a, color"),
        ("none.safetensors", "data.csv", "none.safetensors"),
        ("data.csv", "data.csv", "no safetensors file"),
    ]:
        result = run("predict", model, table, "--out", "p.csv")
        assert result.exit_code == 1
        assert message in stop_in(result.stderr)
    assert not (tmp_path / "p.csv").exists()


def test_without_matplotlib_plot_says_what_to_install(run, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    result = run("train", data, "--target", "y", "--plot", "loss.png")
    assert result.exit_code == 1
    assert "pip install 'nnkernels[plot]'" in stop_in(result.stderr)


# ---- demo ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("autoencoder",), "1 comes back"),
        (("autoencoder", "--balanced"), "critical point"),
        (("sine", "--range", "15", "--steps", "300"), "--scale"),
        (("saturation",), "1.93e-22"),
        (("chain",), "parity"),
        (("broken-sine",), "slope_at_activation"),
    ],
    ids=["autoencoder", "balanced", "sine", "saturation", "chain", "broken-sine"],
)
def test_demos_tell_their_story(run, tmp_path, arguments, words):
    result = run("demo", *arguments, "--plot", "picture.svg")
    assert result.exit_code == 0
    assert words in result.stdout
    assert "<svg" in (tmp_path / "picture.svg").read_text()
    report = json.loads(run("demo", *arguments, "--json").stdout)
    assert report["device"] == "numpy"


# ---- check -----------------------------------------------------------------------------------------------------------

BACKPROP = """
import numpy as np
import nnkernels as nnk
from beside import rows

network = nnk.Sequential(nnk.Dense(2, 4, activation="sigmoid"), nnk.Dense(4, 1), dtype="float64", rng=0)
x, y = rows()
loss = "half_squared_error"
W0, b0, W1, b1 = network.parameters.to_host().values()
a = 1 / (1 + np.exp(-(x @ W0 + b0)))
delta1 = SIGN * (a @ W1 + b1 - y) / len(x)
delta0 = delta1 @ W1.T * a * (1 - a)
gradients = {"0.weight": x.T @ delta0, "1.weight": (a.T @ delta1).T}
"""


@pytest.fixture
def backprop(tmp_path):
    (tmp_path / "beside.py").write_text(
        "import numpy as np\ndef rows():\n    rng = np.random.default_rng(0)\n"
        "    return rng.normal(size=(9, 2)), rng.normal(size=(9, 1))\n"
    )

    def write(text):
        (tmp_path / "mine.py").write_text(text)
        return "mine.py"

    return write


def test_check_is_1_with_findings_and_0_without(run, backprop, tmp_path):
    result = run("check", backprop(BACKPROP.replace("SIGN", "-1")), "--save", "page.html")
    assert result.exit_code == 1
    assert "sign" in result.stdout
    assert "delta1 = (p - t) / B" in result.stdout
    assert "<!doctype html>" in (tmp_path / "page.html").read_text()
    result = run("check", backprop(BACKPROP.replace("SIGN", "1")))
    assert result.exit_code == 0
    assert "nothing wrong found" in result.stdout


def test_check_as_json(run, backprop):
    result = run("check", backprop(BACKPROP.replace("SIGN", "-1")), "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [finding["code"] for finding in report["findings"]] == ["sign"]
    assert report["status"]["0.bias"] == "not given"


def test_check_of_a_function_without_a_network(run, backprop):
    text = "import numpy as np\nparameters = np.array([1.0, 2.0])\ndef function(p): return (p**2).sum()\n"
    result = run("check", backprop(text + "def gradient(p): return p\n"))
    assert result.exit_code == 1
    assert "gradient_differs" in result.stdout
    assert run("check", backprop(text + "def gradient(p): return 2 * p\n")).exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("x = 3\n1 / 0\n", "mine.py, line 2: ZeroDivisionError"),
        ("network = None\n", "defines no x"),
        ("import numpy\n", "defines no function"),
        (BACKPROP.replace("SIGN", "1").replace('"0.weight":', '"0.weigth":'), "Did you mean '0.weight'"),
        (BACKPROP.replace("SIGN", "1").replace("x.T @ delta0", "np.zeros(3)"), "no orientation"),
    ],
    ids=["absent", "raises", "no x", "nothing", "name", "shape"],
)
def test_files_that_cannot_be_checked_are_one_line(run, backprop, text, message):
    if text is not None:
        backprop(text)
    result = run("check", "mine.py", "--json")
    assert result.exit_code == 1
    assert message in stop_in(result.stderr)
    assert result.stdout == ""


# ---- the real thing --------------------------------------------------------------------------------------------------


def test_the_command_runs_as_a_process(tmp_path):
    result = subprocess.run(
        [*MAIN, "devices", "--json"], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)
    result = subprocess.run(
        [*MAIN, "train", "none.csv", "--target", "y"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert stop_in(result.stderr) == "error: none.csv: No such file or directory"


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_click_or_rich_it_says_what_to_install(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from nnkernels.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert stop_in(result.stderr) == f"error: the command line needs {missing}: pip install 'nnkernels[cli]'"


def test_help_waits_for_nothing_heavy(unwatched):
    code = """
import sys, nnkernels._cli.app
assert not {"pandas", "matplotlib", "rich.table", "numba", "sklearn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60, env=unwatched)


def on_a_terminal(arguments, cwd, **environment):
    """Run a command on a pseudo-terminal and return what it shows."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals, which this system has not")
    ours, theirs = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    variables |= {"TERM": "xterm-256color", "NNKERNELS_DEVICE": "numpy"} | environment
    process = subprocess.Popen([*MAIN, *arguments], stdout=theirs, stderr=theirs, stdin=theirs, cwd=cwd, env=variables)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return shown.decode()


def test_a_terminal_gets_a_bar_and_colors_and_no_color_is_honored(data):
    arguments = ["train", str(data), "--target", "y", "--epochs", "30", "--patience", "30"]
    shown = on_a_terminal(arguments, data.parent)
    assert "training" in shown
    assert "\x1b[91m" in shown or "\x1b[38;" in shown
    plain = on_a_terminal(arguments, data.parent, NO_COLOR="1")
    assert "training" in plain
    assert "\x1b[91m" not in plain
    assert "\x1b[38;" not in plain
    piped = subprocess.run([*MAIN, *arguments], capture_output=True, text=True, check=True, timeout=60)
    assert "\x1b" not in piped.stdout + piped.stderr
    assert piped.stderr == ""


def test_ctrl_c_saves_the_weights_so_far(data, unwatched):
    # The handler is set anew, since a shell may have started these tests with SIGINT ignored.
    anew = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{anew}; from nnkernels.__main__ import main; main()"
    options = ["--epochs", "10000000", "--patience", "10000000", "--device", "numpy", "--out", "m.safetensors"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", data.name, "--target", "y", *options],
        cwd=data.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=unwatched,
    )
    for line in process.stdout:  # the last line before training begins
        if line.startswith("network"):
            break
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "m.interrupted.safetensors" in stop_in(errors)
    assert not (data.parent / "m.safetensors").exists()
    predicted = subprocess.run(
        [*MAIN, "predict", "m.interrupted.safetensors", data.name], cwd=data.parent, capture_output=True, check=True
    )
    assert len(predicted.stdout.splitlines()) == 121


# ---- sweep -----------------------------------------------------------------------------------------------------------


def test_a_sweep_finds_the_best_and_keeps_it(run, data, tmp_path):
    grid = "lr=0.00001,0.02 hidden=4,6x3 optimizer=adam"
    common = ("sweep", data, "--target", "kind", "--grid", grid, "--epochs", 20)
    result = run(*common, "--out", "best.safetensors", "--results", "all.csv", "--plot", "all.png")
    assert result.exit_code == 0, result.output
    assert "4 configurations, 0 of them without a result" in result.stdout
    assert "best: lr 0.02" in result.stdout
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [row["hidden"] for row in rows] == ["4", "6x3"] * 2
    assert all(float(row["loss of fold 2"]) > 0 for row in rows)
    assert (tmp_path / "all.png").stat().st_size > 5000
    assert run("predict", "best.safetensors", data).exit_code == 0
    report = json.loads(run(*common, "--json").stdout)
    assert report["best"]["lr"] == 0.02
    assert report["metrics"]["accuracy"] > report["baseline"]["accuracy"]
    assert len(report["records"]) == 4


@pytest.mark.parametrize(
    ("grid", "text"),
    [
        ("", "it is empty"),
        ("width=3", "is not one of lr, hidden"),
        ("lr=fast", "could not convert"),
        ("activation=tahn", "Did you mean"),
        ("hidden=", "is not one of"),
    ],
)
def test_a_grid_that_is_none_is_wrong_usage(run, data, grid, text):
    result = run("sweep", data, "--target", "y", "--grid", grid)
    assert result.exit_code == 2
    assert text in result.stderr


def test_a_sweep_without_a_result_is_an_error(run, data):
    result = run("sweep", data, "--target", "y", "--grid", "hidden=0", "--epochs", 1)
    assert result.exit_code == 1
    assert "no configuration could be trained" in stop_in(result.stderr)
