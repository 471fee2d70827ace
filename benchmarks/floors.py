"""Floors: how fast a case can be on a GPU at most, computed from what a step must do. Nothing here is measured.

A step of training has to do arithmetic, move bytes, evaluate special functions, and, where one step waits for the
one before it, go through a chain of dependent instructions. Each of these alone takes a time that no program can beat;
the longest is the case's floor. `python -m benchmarks.floors` prints them for an H200, with what we predict of our own
ways; the README beside this file keeps that table until it has been confronted with measurements.

Sources
-------
Rates: NVIDIA, H100 and H200 Tensor Core GPU data sheets, SXM; 132 multiprocessors at 1.98 GHz. TF32 is without
sparsity. L2 bandwidth: chipsandcheese.com, "Nvidia's H100: Funny L2, and Tons of Bandwidth" (2023), scaled to 132
multiprocessors. Special functions: CUDA C++ Programming Guide, arithmetic instructions, compute capability 9.0:
16 results a clock and multiprocessor. Latencies: Abdelkhalik et al., arXiv 2208.11174 (A100: 4 cycles for a dependent
add or multiply-add, about 20 for ex2 and rcp), and Luo et al., arXiv 2402.13499 (H100: shared memory 29 cycles, and
an order of 260 for L2). A node of a CUDA graph whose kernel waits for the one before: 1.3 us, as users report it for
H100; a launch from Python: 5 us and more. Predictions of whole-run programs: `cycles.py`.
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import click

from benchmarks import gpu
from benchmarks.case import Row

if TYPE_CHECKING:
    from benchmarks.operations import Operation
    from benchmarks.problem import Many, Problem


class Gpu(NamedTuple):
    """A model: what its data sheet says. Rates are per second, bandwidths in bytes per second."""

    name: str
    bandwidth: float
    multiprocessors: int = 132
    clock: float = 1.98e9
    tf32: float = 494e12
    l2_bandwidth: float = 5.5e12
    l2_bytes: int = 50 << 20

    @property
    def float32(self) -> float:
        """Floating-point operations per second: 128 multiply-adds a clock and multiprocessor."""
        return 2 * 128 * self.multiprocessors * self.clock

    @property
    def special(self) -> float:
        """Results of ex2, rcp, lg2, sqrt, ... per second: 16 a clock and multiprocessor."""
        return 16 * self.multiprocessors * self.clock


H100, H200 = Gpu("H100", 3.35e12), Gpu("H200", 4.8e12)

#: cycles until an instruction that depends on one can begin; of shared memory and of the L2 cache: written and read
FMA, SPECIAL, SHARED, L2 = 4, 20, 29, 260
BLOCK_ROWS = 1024  #: of a batch that one multiprocessor can take at once
NODE_SECONDS = 1.3e-6  #: of a small kernel of a CUDA graph that waits for the one before it
ON_CHIP = 132 * (200 << 10)  #: bytes of parameters that registers and shared memory of all multiprocessors can hold

#: special-function results, and dependent cycles, of an activation and its slope
SPECIALS = {"sigmoid": 2, "tanh": 2, "softmax": 1}
#: exp as a multiply and ex2, 1 + e, and a division: rcp, corrected by two multiply-adds
_EXPONENTIAL = FMA + SPECIAL
_DIVISION = SPECIAL + 2 * FMA
CHAINS = {
    "identity": 0,
    "relu": FMA,
    "sigmoid": _EXPONENTIAL + FMA + _DIVISION,
    "tanh": _EXPONENTIAL + FMA + _DIVISION + FMA,
    "softmax": _EXPONENTIAL + SHARED + _DIVISION,
}


class Work(NamedTuple):
    """What a step must do at least.

    Parameters
    ----------
    flop : float
        Floating-point operations of its matrix products.
    special : float
        Results of special functions.
    moved : float
        Bytes that it reads and writes at least, wherever they lie.
    held : float
        Bytes that the run comes back to, step after step: what does not fit the L2 cache is moved from memory.
    cycles : float
        Dependent cycles from step to step.
    precision : {"float32", "tf32"}
        Of the matrix products.
    """

    flop: float
    special: float
    moved: float
    held: float
    cycles: float
    precision: str = "float32"

    def seconds(self, device: Gpu) -> dict[str, float]:
        """Return the time of each need, by its name, as if it were the only one."""
        rate = device.tf32 if self.precision == "tf32" else device.float32
        cached = self.held <= device.l2_bytes
        return {
            "arithmetic": self.flop / rate,
            "special functions": self.special / device.special,
            "L2 cache" if cached else "memory": self.moved / (device.l2_bandwidth if cached else device.bandwidth),
            "latency chain": self.cycles / device.clock,
        }

    def floor(self, device: Gpu) -> tuple[str, float]:
        """Return the longest of them, and its name."""
        seconds = self.seconds(device)
        name = max(seconds, key=seconds.__getitem__)
        return name, seconds[name]


# ---- what a step does ------------------------------------------------------------------------------------------------


def of_step(problem: Problem) -> Work:
    """Return the work of a step of one network.

    Parameters that fit on the chip are not moved. Hidden activations and deltas are moved where a batch of them does
    not fit there, each written once and read once.
    """
    layers, batch, itemsize = problem.layers, problem.batch, problem.x.itemsize
    parameters = sum(array.size for array in problem.start)
    state = parameters * itemsize * (3 if problem.optimizer == "adam" else 1)
    rows = batch * (layers[0].n_in + layers[-1].n_out) * itemsize
    hidden = 4 * batch * sum(layer.n_out for layer in layers[:-1]) * itemsize
    kept = state <= ON_CHIP
    return Work(
        flop=2 * batch * sum(layer.n_in * layer.n_out * (2 + (number > 0)) for number, layer in enumerate(layers)),
        special=batch * _specials(problem) + (2 * parameters if problem.optimizer == "adam" else 0),
        moved=rows + (0 if kept else 2 * state) + (0 if hidden / 2 <= ON_CHIP else hidden),
        held=problem.x.nbytes + problem.t.nbytes + (0 if kept else state) + hidden / 2,
        cycles=chain(problem),
        precision=problem.precision,
    )


def _specials(problem: Problem) -> int:
    """Return the special-function results of a row, the loss's logarithm included."""
    count = sum(SPECIALS.get(layer.activation, 0) * layer.n_out for layer in problem.layers)
    return count + (2 if problem.loss == "categorical_cross_entropy" else 0)


