"""Every snippet of the README runs, and every command of the terminal tool in it is one."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from sklearn.datasets import load_diabetes

import nnkernels as nnk

README = (Path(__file__).parent.parent / "README.md").read_text()
CI = (Path(__file__).parent.parent / ".ci" / "run").read_text()


def test_the_python_snippets_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
    assert "composed on numpy" in capsys.readouterr().out


COMMANDS = sorted(set(re.findall(r"`(nnkernels [a-z][^`]*)`", README)))
LINES = re.search(r"```console\n(.*?)```", README, re.DOTALL)[1].splitlines()


def invoke(command, *more):
    from nnkernels._cli.app import app

    result = CliRunner().invoke(app, [*shlex.split(command)[1:], *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_the_text_runs(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_backprop.py").write_text("parameters = 3.0\nfunction, gradient = lambda p: p**2, lambda p: 2 * p\n")
    shorter = ["--steps", "2000"] if command.startswith("nnkernels demo sine") else []
    assert invoke(command, *shorter)


def test_the_console_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_diabetes(as_frame=True).frame.to_csv("diabetes.csv", index=False)
    output = [invoke(line) for line in LINES]
    assert "always the mean" in output[0]
    assert {path.name for path in tmp_path.iterdir()} == {
        "diabetes.csv",
        "model.safetensors",
        "loss.png",
        "predictions.csv",
    }


def test_the_names_that_the_readme_lists_exist():
    listed = README.partition("- **Activations**")[2].partition("## Devices")[0]
    for name in re.findall(r"`([A-Z]\w+)`", listed):
        assert hasattr(nnk, name)
    for activation in re.search(r": ([^;]*);", listed)[1].split(", "):
        nnk.Dense(1, 1, activation=activation)


def test_ci_runs_the_readmes_own_test_command():
    pattern = re.search(r"grep -E '([^']*)' README.md", CI)[1]
    commands = [line for line in README.splitlines() if re.search(pattern, line)]
    assert len(commands) == 1
    assert commands[0].endswith("pytest -q -n 2")
