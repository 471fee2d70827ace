"""What a commit does not wait for: `nox -f .ci/noxfile.py`."""

from pathlib import Path

import nox

ROOT = Path(__file__).parents[1]


@nox.session(venv_backend="venv")
def cuda12(session: nox.Session) -> None:
    """The CUDA kernels by the wheels for CUDA 12: compiled by its NVRTC, launched through its CuPy, emulated."""
    session.chdir(ROOT)
    wheels = ("cupy-cuda12x>=14", "nvidia-cuda-nvrtc-cu12>=12.8", "nvidia-cuda-nvdisasm>=13.2")
    session.install("-q", "-e", ".[checks]", *wheels)
    tests = session.posargs or sorted(map(str, ROOT.glob("tests/test_cuda_*.py")))
    # the budgets of registers are those of CUDA 13's compiler
    session.run("python", "-m", "pytest", "-q", "-n", "2", "-k", "not keeps_to_its_budget", *tests)