def chain(problem: Problem) -> float:
    """Return the dependent cycles of a step: from a weight that was updated to the update that depends on it.

    Sums over inputs and rows are trees, whose terms meet in shared memory. The target is part of the sum that makes
    the error, and the next step's pre-activation is folded into the update: neither adds an instruction.
    """
    cycles = 0.0
    for number, layer in enumerate(problem.layers):
        cycles += _sum(layer.n_in) if number or layer.n_in > 1 else 0
        cycles += CHAINS[layer.activation]
    for layer in problem.layers[1:]:  # back through the weights of every layer but the first
        cycles += _sum(layer.n_out) if layer.n_out > 1 else 0
        cycles += FMA if layer.activation not in ("identity", "softmax") else 0
    if problem.batch > 1:  # the gradient is a sum over rows
        cycles += _sum(problem.batch) + (2 * L2 if problem.batch > BLOCK_ROWS else 0)
    if problem.optimizer == "adam":
        cycles += 4 * FMA + SPECIAL + _DIVISION
    return cycles + FMA


def _sum(terms: int) -> float:
    """Return the dependent cycles of a sum of products whose terms are in different lanes."""
    return FMA + (SHARED + FMA * math.ceil(math.log2(terms)) if terms > 1 else 0)


def of_many(problem: Many) -> Work:
    """Return the work of a step of all networks; each network's chain is in one thread, without shared memory."""
    one = of_step(problem)
    hidden = sum(layer.n_out for layer in problem.layers[:-1])
    alone = sum(CHAINS[layer.activation] for layer in problem.layers) + FMA * (hidden + 2)
    n = problem.networks
    return one._replace(flop=n * one.flop, special=n * one.special, moved=n * one.moved, cycles=alone)


def of_operation(op: Operation) -> Work:
    """Return the work of a single kernel with a cold cache."""
    if op.name.startswith("matmul"):
        batch, n_in, n_out = op.shape
        times = 1 if op.name.endswith("forward") else 2  # dx and dw are as large as x and w
        moved = 4 * (times * (batch * n_in + n_in * n_out) + batch * n_out)
        return Work(1e9 * op.gflop, 0, moved, held=math.inf, cycles=0, precision=op.precision)
    special = 2 * math.prod(op.shape) if op.name.startswith("sigmoid") else 0
    return Work(0, special, 1e9 * op.gigabytes, held=math.inf, cycles=0)


# ---- beside measurements ---------------------------------------------------------------------------------------------


