"""The errors of the package: short, and each with its remedy."""

from __future__ import annotations


class NnkernelsError(Exception):
    """Base of every error that is the package's own."""


class DeviceError(NnkernelsError, ValueError):
    """A device string that names nothing, or an array on another device than the network."""


class BackendUnavailable(NnkernelsError, RuntimeError):
    """A device that exists in principle and cannot be used here.

    Parameters
    ----------
    device : str
        The device that was asked for.
    reason : str
        Why it cannot be used.
    remedy : str
        What to do about it; empty if there is nothing to do.
    """

    def __init__(self, device: str, reason: str, remedy: str = "") -> None:
        self.device, self.reason, self.remedy = device, reason, remedy
        super().__init__(f'"{device}" {reason}.' + (f" {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type[BackendUnavailable], tuple[str, str, str]]:
        return type(self), (self.device, self.reason, self.remedy)


class ShapeError(NnkernelsError, ValueError):
    """Shapes that do not fit each other."""


class DataError(NnkernelsError, ValueError):
    """Values that cannot be trained on: NaN, infinities, labels out of range, lossy integers."""


class PlanError(NnkernelsError, ValueError):
    """A plan that the device does not have."""


class DeviceMemoryError(NnkernelsError, MemoryError):
    """A GPU without enough free memory.

    Parameters
    ----------
    asked, free : int
        Bytes.
    """

    def __init__(self, asked: int, free: int) -> None:
        self.asked, self.free = asked, free
        super().__init__(
            f"{asked:,} bytes of GPU memory were asked for, and {free:,} are free. "
            "Use a smaller batch_size or less data, or free what other programs hold there."
        )

    def __reduce__(self) -> tuple[type[DeviceMemoryError], tuple[int, int]]:
        return type(self), (self.asked, self.free)


class KernelFault(NnkernelsError, RuntimeError):
    """An error that CUDA reports, perhaps later than it happened.

    Parameters
    ----------
    report : str
        What CUDA says.
    kernels : tuple of str
        The kernels that were launched last, the newest one at the end.
    """

    def __init__(self, report: str, kernels: tuple[str, ...]) -> None:
        self.report, self.kernels = report, kernels
        super().__init__(
            f"{report}; the kernels launched last are {', '.join(kernels) or 'none'}. "
            "Set CUDA_LAUNCH_BLOCKING=1 to learn which one it is; the process has to be restarted."
        )

    def __reduce__(self) -> tuple[type[KernelFault], tuple[str, tuple[str, ...]]]:
        return type(self), (self.report, self.kernels)


class ModelFileError(NnkernelsError, ValueError):
    """A model file that is truncated, corrupt, or not one of ours."""


class DivergenceError(NnkernelsError, ArithmeticError):
    """A loss or an update stopped being a number. The network keeps the weights from before ``step``.

    Parameters
    ----------
    step : int
        The first step, counted from 0, whose loss, parameters or optimizer state are not finite.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(
            f"the loss or its update is not finite at step {step}; the weights from before that step are kept. "
            "Try a smaller learning rate, clip_norm=1.0, or inputs scaled to zero mean and unit variance."
        )

    def __reduce__(self) -> tuple[type[DivergenceError], tuple[int]]:
        return type(self), (self.step,)
