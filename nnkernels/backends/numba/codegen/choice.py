"""Which program is written for a recipe: rows or units in lanes, and how wide; what each is predicted to take."""

from __future__ import annotations

from functools import lru_cache

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen import generic as _generic
from nnkernels.backends.numba.codegen import rows, units
from nnkernels.backends.numba.codegen.program import Whole
from nnkernels.backends.numba.codegen.rows_frame import RowsFrame
from nnkernels.backends.numba.codegen.units_frame import INPUT_LANES_OUTPUTS

#: What an operation takes, as measured, relative to the one of `_crossover.COSTS`. With units in lanes a row of a layer
#: takes as long as some more operations, because they wait for each other.
ROWS, UNITS, WAIT = 1.1, 0.8, 60.0
#: Weights of more bytes than that, which every row reads again, come from further away: operations more for each read.
FAR = (3 * 2**14, 1.0), (5 * 2**15, 3.0), (2**20, 4.0)
MOST_SUMS = 2**19  #: bytes of the gradient's sums that are read and written for every block, and still near
#: Beyond them programs would be too long, or their sums outgrow the caches.
WIDEST_LAYER, MOST_PARAMETERS = 256, 20_000


@lru_cache(maxsize=256)
def generated(recipe: Recipe, vector_bytes: int | None = None) -> Whole:
    """Return the program for a recipe; vectors are as wide as the processor's, unless told otherwise."""
    if vector_bytes is None:
        from nnkernels.backends.numba.machine import vector_bytes as native

        vector_bytes = native()
    itemsize = _itemsize(recipe)
    lanes = vector_bytes // itemsize
    if strategy(recipe, lanes) == "rows":
        while lanes > 2 and recipe.batch <= lanes // 2:
            lanes //= 2
        return rows.write(recipe, min(lanes, 32 // itemsize) if recipe.batch <= 32 else lanes)
    narrow = min(lanes, 32 // itemsize)
    if units.fits_registers(recipe, narrow):  # latency counts there, and narrow vectors have less of it
        return units.write(recipe, narrow)
    return units.write(recipe, lanes)


@lru_cache(maxsize=256)
def generic(recipe: Recipe) -> Whole:
    """Return the program that reads its sizes when it runs."""
    return _generic.write(recipe, 32 // (4 if recipe.dtype == "float32" else 8))


def strategy(recipe: Recipe, lanes: int) -> str:
    """Return "rows" or "units": what is in lanes."""
    if units.fits_registers(recipe, min(lanes, 8)):
        return "units"
    by_units = units_operations(recipe, lanes)
    by_rows = rows_operations(recipe, lanes)
    if recipe.n_parameters > MOST_PARAMETERS:
        return "units"
    if any(layer.n_out > WIDEST_LAYER for layer in recipe.layers[1:]):
        return "rows"
    return "rows" if by_rows <= by_units else "units"


def why_not(recipe: Recipe) -> str | None:
    """Return why there is no generated program for a recipe, or None."""
    wide = [layer.n_out for layer in recipe.layers[1:] if layer.n_out > WIDEST_LAYER]
    if wide and recipe.n_parameters > MOST_PARAMETERS:
        sizes = f"wider than {WIDEST_LAYER}, and there are over {MOST_PARAMETERS:,} parameters"
        return f"is not there for this network: a layer of {max(wide)} units is {sizes}"
    return None


def in_registers(recipe: Recipe) -> bool:
    """Tell whether a program is unrolled altogether, and short."""
    lanes = 8 if recipe.dtype == "float32" else 4
    return units.fits_registers(recipe, lanes) or RowsFrame(recipe, lanes).unrolled


def operations(recipe: Recipe) -> float:
    """Vector operations of a step of the generated program, on vectors of 64 bytes whatever the processor."""
    lanes = 16 if recipe.dtype == "float32" else 8
    return (rows_operations if strategy(recipe, lanes) == "rows" else units_operations)(recipe, lanes)


def generic_operations(recipe: Recipe) -> float:
    """Vector operations of a step of the generic program."""
    lanes = 8 if recipe.dtype == "float32" else 4
    vectors = -(-recipe.batch // lanes)
    passes = sum(vectors * (250.0 + layer.n_out * 40.0) for layer in recipe.layers)
    rows = vectors * (300.0 + (0 if recipe.whole else 10.0 * lanes * (recipe.n_in + recipe.n_out)))
    return vectors * recipe.n_parameters * 5.0 + 12.0 * recipe.n_parameters + passes + rows


def units_operations(recipe: Recipe, lanes: int) -> float:
    """Vector operations of a step with units in lanes."""
    operations = 40.0 + _state_operations(recipe, lanes)
    hidden = sum(layer.n_in * layer.n_out for layer in recipe.layers[1:]) * _itemsize(recipe)
    reads = sum(more for size, more in FAR if hidden > size)
    for number, layer in enumerate(recipe.layers):
        vectors = -(-layer.n_out // lanes)
        last = number == len(recipe.layers) - 1 and number > 0 and layer.n_out <= INPUT_LANES_OUTPUTS
        if last:
            inputs = -(-layer.n_in // lanes)
            loss = 4 * layer.n_out if number == 1 else 40 + WAIT  # `units_shallow` has rows in lanes there
            operations += recipe.batch * (3 * layer.n_out * inputs + loss) + 2 * layer.n_out * inputs
        else:
            products = recipe.batch * layer.n_in * vectors
            operations += 2.5 * products
            operations += (1 + reads) * products + 3 * recipe.batch * layer.n_in if number else 0
            operations += (30 * vectors + WAIT) * recipe.batch + 4 * layer.n_in * vectors
    return UNITS * operations


def rows_operations(recipe: Recipe, lanes: int) -> float:
    """Vector operations of a step with rows in lanes."""
    vectors = -(-recipe.batch // lanes)
    operations = 40.0 + 5.0 * recipe.n_parameters + _state_operations(recipe, lanes)
    for number, layer in enumerate(recipe.layers):
        products = vectors * layer.n_in * layer.n_out
        operations += products * (3.0 if number else 2.0) + 30.0 * vectors * layer.n_out
    if not recipe.whole:  # lanes are gathered one by one
        operations += recipe.batch * (5.0 * recipe.n_in + 3.0 * recipe.n_out)
    if recipe.n_parameters * lanes * _itemsize(recipe) > MOST_SUMS:
        operations += 2.0 * vectors * recipe.n_parameters
    return ROWS * operations


def _itemsize(recipe: Recipe) -> int:
    return 4 if recipe.dtype == "float32" else 8


def networks_operations(recipe: Recipe) -> float:
    """Vector operations of a step of the networks of a group, one in each lane."""
    units = sum(layer.n_out for layer in recipe.layers)
    return (
        recipe.batch * (5.0 * recipe.n_parameters + 30.0 * units)
        + (4.0 + 12.0 * len(recipe.state)) * recipe.n_parameters
    )


def _state_operations(recipe: Recipe, lanes: int) -> float:
    """Vector operations of an update beside those of plain descent."""
    return 12.0 * len(recipe.state) * recipe.n_parameters / lanes
