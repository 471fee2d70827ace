"""CUDA C++ as NVIDIA's own compiler takes it: what a kernel uses of a GPU, and its code. No GPU is needed."""

import re
import subprocess
import tempfile
from functools import cache
from importlib.metadata import files
from pathlib import Path
from typing import NamedTuple

from cupy.cuda import nvrtc

from nnkernels.backends.cupy import launch

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")

_USE = re.compile(
    r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers([^\n]*)",
    re.DOTALL,
)
_SECTION = re.compile(r"^\s*\.section\s+\.text\.(\w+)", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)


class CompileError(RuntimeError):
    """What the compiler says."""


class Use(NamedTuple):
    """What a kernel uses: registers a thread, bytes of shared memory a block, bytes of local memory a thread."""

    registers: int
    shared: int
    local: int


class Compiled(NamedTuple):
    """A source for one architecture."""

    use: dict[str, Use]
    ptx: str
    cubin: bytes


def build(source: str, architecture: str, options: tuple[str, ...]) -> Compiled:
    """Compile a source to machine code."""
    program = nvrtc.createProgram(source, "source.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={architecture}", "--ptxas-options=-v", *options))
        ptx, cubin = nvrtc.getPTX(program), nvrtc.getCUBIN(program) + b"\0"  # CuPy drops a last byte that ends strings
        return Compiled(_uses(nvrtc.getProgramLog(program)), ptx.decode(), cubin)
    except nvrtc.NVRTCError as error:
        raise CompileError(nvrtc.getProgramLog(program)) from error
    finally:
        nvrtc.destroyProgram(program)


@cache
def build_file(file: str, dtype: str, architecture: str) -> Compiled:
    """Compile one of the package's files, as the launcher does."""
    return build(launch.complete(file), architecture, launch.options(dtype))


@cache
def build_program(source: str, dtype: str, architecture: str) -> Compiled:
    """Compile a whole-run program, as a run does."""
    return build(source, architecture, launch.options(dtype, contracted=False))


def _uses(log: str) -> dict[str, Use]:
    found = {}
    for part in log.split("ptxas info    : Compiling ")[1:]:
        name, stack, stores, loads, registers, rest = _USE.search(part).groups()
        shared = re.search(r"(\d+) bytes smem", rest)
        found[name] = Use(int(registers), int(shared[1]) if shared else 0, int(stack) + int(stores) + int(loads))
    return found


def virtual_instructions(ptx: str) -> dict[str, list[str]]:
    """Return the instructions of every kernel in PTX, NVIDIA's portable assembler, without their operands."""
    parts = re.split(r"^\.visible \.entry (\w+)\(", ptx, flags=re.MULTILINE)[1:]
    instruction = re.compile(r"^\s+(?:@!?%p\d+ )?([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)", re.MULTILINE)
    bodies = (body[body.index("{") : body.index("\n}")] for body in parts[1::2])
    return {name: instruction.findall(body) for name, body in zip(parts[::2], bodies, strict=True)}


def instructions(cubin: bytes) -> dict[str, list[str]]:
    """Return the machine instructions of every kernel, without their operands."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([disassembler(), "-c", file.name], capture_output=True, text=True, check=True).stdout
    parts = _SECTION.split(text)[1:]
    return {name: _INSTRUCTION.findall(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def disassembler() -> Path:
    """Return the path of nvdisasm, which comes as a wheel."""
    return Path(next(file for file in files("nvidia-cuda-nvdisasm") if file.name == "nvdisasm").locate())
