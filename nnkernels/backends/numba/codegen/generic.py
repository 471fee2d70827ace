"""The program that reads its sizes when it runs: what its tables hold, and the printed choices among the formulas.

`sizes` begins with (0) the number of layers, (1) the length of the packed parameters, (2) the rows of a batch and (3)
the same padded to whole vectors, the kinds of (4) the loss, (5) the optimizer and (6) what stands between the last z
and the loss, (7) whether a batch is all rows in order, (8) whether rows have weights, (9) the number of outputs and
(10) inputs, and the places in the workspace of (11) the gradient's sums over rows, (12) the gradient, (13) the inputs
and (14) the targets of a vector of rows. Ten entries a layer follow, from entry 16 on: inputs, outputs, kind of
activation, places of weights and biases, whether there are biases, places in the workspace of outputs and of slopes,
the word below which dropout drops (0 for none), and the place of its mask.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnkernels._formulas import ACTIVATIONS, LOSSES, OPTIMIZERS, parse
from nnkernels.backends._printing import assignments
from nnkernels.backends.numba.codegen.code import Code
from nnkernels.backends.numba.codegen.formulas import (
    BY_HAND,
    VectorDialect,
    activation_source,
    function_source,
    loss_source,
)
from nnkernels.backends.numba.codegen.program import Packing, Whole, dropout_constants

if TYPE_CHECKING:
    from nnkernels._recipe import Recipe

ACTIVATION_KINDS = {name: kind for kind, name in enumerate(ACTIVATIONS)} | {"softmax": -1}
LOSS_KINDS = {name: kind for kind, name in enumerate(LOSSES)} | {"categorical_cross_entropy": -1}
OPTIMIZER_KINDS = {name: kind for kind, name in enumerate(OPTIMIZERS)}

#: What `settings` holds, in order; the factors of what dropout keeps follow. A clip's limit of 0 means none.
SETTINGS = (
    *("delta", "momentum", "weight_decay", "beta1", "beta2", "eps", "alpha"),
    *("penalized", "l1", "l2", "clip_value", "clip_norm"),
)
#: The columns of `schedule`.
SCHEDULED = ("lr", "rest1", "rest2", "correction1", "correction2", "rest", "", "share")

_PROGRAM = Path(__file__).parents[1] / "programs" / "generic.py"
_HEAD, _LAYER = 16, 10  # entries of `sizes` before the layers', and of a layer


@cache
def source() -> str:
    """Return the program, the same for every network."""
    text = "".join(activation_source(name) for name in ACTIVATIONS if name not in (*BY_HAND, "identity"))
    text += "".join(loss_source(name) for name in LOSSES)
    text += "".join(_update_source(name) for name in OPTIMIZERS)
    text += _choice("activate", "z", ("a = z", "s = splat(1.0)"), "a, s", _activation_calls())
    losses = {kind: f"{name}({', '.join(['p', 't', 'n', *LOSSES[name].scalars])})" for name, kind in _losses().items()}
    text += _choice("loss_of", "p, t, n, delta", ("loss = p", "slope = p"), "loss, slope", losses)
    updates = {kind: f"{name}_updated(p, g, m, v, now, settings)" for name, kind in OPTIMIZER_KINDS.items()}
    text += _choice("updated_by", "p, g, m, v, now, settings", (), "p, m, v", updates)
    return text + _PROGRAM.read_text()


def _losses() -> dict[str, int]:
    return {name: kind for name, kind in LOSS_KINDS.items() if kind >= 0}


def _activation_calls() -> dict[int, str]:
    return {
        kind: f"{name}_forward(z)" for name, kind in ACTIVATION_KINDS.items() if name not in ("identity", "softmax")
    }


def _choice(name: str, arguments: str, start: tuple[str, ...], results: str, calls: dict[int, str]) -> str:
    """Source of a function that calls one of several, by `kind`."""
    code = Code()
    for _ in code.block(f"def {name}(kind, {arguments}):"):
        code(*start)
        for kind, call in calls.items():
            for _ in code.block(f"if kind == {kind}:"):
                code(f"{results} = {call}")
        code(f"return {results}")
    return code.text + "\n\n"


def _update_source(name: str) -> str:
    """Source of ``<name>_updated``, whose state is m and v whatever the formula calls it."""
    formula = OPTIMIZERS[name]
    numbers = [f"{number} = settings[{SETTINGS.index(number)}]" for number in formula.scalars]
    numbers += [f"{number} = now[{SCHEDULED.index(number)}]" for number in ("lr", *dict(parse(formula.once)))]
    rename = {"v": "m"} if formula.state == ("v",) else {}
    body = assignments(VectorDialect, formula.statements(), rename, rename)
    return function_source(
        f"{name}_updated", ["p", "g", "m", "v", "now", "settings"], formula.summary, [*numbers, *body], ["p", "m", "v"]
    )


def write(recipe: Recipe, lanes: int) -> Whole:
    """Return the program with the tables of one recipe."""
    batch = -(-recipe.batch // lanes) * lanes
    sizes = np.zeros(_HEAD + _LAYER * len(recipe.layers), np.int64)
    places, place = [], 0
    table = sizes[_HEAD:].reshape(-1, _LAYER)
    workspace = _Space(lanes)
    for row, layer in zip(table, recipe.layers, strict=True):
        bias = place + workspace.padded(layer.n_in * layer.n_out)
        places.append(place + np.arange(layer.n_in * layer.n_out))
        places += [bias + np.arange(layer.n_out)] * layer.bias
        kind = ACTIVATION_KINDS[layer.activation_name]
        row[:6] = layer.n_in, layer.n_out, kind, place, bias, layer.bias
        row[6], row[7] = workspace.take(layer.n_out * lanes), workspace.take(layer.n_out * lanes)
        row[8], row[9] = (
            dropout_constants(layer.dropout)[0],
            workspace.take(batch * layer.n_out) if layer.dropout else 0,
        )
        place = bias + workspace.padded(layer.n_out if layer.bias else 0)
    sizes[:11] = (
        len(recipe.layers),
        place,
        recipe.batch,
        batch,
        LOSS_KINDS[recipe.loss],
        OPTIMIZER_KINDS[recipe.optimizer],
        ACTIVATION_KINDS[recipe.last_activation],
        recipe.whole,
        recipe.weighted,
        recipe.n_out,
        recipe.n_in,
    )
    sizes[11], sizes[12] = workspace.take(place * lanes), workspace.take(place)
    sizes[13], sizes[14] = workspace.take(recipe.n_in * lanes), workspace.take(recipe.n_out * lanes)
    return Whole(
        source(),
        lanes=lanes,
        packing=Packing(places, place),
        workspace=workspace.size,
        parts=1,
        batch=batch,
        columns=recipe.whole,
        targets=recipe.n_out,
        sizes=sizes,
        n_state=2,
        settings=SETTINGS + tuple(f"keep{number}" for number in range(len(recipe.layers))),
        scheduled=SCHEDULED,
    )


class _Space:
    """Hands out workspace, in whole vectors."""

    def __init__(self, lanes: int) -> None:
        self.lanes, self.size = lanes, 0

    def padded(self, n: int) -> int:
        return -(-n // self.lanes) * self.lanes

    def take(self, n: int) -> int:
        """Return where the next n reals begin."""
        start, self.size = self.size, self.size + self.padded(n)
        return start
