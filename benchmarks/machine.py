"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import gpu

PACKAGES = (
    "nnkernels",
    "numpy",
    "numba",
    "jax",
    "torch",
    "tensorflow",
    "tensorflow-cpu",
    "scikit-learn",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "triton",
)


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, object]:
    """Return the processor, the number of cores, the devices, the GPU, and the versions that matter."""
    import nnkernels as nnk

    return {
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "devices": [status.device for status in nnk.devices() if status.available],
        "gpu": gpu.name(),
        "compiler": _compiler(),
        "blas": _blas(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _compiler() -> str | None:
    program = shutil.which(os.environ.get("CC", "cc"))
    if program is None:
        return None
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return (answer.splitlines() or ["unknown"])[0]


def _blas() -> str:
    import numpy as np

    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
