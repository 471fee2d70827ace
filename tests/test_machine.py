"""Compiled programs are kept for the next process, in a folder of the user's own, and loaded without Numba."""

import ctypes
import shutil
import stat
import subprocess
import sys
import threading
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.backends.numba import machine
from nnkernels.backends.numba.language import LanguageError, Target
from nnkernels.backends.numba.machine import Program

TARGET = Target("float64", 4)
SOURCE = """
def apply(n: int, out: ints):
    for i in range(n):
        out[i] = i * i
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "programs"


def works(program):
    """Tell whether a program does what its source says."""
    out = np.zeros(5, np.int64)
    program.function("apply", ctypes.c_int64, ctypes.c_void_p)(5, out.ctypes.data)
    return out.tolist() == [0, 1, 4, 9, 16]


# ---- one process -----------------------------------------------------------------------------------------------------


def test_the_same_program_is_compiled_once(cache):
    first, second = Program(SOURCE, TARGET), Program(SOURCE, TARGET)
    assert (first.cached, second.cached) == (False, True)
    assert works(first)
    assert works(second)
    assert len(list(cache.iterdir())) == 1


def test_another_source_type_or_width_is_another_program(cache):
    for program in (
        (SOURCE, TARGET),
        (SOURCE.replace("i * i", "i * i + 0 * n"), TARGET),
        (SOURCE, Target("float32", 4)),
        (SOURCE, Target("float64", 8)),
    ):
        compiled = Program(*program)
        assert not compiled.cached
        assert works(compiled)
    assert len(list(cache.iterdir())) == 4


def test_the_cache_is_the_users_own(cache):
    Program(SOURCE, TARGET)
    (file,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


DAMAGES = {
    "empty": lambda data: b"",
    "cut within its digest": lambda data: data[:20],
    "cut": lambda data: data[: len(data) // 2],
    "one bit": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "longer": lambda data: data + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(cache, damage):
    Program(SOURCE, TARGET)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    again = Program(SOURCE, TARGET)
    assert not again.cached
    assert works(again)
    assert file.read_bytes() == whole
    assert Program(SOURCE, TARGET).cached


def test_a_mistake_leaves_no_file(cache):
    with pytest.raises(LanguageError):
        Program(SOURCE.replace("i * i", "nothing"), TARGET)
    assert not cache.exists()


def test_a_function_outlives_its_program(cache):
    apply = Program(SOURCE, TARGET).function("apply", ctypes.c_int64, ctypes.c_void_p)
    others = [Program(SOURCE.replace("i * i", f"{k}"), TARGET) for k in range(5)]
    out = np.zeros(5, np.int64)
    apply(5, out.ctypes.data)
    assert out.tolist() == [0, 1, 4, 9, 16]
    assert not any(other.cached for other in others)


def test_threads_may_compile_at_once(cache):
    sources, results = [SOURCE, SOURCE.replace("apply(n", "apply(m").replace("(n)", "(m)")], []

    def compile_and_run(source):
        results.append(works(Program(source, TARGET)))

    threads = [threading.Thread(target=compile_and_run, args=(sources[k % 2],)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6


def test_machine_code_can_be_looked_at():
    assert "apply:" in machine.assembly(SOURCE, TARGET)
    assert "define" in str(machine.optimized(SOURCE, TARGET))


def test_vectors_are_as_wide_as_registers():
    assert machine.vector_bytes() in (16, 32, 64)


# ---- the next process ------------------------------------------------------------------------------------------------

CODE = f"""
import ctypes, logging, sys
import numpy as np
logging.basicConfig(format="%(levelname)s %(message)s")
from nnkernels.backends.numba.language import Target
from nnkernels.backends.numba.machine import Program
program = Program({SOURCE!r}, Target("float64", 4))
more = Program({SOURCE.replace("i * i", "i")!r}, Target("float64", 4))
out = np.zeros(5, np.int64)
program.function("apply", ctypes.c_int64, ctypes.c_void_p)(5, out.ctypes.data)
assert out.tolist() == [0, 1, 4, 9, 16]
print(program.cached, "numba" in sys.modules)
"""


def start(cache, unwatched, cwd=None):
    command, variables = [sys.executable, "-c", CODE], unwatched | {"NNKERNELS_CACHE_DIR": str(cache)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=variables, cwd=cwd)


def finish(process):
    printed, logged = process.communicate(timeout=120)
    assert process.returncode == 0, logged
    return printed.split(), logged


def test_the_next_process_reads_the_program_without_importing_numba(unwatched, tmp_path):
    assert finish(start(tmp_path / "cache", unwatched)) == (["False", "False"], "")
    assert finish(start(tmp_path / "cache", unwatched)) == (["True", "False"], "")


def test_processes_may_write_at_once(unwatched, tmp_path):
    for process in [start(tmp_path / "cache", unwatched) for _ in range(4)]:
        assert finish(process)[1] == ""
    files = list((tmp_path / "cache" / "programs").iterdir())
    assert [file.suffix for file in files] == [".o", ".o"]
    assert finish(start(tmp_path / "cache", unwatched))[0] == ["True", "False"]


def test_a_folder_that_cannot_be_written_costs_one_warning_and_nothing_else(unwatched, tmp_path):
    (tmp_path / "file").write_text("")
    printed, logged = finish(start(tmp_path / "file" / "cache", unwatched))
    assert printed == ["False", "False"]
    assert logged.count("WARNING compiled kernels cannot be cached") == 1
    assert "set NNKERNELS_CACHE_DIR" in logged


@pytest.mark.parametrize("edited", ["language.py", "intrinsics.py", "programs/mathematics.py"])
def test_an_edit_of_the_compiler_or_its_library_is_noticed(unwatched, tmp_path, edited):
    shutil.copytree(Path(nnk.__file__).parent, tmp_path / "nnkernels", ignore=shutil.ignore_patterns("__pycache__"))
    finish(start(tmp_path / "cache", unwatched, cwd=tmp_path))
    assert finish(start(tmp_path / "cache", unwatched, cwd=tmp_path))[0][0] == "True"
    source = tmp_path / "nnkernels" / "backends" / "numba" / edited
    source.write_text(source.read_text() + "\n# edited\n")
    assert finish(start(tmp_path / "cache", unwatched, cwd=tmp_path))[0][0] == "False"


def test_what_a_program_depends_on_is_in_its_key(monkeypatch, cache):
    """LLVM's version and the processor: a home folder may be shared by machines."""
    keys = []
    changes = [{}, {"__version__": "0.0"}, {"get_host_cpu_name": lambda: "another"}]
    for change in changes:
        with monkeypatch.context() as patch:
            for name, value in change.items():
                patch.setattr(machine.llvmlite if name == "__version__" else machine.llvm, name, value)
            keys.append(machine._compiler_key.__wrapped__())
    assert all(first != second for first, second in combinations(keys, 2))
