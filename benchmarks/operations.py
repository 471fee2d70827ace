"""Single kernels as every row gets them: the same arrays, the expected result, and what counts as work."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.problem import Host

LOSSES = (
    "half_squared_error",
    "mean_squared_error",
    "absolute_error",
    "huber",
    "poisson",
    "poisson_rate",
    "binary_cross_entropy",
    "categorical_cross_entropy",
)


class Operation(NamedTuple):
    """A kernel, or a pair of them, on arrays of one size.

    Parameters
    ----------
    name : str
        ``matmul_forward``, ``matmul_backward``, ``sigmoid_forward``, ``sigmoid_pair`` (forward with slope, and
        backward), or a loss (forward and backward).
    shape : tuple of int
        (batch, n_in, n_out) of a matrix product, (batch, n_out) of the others.
    precision : {"float32", "tf32"}
        Of a matrix product on a GPU.
    cold : bool
        Whether it is on a GPU, and every call finds the L2 cache without its arrays.
    """

    name: str
    shape: tuple[int, ...]
    precision: str = "float32"
    cold: bool = False

    def arrays(self) -> dict[str, Host]:
        """Return the arguments, by name, in float32."""
        rng = np.random.default_rng(0)

        def normal(*shape: int) -> Host:
            if self.cold:  # these are large
                return rng.standard_normal(shape, np.float32)
            return rng.normal(size=shape).astype(np.float32)

        if self.name.startswith("matmul"):
            batch, n_in, n_out = self.shape
            arrays = {"x": normal(batch, n_in), "w": normal(n_in, n_out)}
            return arrays | ({"b": normal(n_out)} if self.name.endswith("forward") else {"dz": normal(batch, n_out)})
        if self.name == "sigmoid_forward":
            return {"z": normal(*self.shape)}
        if self.name == "sigmoid_pair":
            return {"z": normal(*self.shape), "da": normal(*self.shape)}
        p, t = normal(*self.shape), np.abs(normal(*self.shape))
        if self.name == "poisson_rate":
            p = np.abs(p) + np.float32(0.1)
        if self.name == "binary_cross_entropy":
            t = (t > 1).astype(np.float32)
        if self.name == "categorical_cross_entropy":
            t = np.eye(self.shape[1], dtype=np.float32)[rng.integers(0, self.shape[1], self.shape[0])]
        return {"p": p, "t": t, "weight": np.full(self.shape[0], 1 / self.shape[0], np.float32)}

    def expected(self) -> list[Host]:
        """Return the results, computed in float64."""
        arrays = {name: array.astype(float) for name, array in self.arrays().items()}
        if self.name == "matmul_forward":
            return [arrays["x"] @ arrays["w"] + arrays["b"]]
        if self.name == "matmul_backward":
            dz = arrays["dz"]
            return [dz @ arrays["w"].T, arrays["x"].T @ dz, dz.sum(0)]
        if self.name.startswith("sigmoid"):
            a = 1 / (1 + np.exp(-arrays["z"]))
            return [a] if self.name == "sigmoid_forward" else [a, arrays["da"] * a * (1 - a)]
        value, slope = _loss(self.name, arrays["p"], arrays["t"])
        return [np.array(value.mean()), slope / len(slope)]

    @property
    def gflop(self) -> float:
        """Of a matrix product."""
        batch, n_in, n_out = self.shape
        return 2e-9 * batch * n_in * n_out * (1 if self.name.endswith("forward") else 2)

    @property
    def gigabytes(self) -> float:
        """What separate kernels read and write at least; fused ones may do with less."""
        arrays = {"sigmoid_forward": 2, "sigmoid_pair": 6}.get(self.name, 5)
        return 4e-9 * arrays * self.shape[0] * self.shape[1]

    @property
    def loops(self) -> int:
        """Calls of one run, which then takes tens of milliseconds."""
        if self.cold:
            return 20
        if self.name.startswith("matmul"):
            return max(1, round(1.0 / self.gflop))
        return max(1, round(2e7 / (self.shape[0] * self.shape[1])))


def _loss(name: str, p: Host, t: Host) -> tuple[Host, Host]:
    """Return the loss of each row, and its slope."""
    n_out, d = p.shape[1], p - t
    if name == "half_squared_error":
        return (d**2).sum(1) / 2, d
    if name == "categorical_cross_entropy":
        shifted = p - p.max(1, keepdims=True)
        total = np.log(np.exp(shifted).sum(1, keepdims=True))
        return -(t * (shifted - total)).sum(1), np.exp(shifted - total) - t
    if name == "mean_squared_error":
        value, slope = d**2, 2 * d
    elif name == "absolute_error":
        value, slope = np.abs(d), np.sign(d)
    elif name == "huber":
        value, slope = np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5), np.clip(d, -1, 1)
    elif name == "poisson":
        value, slope = np.exp(p) - t * p, np.exp(p) - t
    elif name == "poisson_rate":
        value, slope = p - t * np.log(p), 1 - t / p
    else:
        value, slope = np.logaddexp(0, p) - t * p, 1 / (1 + np.exp(-p)) - t
    return value.mean(1), slope / n_out
