"""What each file of CUDA kernels must compute: checks against the NumPy backend, for any shape, values and schedule.

The tests of schedules draw their shapes, those of barriers and sanitizers take fixed ones.
"""

import numpy as np
from emulator.host import emulated

from nnkernels._formulas import ACTIVATIONS, LOSSES, OPTIMIZERS
from nnkernels.backends.cupy import kernels as cuda
from nnkernels.backends.cupy import launch
from nnkernels.backends.numpy import kernels as reference
from nnkernels.testing import TOLERANCES, _Comparison

#: shapes that together reach every barrier and every edge of the kernels
FIXED = ((33, 17), (2, 5, 33), (257, 1))


class Check(_Comparison):
    """Kernels beside their reference, on arrays of shape (networks, rows, n) or (rows, n), drawn from a seed."""

    def __init__(self, dtype, shape, seed=0, scale=1.0):
        super().__init__(cuda, dtype, shape)
        self.rng, self.scale = np.random.default_rng(seed), scale
        self.leading, (self.rows, self.n) = shape[:-2], shape[-2:]

    def normal(self, *shape):
        return (self.scale * self.rng.normal(size=shape)).astype(self.dtype)

    def activations(self):
        z, bias = self.normal(*self.shape), self.normal(*self.leading, self.n)
        shifted = (z + bias[..., None, :]).astype(np.float64)
        for name in ACTIVATIONS:
            self.same(f"{name}_forward", z, out=z)
            self.same(f"{name}_forward", z, out=z, slope=z, writes=("out", "slope"))
            a, slope = np.empty_like(shifted), np.empty_like(shifted)
            getattr(reference, f"{name}_forward")(shifted, out=a, slope=slope)
            ours = [cuda.from_host(array) for array in (z, bias, z, z)]
            getattr(cuda, f"bias_{name}_forward")(*ours[:2], out=ours[2], slope=ours[3])
            self.close(name, ours[2], a)
            self.close(name, ours[3], slope)

    def losses(self):
        p, t = self.normal(*self.shape), self.positive(*self.shape)
        weight = self.positive(*self.leading, self.rows)
        for name, formula in LOSSES.items():
            prediction = np.abs(p) + p.dtype.type(0.1) if name == "poisson_rate" else p
            scalars = dict.fromkeys(formula.scalars, 0.7)
            self.same(f"{name}_forward", prediction, t, weight, out=np.full(self.leading, 0.5), **scalars)
            self.same(f"{name}_backward", prediction, t, weight, out=p, **scalars)

    def softmax(self):
        z, one_hot = self.normal(*self.shape), np.eye(self.n, dtype=self.dtype)
        t, weight = one_hot[self.rng.integers(0, self.n, self.shape[:-1])], self.positive(*self.shape[:-1])
        self.same("softmax_forward", z, out=z)
        self.same("softmax_backward", z, self.normal(*self.shape), out=z)
        self.same("categorical_cross_entropy_forward", z, t, weight, out=np.full(self.leading, 0.5))
        self.same("categorical_cross_entropy_backward", z, t, weight, out=z)

    def layers(self):
        inner = 1 + (self.rows + self.n) % 40
        x, w = self.normal(*self.leading, self.rows, inner), self.normal(*self.leading, inner, self.n)
        b, z = self.normal(*self.leading, self.n), self.normal(*self.shape)
        self.same("matmul_forward", x, w, b, out=z)
        self.same("matmul_forward", x, w, None, out=z)
        self.same("matmul_backward", z, x, w, dx=x, dw=w, db=b, writes=("dx", "dw", "db"))
        self.same("activation_backward", z, self.normal(*self.shape), out=z)
        rows = self.rng.integers(0, self.rows, (*self.leading, 5))
        self.same("gather", z, rows, out=self.normal(*self.leading, 5, self.n))
        self.same("gather", z.reshape(-1, self.n), rows, out=self.normal(*self.leading, 5, self.n))
        ours = cuda.from_host(z)
        launch.elementwise("add_bias", self.dtype, z.size, ours, cuda.from_host(b), self.rows, self.n)
        self.close("add_bias", ours, z + b[..., None, :].astype(np.float64))

    def optimizers(self):
        p, g = self.normal(*self.leading, self.n), self.normal(*self.leading, self.n)
        state = self.positive(*self.leading, self.n)
        rates = [np.array(0.1, self.dtype), self.positive(*self.leading, 1)][: 1 + bool(self.leading)]
        for name, formula in OPTIMIZERS.items():
            scalars = {scalar: 0.01 if scalar == "weight_decay" else 0.9 for scalar in formula.scalars}
            written = ("0", *(str(2 + place) for place in range(len(formula.state))))
            for lr in rates:
                states = [state] * len(formula.state)
                self.same(f"{name}_update", p, g, *states, lr=lr, step=np.array(3), writes=written, **scalars)

    def updates(self):
        w, g = self.normal(*self.leading, self.n), self.normal(*self.leading, self.n)
        self.same("penalty_backward", w, l1=0.1, l2=0.2, out=g)
        self.same("clip_by_value", g, 0.3, writes=("0",))
        for limit in (0.3, 1e6):
            self.same("clip_by_norm", g, limit, writes=("0",))

    def random(self):
        seed, shape = int(self.rng.integers(2**64, dtype=np.uint64)), (*self.leading, 3, self.rows)
        for sampling in ("replacement", "sequential", "permutation"):
            for n_rows in {self.rows, self.rows + 300, 5000} - {0}:
                expected, ours = np.empty(shape, np.int64), cuda.empty(shape, np.int64)
                for module, out in ((reference, expected), (cuda, ours)):
                    module.draw_indices(seed, 3, 2**33 + 5, sampling=sampling, n_rows=n_rows, out=out)
                assert np.array_equal(cuda.to_host(ours), expected), f"{sampling} of {n_rows} rows"
        mask, ours = np.empty(self.shape, self.dtype), cuda.empty(self.shape, self.dtype)
        for module, out, step in ((reference, mask, np.array(7)), (cuda, ours, cuda.from_host(np.array(7)))):
            module.dropout_mask(seed, 1, 2, step, 0.3, out=out)
        assert np.array_equal(cuda.to_host(ours), mask), "dropout_mask"

    def arrays(self):
        shape = (*self.leading, self.rows, self.n)
        window = tuple(slice(None, None, step) for step in (2, -2, -3)[-len(shape) :])
        for dtype in (np.float32, np.float64, np.int64):
            host = self.rng.integers(0, 100, shape).astype(dtype)
            base = np.zeros([2 * length if length else 1 for length in shape[:-1]] + [3 * self.n], dtype)
            ours = cuda.from_host(base)
            view, source = ours[window], cuda.from_host(host.swapaxes(-1, -2)).swapaxes(-1, -2)
            cuda.copy(source, out=view)
            base[window] = host
            assert np.array_equal(cuda.to_host(ours), base), "copy"
            cuda.fill(7, out=view[..., :1, :])
            base[window][..., :1, :] = 7
            assert np.array_equal(cuda.to_host(ours), base), "fill"

    def steps(self):
        counters, step = np.array([1, 40]), np.array(0)
        rates, order = self.positive(3), self.rng.integers(0, 99, (3, self.rows + 2))
        ours = [cuda.from_host(array) for array in (counters, step, rates[0], rates, order[0, : self.rows], order)]
        launch.kernel("begin_step", self.dtype)(1, 256, *ours, self.rows + 2, self.rows)
        counters, step, rate, _, rows, _ = map(cuda.to_host, ours)
        assert (counters[0], step, rate) == (2, 41, rates[1])
        assert np.array_equal(rows, order[1, : self.rows])

    def close(self, name, ours, expected):
        """Compare a result on the device."""
        error = np.abs(cuda.to_host(ours) - expected).max(initial=0) / max(1, np.abs(expected).max(initial=0))
        assert error <= TOLERANCES[self.dtype], f"{name} is off by {error:.2g}"


def check_file(file, dtype, *, shapes=FIXED, values=(0, 1.0), order=("forward", 0), **settings):
    """Run a file's check on an emulated GPU of its own; return the GPU.

    `values` are the seed and scale of the arrays, `order` is the schedule of the threads and its seed.
    """
    schedule, seed = order
    with np.errstate(all="ignore"), emulated(schedule=schedule, seed=seed, **settings) as emulator:
        for shape in shapes:
            getattr(Check(dtype, shape, *values), file)()
    return emulator
