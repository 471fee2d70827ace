"""Every snippet of the README runs, and every command of the terminal tool in it is one."""

import re
import shlex
from pathlib import Path

import pytest

import nnkernels as nnk

README = (Path(__file__).parent.parent / "README.md").read_text()
CI = (Path(__file__).parent.parent / ".ci" / "run").read_text()


def test_the_python_snippets_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
    assert "composed on numpy" in capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(nnkernels [a-z][^`]*)`", README))))
def test_the_commands_are_those_of_the_terminal_tool(command):
    from click.testing import CliRunner

    from nnkernels._cli.app import app

    arguments = shlex.split(command)[1:]
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0, result.output
    for option in re.findall(r"--[a-z]+", command):
        assert option in result.output


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
