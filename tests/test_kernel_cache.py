"""Compiled kernels are kept for the next process, in a folder of the user's own."""

import inspect
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.backends.numba.compile import kernel

CODE = """
import logging, numpy as np
logging.basicConfig(format="%(levelname)s %(message)s")
from nnkernels.backends.numba import kernels
z = np.array([[-1.0, 0.0, 2.0]])[:, ::2]  # with gaps: a loop of Numba's
kernels.relu_forward(z, out=z)
assert z.tolist() == [[0.0, 2.0]]
print(sum(kernels.relu_forward.__wrapped__.stats.cache_hits.values()))
"""


@pytest.fixture
def run(tmp_path):
    """Call a kernel in a process of its own and return (cache hits, what it logged)."""

    def call(cache, cwd=tmp_path, **environment):
        variables = {name: value for name, value in os.environ.items() if name != "NUMBA_JIT_COVERAGE"} | environment
        if cache is not None:
            variables["NNKERNELS_CACHE_DIR"] = str(cache)
        done = subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=variables, cwd=cwd
        )
        return int(done.stdout), done.stderr

    return call


def test_the_next_process_does_not_compile_again(run, tmp_path):
    assert run(tmp_path / "kernels") == (0, "")
    assert run(tmp_path / "kernels") == (1, "")


def test_the_cache_is_the_users_own(run, tmp_path):
    run(tmp_path / "kernels")
    modes = {folder.name.partition("-")[0]: folder.stat().st_mode for folder in (tmp_path / "kernels").iterdir()}
    assert {name: stat.S_IMODE(mode) for name, mode in modes.items()} == {"numba": 0o700, "programs": 0o700}


def test_without_being_told_the_cache_is_in_the_users_cache_folder(run, tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path), "NNKERNELS_CACHE_DIR": ""}
    assert run(None, **environment)[0] == 0
    assert run(None, **environment)[0] == 1
    assert (tmp_path / "nnkernels").is_dir()


def test_a_folder_that_cannot_be_written_costs_one_warning_and_nothing_else(run, tmp_path):
    (tmp_path / "file").write_text("")
    hits, logged = run(tmp_path / "file" / "kernels")
    assert hits == 0
    assert logged.count("WARNING compiled kernels cannot be cached") == 1
    assert "set NNKERNELS_CACHE_DIR" in logged


@pytest.mark.parametrize("edited", ["numba/kernels.py", "numpy/random.py"])
def test_an_edit_of_any_source_that_kernels_take_from_is_noticed(run, tmp_path, edited):
    shutil.copytree(Path(nnk.__file__).parent, tmp_path / "nnkernels", ignore=shutil.ignore_patterns("__pycache__"))
    run(tmp_path / "kernels")
    assert run(tmp_path / "kernels")[0] == 1
    source = tmp_path / "nnkernels" / "backends" / edited
    source.write_text(source.read_text() + "\n# edited\n")
    assert run(tmp_path / "kernels")[0] == 0


# ---- a kernel before and after its first call ------------------------------------------------------------------------


def double(x, *, out):
    """Twice as much."""
    for i in range(x.size):
        out.flat[i] = 2 * x.flat[i]


def test_a_kernel_looks_like_its_function_and_is_compiled_when_it_is_called():
    lazy = kernel(double)
    assert lazy.__name__ == "double"
    assert lazy.__doc__ == double.__doc__
    assert inspect.signature(lazy) == inspect.signature(double)
    assert not hasattr(lazy, "__array__")
    assert "dispatcher" not in vars(lazy)
    out = np.empty(3)
    lazy(np.arange(3.0), out=out)
    assert out.tolist() == [0, 2, 4]
    assert "dispatcher" in vars(lazy)
    assert len(lazy.signatures) == 1  # an attribute of Numba's


def test_a_kernel_may_be_asked_of_before_it_is_called():
    assert kernel(double).signatures == []


def test_threads_that_call_a_kernel_first_share_what_is_compiled():
    lazy, start, seen = kernel(double), threading.Barrier(4), []

    def call():
        out = np.empty(3)
        start.wait()
        lazy(np.arange(3.0), out=out)
        seen.append((id(lazy.dispatcher), out.tolist()))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(id(lazy.dispatcher), [0, 2, 4])] * 4


def test_a_kernel_that_another_one_calls_is_compiled_with_it(tmp_path):
    """In a process without cached kernels: one that is loaded brings along what it calls."""
    code = """
import numpy as np
from nnkernels.backends.numba import kernels
z = np.array([[0.0, 9.0, 1.0]])[:, ::2]  # with gaps: a loop of Numba's
out = np.empty((1, 4))[:, ::2]
kernels.softmax_forward(z, out=out)
np.testing.assert_allclose(out, np.exp(z) / np.exp(z).sum())
assert "dispatcher" in vars(kernels._softmax)
"""
    environment = os.environ | {"NNKERNELS_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)
