"""A whole-run program: its arguments, its parameters' layout, and the pieces that every generator writes alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels._recipe import Recipe
from nnkernels.backends.numba.codegen.code import Code
from nnkernels.backends.numba.codegen.formulas import function_sources, update_names

Ints = np.ndarray[Any, np.dtype[np.int64]]

#: The arguments of `run`, with their types in the language.
ARGUMENTS = {
    "parameters": "reals",  # packed, then the optimizer's state, packed alike
    "workspace": "reals",
    "x": "reals",  # of all rows
    "t": "reals",
    "weight": "reals",  # (rows,), if rows have weights
    "order": "ints",  # (steps, batch): the rows of each batch
    "counts": "ints",  # (steps,): how many rows of a batch count
    "schedule": "reals",  # (steps, columns): what changes from step to step
    "settings": "reals",
    "sizes": "ints",  # of the network, where the program does not know them
    "loss": "doubles",  # (parts + steps,): of the parts of a step; the sum of the losses up to each step's end
    "seeds": "ints",  # seed, network, first step: of dropout
    "steps": "int",
    "sync": "ints",  # the barrier's counter
    "thread": "int",
    "threads": "int",
}


class Packing:
    """Where each parameter lies in a program's buffer, which is longer: tensors are padded to whole vectors.

    Parameters
    ----------
    places : list of ndarray
        For each tensor in the canonical order, its elements' places, in the tensor's shape.
    size : int
        Length of the program's buffer.
    """

    def __init__(self, places: list[Ints], size: int) -> None:
        self.index = np.concatenate([place.ravel() for place in places])
        self.size = size

    def pack(self, flat: Any, out: Any) -> None:
        """Copy the canonical layout (P,) to the program's."""
        out[self.index] = flat

    def unpack(self, packed: Any, out: Any) -> None:
        """Copy the program's layout to the canonical one."""
        packed.take(self.index, out=out, mode="clip")


class Whole:
    """A program for one recipe.

    Attributes
    ----------
    source : str
        Its text.
    lanes : int
        Of its vectors.
    packing : Packing
        Of its parameters.
    workspace : int
        Reals that it needs beside them.
    parts : int
        The largest number of threads that have something to do.
    columns : bool
        Whether it wants the data transposed, (n_in, rows) and (n_out, rows), padded to `batch` rows.
    targets : int
        Width of a row of targets.
    batch : int
        Rows of a batch, padded to whole blocks.
    sizes : ndarray
        What it reads about the network, if it was not written for it.
    n_state : int
        Arrays of the optimizer's state.
    settings, scheduled : tuple of str
        Names of the numbers that it reads once, and of those that change from step to step.
    """

    def __init__(
        self,
        source: str,
        *,
        lanes: int,
        packing: Packing,
        workspace: int,
        parts: int,
        batch: int,
        columns: bool = False,
        targets: int = 0,
        sizes: Ints | None = None,
        n_state: int,
        settings: tuple[str, ...],
        scheduled: tuple[str, ...],
    ) -> None:
        self.source, self.lanes, self.packing, self.workspace = source, lanes, packing, workspace
        self.parts, self.columns, self.targets, self.batch = parts, columns, targets, batch
        self.sizes = np.zeros(1, np.int64) if sizes is None else sizes
        self.n_state, self.settings, self.scheduled = n_state, settings, scheduled

    @classmethod
    def written_for(cls, recipe: Recipe, source: str, **rest: Any) -> Whole:
        """Return a program that knows its recipe: it reads the recipe's numbers, in the recipe's order."""
        state, settings, scheduled = len(recipe.state), recipe.settings, recipe.scheduled
        return cls(source, n_state=state, settings=settings, scheduled=scheduled, **rest)


def write_run(recipe: Recipe, code: Code, body: Callable[[], None], summary: str) -> str:
    """Return a whole program: functions, then `run`, whose step `body` writes."""
    arguments = ", ".join(f"{name}: {type_}" for name, type_ in ARGUMENTS.items())
    for _ in code.block(f"def run({arguments}):"):
        code(*(f"{name} = settings[{number}]" for number, name in enumerate(recipe.settings)))
        body()
    return f'"""{summary}\n\n{recipe.describe()}\n"""\n\n\n' + function_sources(recipe) + code.text


def write_steps(recipe: Recipe, code: Code, parts: int) -> Iterator[None]:
    """Write the loop over steps: what changes from one to the next, masks, and the sum of the losses."""
    code("losses = double(0.0)", "meetings = 0")
    for _ in code.range("step", "steps"):
        for number, name in enumerate(recipe.scheduled):
            code(f"{name} = schedule[step * {len(recipe.scheduled)} + {number}]")
        for number, layer in enumerate(recipe.layers):
            if layer.dropout:
                _write_mask(code, number, layer.dropout, recipe.batch * layer.n_out)
        yield
        for _ in code.block("if thread == 0:"):
            code(f"loss[{parts} + step] = losses")


def write_update(
    recipe: Recipe, code: Code, place: str, gradient: str, kind: str, *, shape: bool = True, apply: bool = True
) -> None:
    """Write the update of the vector of parameters at `place`; `kind` is "weight" or "bias".

    Where gradients are clipped by norm, all of them are shaped first, and applied later.
    """
    names = ", ".join(update_names(recipe))
    code(f"p = load(w, {place})")
    if shape and (recipe.penalized or recipe.clipped):
        code(f"{gradient} = shaped_{kind}(p, {gradient}, {names})")
    if not apply:
        return
    code(*(f"{name} = load(w_{name}, {place})" for name in recipe.state))
    results = ", ".join(["p", *recipe.state])
    code(f"{results} = updated({', '.join(['p', gradient, *recipe.state])}, {names})")
    code(f"store(w, {place}, p)", *(f"store(w_{name}, {place}, {name})" for name in recipe.state))


def array_names(recipe: Recipe) -> list[str]:
    """Return the names of the parameters' array and of the optimizer's, which lie one after the other."""
    return ["w", *(f"w_{name}" for name in recipe.state)]


def write_barrier(code: Code, threaded: bool = True) -> None:
    """Write a barrier over all threads, if there can be several."""
    code(*(["meetings = meetings + threads", "barrier(sync, meetings)"] * threaded))


def _write_mask(code: Code, number: int, rate: float, size: int) -> None:
    """Write the drawing of a layer's dropout mask."""
    threshold, keep = dropout_constants(rate)
    code(f"drop(seeds, {number}, seeds[2] + step, {threshold}, {keep!r}, m{number}, {size})")


def dropout_constants(rate: float) -> tuple[int, float]:
    """Return the word below which an output is dropped, and the factor of those that are kept."""
    return round(rate * 2**32), 1 / (1 - rate)