def device() -> Gpu:
    """Return the model of the GPU that is there; an H200 where there is none that this module knows."""
    found = gpu.name() or ""
    return H100 if "H100" in found else H200


def rows(work: Work, units: float) -> dict[str, Row]:
    """Return the floors as rows of a case, the longest one as its limit; `units` is the work of a step in its unit."""
    model = device()
    longest, _ = work.floor(model)
    note = f"computed for an {model.name}, not measured"
    return {
        f"floor: {name}": Row("limit" if name == longest else "bound", partial(float, seconds), units, note)
        for name, seconds in work.seconds(model).items()
        if seconds > 0
    }


# ---- predictions -----------------------------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """What we expect of our own best way on an H200, and why it is not the floor.

    Parameters
    ----------
    way : str
        That is expected to be the fastest.
    seconds : float
        Of a step, or of a call.
    why : str
        In a line.
    """

    way: str
    seconds: float
    why: str


PREDICTIONS = {
    "sine": Prediction("generated", 145e-9, "283 cycles as scheduled"),
    "autoencoder": Prediction("generated", 250e-9, "489 cycles as scheduled, a row a lane"),
    "regression": Prediction("composed", 150e-6, "20 nodes; sums over 10,000 rows, a loss of one block"),
    "mnist-quadratic": Prediction("composed", 20e-6, "15 nodes"),
    "mnist-softmax, batch 32": Prediction("composed", 21e-6, "16 nodes; 8 us if they were 6"),
    "mnist-softmax, batch 8192, tf32": Prediction("composed", 50e-6, "16 nodes, 2 sums over 8,192 rows of 5 us"),
    "wide, tf32": Prediction("composed", 4e-3, "products at 80 % of the rate, 0.5 ms of other passes"),
    "wide, float32": Prediction("composed", 24e-3, "products at 90 % of the rate"),
    "many, 8192 networks": Prediction("a thread a network", 270e-9, "531 cycles as scheduled"),
    "many, 65536 networks": Prediction("a thread a network", 620e-9, "303 instructions of 4 warps a scheduler"),
    "sigmoid_forward, 1e8": Prediction("kernel", 190e-6, "4.3 TB/s, what a copy is reported to reach"),
}


@cache
def works() -> dict[str, Work]:
    """Return the work of every case for which there is a prediction."""
    from benchmarks.cases import autoencoder, many, mnist_quadratic, mnist_softmax, regression, sine, wide
    from benchmarks.operations import Operation

    large = of_step(wide.gpu_problem(1, "tf32"))
    return {
        "sine": of_step(sine.problem(1)),
        "autoencoder": of_step(autoencoder.problem(1)),
        "regression": of_step(regression.problem(1)),
        "mnist-quadratic": of_step(mnist_quadratic.gpu_problem(1)),
        "mnist-softmax, batch 32": of_step(mnist_softmax.gpu_problem(32, 1)),
        "mnist-softmax, batch 8192, tf32": of_step(mnist_softmax.gpu_problem(8192, 1)),
        "wide, tf32": large,
        "wide, float32": large._replace(precision="float32"),
        "many, 8192 networks": of_many(many.problem(8192, 1)),
        "many, 65536 networks": of_many(many.problem(65536, 1)),
        "sigmoid_forward, 1e8": of_operation(Operation("sigmoid_forward", (10**7, 10))),
    }


def markdown(model: Gpu = H200) -> str:
    """Return floors and predictions as a Markdown table: what each need alone takes, the floor, what we expect."""
    needs = ("arithmetic", "special functions", "L2 cache", "memory", "latency chain")
    header = ("case", *needs, "predicted", "way", "why not the floor")
    lines = [header, ["---"] * len(header)]
    for name, work in works().items():
        seconds, (longest, _) = work.seconds(model), work.floor(model)
        cells = [_time(seconds[need], bold=need == longest) if seconds.get(need) else "" for need in needs]
        expected = PREDICTIONS[name]
        lines.append([name, *cells, _time(expected.seconds), expected.way, expected.why])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _time(seconds: float, *, bold: bool = False) -> str:
    scale, unit = (1e3, "ms") if seconds >= 1e-3 else (1e6, "us") if seconds >= 1e-6 else (1e9, "ns")
    text = f"{seconds * scale:.3g} {unit}"
    return f"**{text}**" if bold else text


@click.command()
def command() -> None:
    """Print floors and predictions for an H200 as Markdown."""
    click.echo(markdown())


if __name__ == "__main__":
    command(prog_name="python -m benchmarks.floors")
