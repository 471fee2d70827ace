"""Which whole-run program a recipe gets, and how long its steps are predicted to take.

The numbers here are predictions for an H200, from the operations of a step and the published latencies of Hopper; none
of them is measured yet. They only have to put the ways in the right order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from nnkernels._recipe import Recipe
from nnkernels.backends.cupy.codegen import block, rows, units
from nnkernels.backends.cupy.codegen.program import Whole

if TYPE_CHECKING:
    from nnkernels._plan import Work

MOST_REGISTERS = 190  #: of a thread, estimated; the hardware has 255, and from here on some programs spill
CLOCK = 1.7e9  #: Hz
SCHEDULERS = 4 * 132  #: of warps
START = 0.5  #: seconds: NVRTC compiles a program
NODE_SECONDS = 1.8e-6  #: of a small kernel in a captured graph
KERNEL_SECONDS = 6e-6  #: of one that is launched by itself: steps of an ensemble are not captured
NETWORKS_AT_ONCE = 1000  #: that run beside each other without slowing each other down much
FLOPS, BYTES = 25e12, 3e12  #: a second: float32 products as cuBLAS does them, and memory

# cycles
EXCHANGE = 60.0  # a lane gives a number to all others through shared memory
BARRIER = 40.0  # of a block
ACTIVATION = 80.0  # latency of an exponential, a division and what is around them
ISSUE = 2.0  # of an instruction of one warp, with some parallelism inside it


@lru_cache(maxsize=256)
def generated(recipe: Recipe, networks: int = 1) -> Whole:
    """Return the program for a recipe."""
    forms = candidates(recipe, networks)
    return min(forms, key=lambda pair: pair[0])[1]()


def why_not(recipe: Recipe, networks: int = 1) -> str | None:
    """Return why there is no whole-run program for a recipe, or None."""
    if candidates(recipe, networks):
        return None
    return f"is not there for this network: it does not fit into registers, and {block.why_not(recipe)}"


def candidates(recipe: Recipe, networks: int) -> list[tuple[float, Callable[[], Whole]]]:
    """Return the programs that a recipe can have: (cycles a step of all networks, what writes it)."""
    found: list[tuple[float, Callable[[], Whole]]] = []
    if rows.registers(recipe) <= MOST_REGISTERS:
        lanes = 1 if networks > 1 else min(32, 2 ** math.ceil(math.log2(recipe.batch)))
        cycles = _for_all(rows_cycles(recipe, lanes), networks * lanes / 32)
        found.append((cycles, lambda: rows.write(recipe, lanes)))
    if units.why_not(recipe) is None and units.registers(recipe) <= MOST_REGISTERS:
        found.append((_for_all(units_cycles(recipe), networks), lambda: units.write(recipe)))
    if block.why_not(recipe) is None:
        warps = networks * block.threads(recipe) / 32
        found.append((_for_all(block_cycles(recipe), warps), lambda: block.write(recipe)))
    return found


def _for_all(cycles: float, warps: float) -> float:
    """Return the cycles of a step of many warps; each one alone takes `cycles`, and leaves half of them free."""
    return cycles * max(1.0, warps / SCHEDULERS / 2)


def rows_cycles(recipe: Recipe, lanes: int) -> float:
    """Predict the cycles of a step whose rows are spread over lanes."""
    n_rows, units_ = -(-recipe.batch // lanes), sum(layer.n_out for layer in recipe.layers)
    a_row = ISSUE * (3 * recipe.n_parameters + 30 * units_) + ACTIVATION * len(recipe.layers)
    sums = 2 * ISSUE * recipe.n_parameters * math.log2(lanes)
    return 150 + n_rows * a_row + sums + _update_cycles(recipe, recipe.n_parameters)


def units_cycles(recipe: Recipe) -> float:
    """Predict the cycles of a step whose units are spread over the lanes of a warp."""
    held = units.Layout(recipe).size
    a_row = ISSUE * held
    for layer in recipe.layers[:-1]:
        a_row += 4 * math.ceil(layer.n_in / 4) + ACTIVATION + EXCHANGE
    for layer in recipe.layers[1:-1]:
        a_row += EXCHANGE + 4 * math.ceil(layer.n_out / 4)
    last = recipe.layers[-1]
    a_row += ISSUE * last.n_in * last.n_out + 30 * last.n_out + ACTIVATION
    return 150 + recipe.batch * a_row + _update_cycles(recipe, held)


def block_cycles(recipe: Recipe) -> float:
    """Predict the cycles of a step that a block shares."""
    count = block.threads(recipe)
    warps_at_once = min(count / 32, 4)
    cycles = BARRIER * (2 * len(recipe.layers) + 1) + 2 * ACTIVATION
    for layer in recipe.layers:
        for elements, length in (
            (recipe.batch * layer.n_out, layer.n_in),
            (recipe.batch * layer.n_in, layer.n_out),
            (layer.n_in * layer.n_out, recipe.batch),
        ):
            a_thread = math.ceil(elements / count) * (20 + 4 * length)
            cycles += max(a_thread, elements * length * 3 / 32 / warps_at_once) + 60
    return 150 + cycles + _update_cycles(recipe, math.ceil(recipe.n_parameters / count))


def _update_cycles(recipe: Recipe, parameters: int) -> float:
    return ISSUE * parameters * (3 + 12 * len(recipe.state)) + (200 if recipe.normed else 0)


def seconds(work: Work, way: str) -> float:
    """Predict the seconds of a run."""
    recipe, networks = work.recipe, work.networks or 1
    if way == "composed":
        nodes = 6 + 6 * len(recipe.layers)
        flops = 6 * recipe.batch * sum(layer.n_in * layer.n_out for layer in recipe.layers)
        moved = 4 * (5 * recipe.n_parameters + recipe.batch * sum(6 * layer.n_out for layer in recipe.layers))
        launched = KERNEL_SECONDS if work.networks else NODE_SECONDS
        return work.steps * (launched * nodes + networks * (flops / FLOPS + moved / BYTES))
    cycles = min(cycles for cycles, _ in candidates(recipe, networks))
    return START + work.steps * cycles * max(1.0, networks / NETWORKS_AT_ONCE) / CLOCK
