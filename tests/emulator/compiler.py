"""CUDA C++ source compiled by g++ behind `cuda_on_cpu.h`, and run on host memory."""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
SCHEDULES = ("forward", "reverse", "random", "warps")
OPTIONS = ("-O1",)  #: "-fsanitize=..." goes here, too

_running = threading.Lock()  # there is one pretended GPU, and its fibers are everybody's
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(')
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")


class KernelError(RuntimeError):
    """What a GPU would have left undefined, or would not have compiled."""


class Library:
    """A compiled source: its kernels by name.

    Parameters
    ----------
    source : str
        CUDA C++.
    options : tuple of str
        For the compiler: NVRTC's -D and g++'s own; others of NVRTC are left out.
    """

    def __init__(self, source: str, options: tuple[str, ...] = ()) -> None:
        self.names = _KERNEL.findall(source)
        self.library = ctypes.CDLL(str(_compiled(source, options)))

    def signature(self, name: str) -> list[str]:
        """Return the codes of a kernel's parameters, such as "*f4" or "i8", as the compiler sees them."""
        text = ctypes.create_string_buffer(4096)
        self.library[f"describe_{name}"](text)
        return text.value.decode().split()

    def launch(self, name, grid, block, cells, *, shared=0, schedule="forward", seed=0):
        """Run a kernel on arguments that lie in `cells`, ctypes objects of the parameters' sizes."""
        three = [(ctypes.c_uint * 3)(*((*sizes, 1, 1, 1)[:3])) for sizes in (grid, block)]
        pointers = (ctypes.c_void_p * len(cells))(*map(ctypes.addressof, cells))
        message = ctypes.create_string_buffer(512)
        order, seed = SCHEDULES.index(schedule), ctypes.c_uint64(seed)
        with _running:
            failed = self.library[f"launch_{name}"](*three, ctypes.c_size_t(shared), pointers, order, seed, message)
        if failed:
            raise KernelError(f"{name}: {message.value.decode()}")


def compiler() -> str:
    """Return the C++ compiler; one must be there: without it, no CUDA kernel is tested."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        raise RuntimeError("the CUDA kernels are tested on the CPU, which needs g++: install it, or set CXX")
    return found


@cache
def _compiled(source: str, options: tuple[str, ...]) -> Path:
    """Return the shared library, compiled once for a source, options, header and compiler."""
    names = _KERNEL.findall(source)
    source = _DYNAMIC.sub(r"\1 *\2 = reinterpret_cast<\1 *>(emulator::dynamic_start);", source)
    source += "".join(
        f'extern "C" int launch_{name}(const unsigned *g, const unsigned *b, size_t s, void **a, int o, uint64_t r,'
        f" char *m) {{ return emulator::launch(::{name}, g, b, s, a, o, r, m); }}\n"
        f'extern "C" void describe_{name}(char *out) {{ emulator::signature(::{name}, out); }}\n'
        for name in names
    )
    flags = [*OPTIONS, *(option for option in options if option.startswith(("-D", "-O", "-f", "-g")))]
    command = [
        compiler(),
        *("-x", "c++", "-std=c++17", "-shared", "-fPIC", "-fno-gnu-unique", "-U_FORTIFY_SOURCE", "-ffp-contract=off"),
        *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-parameter"),
        *flags,
        *("-include", str(HEADER), "-"),
    ]
    key = hashlib.sha256("\0".join([HEADER.read_text(), source, *command]).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("NNKERNELS_CACHE_DIR", tempfile.gettempdir())) / f"cuda-on-cpu-{os.getuid()}"
    path = folder / f"{key}.so"
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        done = subprocess.run([*command, "-o", str(part)], input=source, text=True, capture_output=True, check=False)
        if done.returncode:
            raise KernelError(done.stderr)
        part.replace(path)
    return path
