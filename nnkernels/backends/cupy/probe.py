"""Why CUDA can or cannot be used here."""

from __future__ import annotations

from importlib.util import find_spec

from nnkernels._errors import BackendUnavailable

INSTALL = "Install it: pip install 'nnkernels[cuda13]' (or 'nnkernels[cuda12]' for an older driver)"


def check_cuda() -> None:
    """Raise `BackendUnavailable` unless there are CuPy, a driver that fits it and a visible GPU."""
    if find_spec("cupy") is None:
        raise BackendUnavailable("cuda", "needs CuPy, which is not installed", INSTALL)
    try:
        from cupy.cuda import runtime
    except ImportError as error:  # CuPy says at length what is missing; its first line will do
        raise BackendUnavailable(
            "cuda", f"needs CuPy, which cannot be imported: {_first_line(error)}", INSTALL
        ) from error
    driver = runtime.driverGetVersion()
    if driver == 0:
        raise BackendUnavailable(
            "cuda", "needs an NVIDIA driver, and none is installed", "Install the driver of your GPU, then restart"
        )
    try:
        count = count_devices()
    except runtime.CUDARuntimeError as error:
        if "InsufficientDriver" in str(error):
            needed = _version(runtime.runtimeGetVersion())
            raise BackendUnavailable(
                "cuda",
                f"has a driver for CUDA {_version(driver)}, older than CuPy's CUDA {needed}",
                "Update the driver, or install the CuPy that fits it: pip install 'nnkernels[cuda12]'",
            ) from error
        if "NoDevice" not in str(error):
            raise BackendUnavailable("cuda", f"cannot be used: {_first_line(error)}") from error
        count = 0
    if count == 0:
        raise BackendUnavailable(
            "cuda", "finds no GPU", "Check `nvidia-smi` and that CUDA_VISIBLE_DEVICES does not hide the GPU"
        )


def count_devices() -> int:
    """Return the number of visible GPUs."""
    from cupy.cuda import runtime

    return int(runtime.getDeviceCount())


def _version(number: int) -> str:
    """CUDA's 13020 as "13.2"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
