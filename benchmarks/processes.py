"""Whole processes: what they run, how long they take, and how much memory they need at most."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from benchmarks.timing import Absent

SINE = """
import numpy as np, nnkernels as nnk
x = np.linspace(0, 1, 500)
start = nnk.Uniform(-1, 1)
net = nnk.Sequential(
    nnk.Dense(1, 10, "sigmoid", bias=False, weight_initializer=start),
    nnk.Dense(10, 1, bias=False, weight_initializer=start),
    device={device!r}, rng=0,
)
net.fit(x, np.sin(x), loss="half_squared_error", optimizer=nnk.SGD(0.01), batch_size=1, steps={steps},
        sampling="replacement")
"""

MNIST = """
import numpy as np, nnkernels as nnk
x = np.random.default_rng(0).random(({rows}, 784), np.float32)
net = nnk.Sequential(nnk.Dense(784, 128, "sigmoid"), nnk.Dense(128, 10, "softmax"), device={device!r}, rng=0)
net.fit(x, np.arange(len(x)) % 10, loss="categorical_cross_entropy", optimizer=nnk.SGD(0.1), batch_size=32, epochs=1)
"""

# the most that the kernel saw; a maximum that the parent asks for after the end would contain the parent's own memory
_PEAK = """
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak / 1024)
"""


def run(code: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a process to its end; return what it prints.

    Raises
    ------
    Absent
        It failed.
    """
    command = [sys.executable, "-c", code]
    full = {**os.environ, **(environment or {})}
    done = subprocess.run(command, check=False, env=full, capture_output=True, text=True)
    if done.returncode:
        raise Absent((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:160])
    return done.stdout


def peak_megabytes(code: str) -> float:
    """Run a process to its end; return its peak of resident memory."""
    return float(run(code + _PEAK).split()[-1])
