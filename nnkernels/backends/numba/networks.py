"""Whole-run training of many networks in compiled code: a network in each lane, groups of lanes spread over threads.

What a lane computes depends on neither its neighbors nor on where its steps are cut: a network has the same bits in an
ensemble of any size, on any number of threads, and alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnkernels._recipe import Recipe, schedule_values, setting_values
from nnkernels._sampling import consecutive, rows_of_batches
from nnkernels.backends.numba import threads
from nnkernels.backends.numba.codegen.networks import ARGUMENTS, Networks

if TYPE_CHECKING:
    from nnkernels._composed import Data
    from nnkernels._losses import Loss
    from nnkernels._network import Sequential
    from nnkernels._optimizers import Optimizer
    from nnkernels._plan import Plan

Host = np.ndarray[Any, Any]

BLOCK_STEPS, BLOCK_BYTES = 8192, 2**20  #: of one call of the program: steps, and bytes of each of its large arrays
CALL_SECONDS = 0.1  #: of the calls between which Ctrl-C is noticed, as predicted

_TYPES = {"int": ctypes.c_int64}


@lru_cache(maxsize=256)
def written(recipe: Recipe, draws: bool = False, own_data: bool = False, own_weight: bool = False) -> Networks:
    """Return the program for a recipe, with vectors as wide as the processor's."""
    from nnkernels.backends.numba.machine import vector_bytes

    lanes = vector_bytes() // np.dtype(recipe.dtype).itemsize
    return Networks(recipe, lanes, draws=draws, own_data=own_data, own_weight=own_weight)


class Block(NamedTuple):
    """What all networks share in a block of steps."""

    first_step: int
    counts: Host  # (steps,): rows of each batch that count
    schedule: Host  # (steps, columns)
    ends: int | None  # which stop it ends at


class Group(NamedTuple):
    """What the networks of some groups of lanes bring along."""

    n: int  # groups
    size: int  # networks
    members: Host  # (groups * lanes,): the lanes to spare repeat the last network
    rows: Host
    numbers: Host
    origins: Host  # (groups, 2, lanes)
    settings: Host  # (groups, 1 + settings, lanes)


class NetworksRun:
    """A training run of some networks of an ensemble.

    Parameters
    ----------
    plan : Plan
        The way to run: "lanes".
    flat : ndarray
        Parameters of all networks of the ensemble, (n, P), trained in place.
    rows : ndarray
        Which of them this run trains, (m,).
    numbers : ndarray
        Of all networks, in the streams of random numbers, (n,).
    loss, optimizer : Loss, Optimizer
        What is minimized, and how; numbers of the optimizer may be one for each of the m networks.
    data : Data
        (rows, columns), or (n, rows, columns) where networks have their own.
    batch_size, sampling, seed
        As for `ComposedRun`.
    """

    def __init__(
        self,
        plan: Plan,
        flat: Host,
        rows: Host,
        numbers: Host,
        loss: Loss,
        optimizer: Optimizer,
        data: Data,
        *,
        batch_size: int,
        sampling: str,
        seed: int,
    ) -> None:
        self.recipe, self.flat, self.rows, self.numbers = plan.work.recipe, flat, rows, numbers
        self.loss, self.optimizer, self.data = loss, optimizer, data
        self.batch_size, self.sampling, self.seed = batch_size, sampling, seed
        self.own_data, self.own_weight = data.x.ndim == 3, data.weight is not None and data.weight.ndim == 3
        self.n_rows = data.x.shape[-2]
        draws = sampling == "replacement"
        self.program = written(self.recipe, draws, self.own_data, self.own_weight)
        from nnkernels.backends.numba.training import program

        self.call = program(self.program.source, self.recipe.dtype, self.program.lanes).function(
            "run", *(_TYPES.get(kind, ctypes.c_void_p) for kind in ARGUMENTS.values())
        )
        self.state = np.zeros((len(self.recipe.state), len(rows), flat.shape[1]), flat.dtype)
        self.settings = self._settings()
        self.group_seconds = plan.seconds[plan.way] / plan.work.steps / max(1, len(flat)) * self.program.lanes
        self.pools: dict[int, dict[str, Host]] = {}  # arrays of each thread
        self.groups: dict[int, Group] = {}  # by their first network
        self.plain = optimizer.of(0).replace(lr=1.0)
        self.constant = self.recipe.scheduled == ("lr",) and optimizer.has_constant_rate

    def advance(self, members: Host, first_step: int, stops: list[int]) -> tuple[Host, Host]:
        """Take steps with some networks; see `nnkernels._ensemble_training.Run`."""
        losses, good = np.empty((len(members), len(stops))), np.empty(len(members), bool)
        blocks, count = self._blocks(first_step, stops), stops[-1] - first_step
        n_threads = threads.count()
        parts = self._parts(len(members), max(len(block.counts) for block in blocks), n_threads)
        size = parts[0].stop * count / self.program.lanes * self.group_seconds
        together = n_threads * max(1, int(CALL_SECONDS / size))
        for start in range(0, len(parts), together):
            now = parts[start : start + together]

            def run(thread: int, n: int, now: list[slice] = now) -> None:
                for part in now[thread::n]:
                    losses[part], good[part] = self._advance(thread, members[part], blocks)

            threads.together(run, min(n_threads, len(now)))
        return losses, good

    def _parts(self, n: int, steps: int, n_threads: int) -> list[slice]:
        """Cut networks into parts whose arrays fit into the caches; several a thread, if there are so many."""
        lanes, recipe = self.program.lanes, self.recipe
        group = max(
            self.flat.shape[1] * (1 + len(self.state)) * lanes * self.flat.itemsize,
            steps * recipe.batch * lanes * 8 * self.program.ordered,
        )
        groups = -(-n // lanes)
        size = lanes * max(1, min(BLOCK_BYTES // group, -(-groups // n_threads)))
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _blocks(self, first_step: int, stops: list[int]) -> list[Block]:
        """Cut steps into blocks, and say what changes from one step to the next."""
        recipe, lanes = self.recipe, self.program.lanes
        longest = BLOCK_BYTES // (recipe.batch * lanes * 8) if self.program.ordered else BLOCK_STEPS
        longest = max(1, min(longest, BLOCK_STEPS))
        blocks = []
        starts = [first_step, *stops[:-1]]
        cuts = [
            (start, min(start + longest, stop), number if start + longest >= stop else None)
            for number, (begin, stop) in enumerate(zip(starts, stops, strict=True))
            for start in range(begin, stop, longest)
        ]
        for start, stop, ends in cuts:
            steps = stop - start
            counts = np.asarray(rows_of_batches(start, steps, self.n_rows, self.batch_size, self.sampling), np.int64)
            schedule = np.ones((steps, 1), recipe.dtype)
            if not self.constant:
                schedule = schedule_values(recipe.scheduled, recipe, self.loss, self.plain, start, counts)
            blocks.append(Block(start, counts, schedule, ends))
        return blocks

    def _settings(self) -> Host:
        """Return each network's rate and the numbers that a run reads once, (m, 1 + settings)."""
        recipe, optimizer = self.recipe, self.optimizer
        settings = np.empty((len(self.rows), 1 + len(recipe.settings)), recipe.dtype)
        settings[:, 0] = optimizer.lr
        plain = optimizer.of(0)
        settings[:, 1:] = setting_values(recipe.settings, recipe, self.loss, plain)[: len(recipe.settings)]
        for k, name in enumerate(recipe.settings):
            if name in optimizer.varied:
                settings[:, 1 + k] = getattr(optimizer, name)
        return settings

    def _advance(self, thread: int, members: Host, blocks: list[Block]) -> tuple[Host, Host]:
        """Take steps with the networks of some groups; return their losses, and which of them are numbers."""
        n_state, _, size = self.state.shape
        group = self._group(members)
        pool = self.pools.setdefault(thread, {})
        packed = _array(pool, "parameters", (group.n, (1 + n_state) * size, self.program.lanes), self.flat.dtype)
        _to_lanes(self.flat[group.rows], packed[:, :size])
        for k, state in enumerate(self.state):
            _to_lanes(state[group.members], packed[:, (1 + k) * size : (2 + k) * size])
        losses, found = (
            np.zeros(group.members.shape),
            np.empty((len(members), 1 + sum(block.ends is not None for block in blocks[:-1]))),
        )
        arrays = {
            "parameters": packed,
            "workspace": _array(pool, "workspace", (max(self.program.workspace, 1),), self.flat.dtype),
            "x": self.data.x,
            "t": self.data.t,
            "weight": self.data.x if self.data.weight is None else self.data.weight,
            "origins": group.origins,
            "settings": group.settings,
            "loss": losses,
            "numbers": group.numbers,
        }
        for block in blocks:
            self._call(arrays, block, pool, group)
            if block.ends is not None:
                found[:, block.ends], losses[:] = losses[: len(members)], 0
        good: Any = np.isfinite(found).all(axis=1)
        numbers = np.isfinite(packed)
        if not numbers.all():
            good &= numbers.all(axis=1).reshape(-1)[: len(members)]
        self._commit(packed, members, good)
        return found, good

    def _group(self, members: Host) -> Group:
        """Return what the networks of some groups of lanes bring along; the last one fills lanes to spare."""
        known = self.groups.get(int(members[0]))
        if known is not None and np.array_equal(known.members[: known.size], members):
            return known
        lanes = self.program.lanes
        n = -(-len(members) // lanes)
        filled = members[np.minimum(np.arange(n * lanes), len(members) - 1)]
        rows = self.rows[filled]
        settings = np.empty((n, self.settings.shape[1], lanes), self.flat.dtype)
        _to_lanes(self.settings[filled], settings)
        origins = np.repeat(rows.reshape(n, 1, lanes) * self.n_rows, 2, axis=1)
        group = Group(n, len(members), filled, rows, self.numbers[rows], origins, settings)
        self.groups[int(members[0])] = group
        return group

    def _call(self, arrays: dict[str, Host], block: Block, pool: dict[str, Host], group: Group) -> None:
        """Take a block of steps."""
        order = self._order(block, pool, group) if self.program.ordered else group.numbers
        arrays |= {"order": order, "counts": block.counts, "schedule": block.schedule}
        numbers = {"seed": int(np.uint64(self.seed).view(np.int64)), "n_rows": self.n_rows, "first": 0, "stop": group.n}
        numbers |= {"first_step": block.first_step, "steps": len(block.counts)}
        self.call(*(arrays[name].ctypes.data if name in arrays else numbers[name] for name in ARGUMENTS))

    def _order(self, block: Block, pool: dict[str, Host], group: Group) -> Host:
        """Draw the rows of a block's batches, (groups, steps, batch, lanes)."""
        from nnkernels.backends.numba.random import draw_indices

        lanes, steps, batch = self.program.lanes, len(block.counts), self.batch_size
        drawn = _array(pool, "drawn", (group.n * lanes, steps, batch), np.int64)
        for part, number in consecutive(group.numbers[: group.size]):
            out = drawn[part]
            draw_indices(self.seed, number, block.first_step, sampling=self.sampling, n_rows=self.n_rows, out=out)
        drawn[group.size :] = drawn[group.size - 1]
        order = _array(pool, "order", (group.n, steps * batch, lanes), np.int64)
        _to_lanes(drawn.reshape(group.n * lanes, -1), order)
        return np.maximum(order, 0, out=order)  # a short batch: the rest of its rows counts for nothing

    def _commit(self, packed: Host, members: Host, good: Host) -> None:
        """Take over what was computed for the networks that are numbers."""
        size = self.flat.shape[1]
        kept = members[good]
        if len(kept) == len(members):
            good = slice(None)  # type: ignore[assignment]  # which copies nothing
        self.flat[self.rows[kept]] = _from_lanes(packed[:, :size])[: len(members)][good]
        for k, state in enumerate(self.state):
            state[kept] = _from_lanes(packed[:, (1 + k) * size : (2 + k) * size])[: len(members)][good]


class LaneRun:
    """A training run of a single network in one of the lanes; the interface is that of `ComposedRun`.

    It is there to repeat a network of an ensemble: nothing is left over for `restore` where `advance` has failed.
    """

    note = ""

    def __init__(
        self,
        network: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        data: Data,
        *,
        batch_size: int,
        steps: int,
        sampling: str,
        seed: int,
        plan: Plan,
    ) -> None:
        self.network, self.flat = network, network.parameters.flat
        one, number = np.zeros(1, np.int64), np.array([network.key.network], np.int64)
        settings: dict[str, Any] = {"batch_size": batch_size, "sampling": sampling, "seed": seed}
        self.run = NetworksRun(plan, self.flat[None], one, number, loss, optimizer, data, **settings)
        self.good = True

    def advance(self, first_step: int, stops: Sequence[int]) -> list[float]:
        """Run up to the last of the steps `stops`; return the sum of the losses up to each of them."""
        losses, good = self.run.advance(np.zeros(1, np.int64), first_step, list(stops))
        self.good = bool(good[0])
        found: list[float] = losses[0].tolist()
        return found

    def publish(self) -> None:
        """Leave the network its parameters: `advance` has done it."""

    def keep(self) -> None:
        """Nothing to do: what is not a number is not taken over."""

    restore = keep

    def finite(self) -> bool:
        """Tell whether the last call's loss, parameters and state were numbers."""
        return self.good


def _to_lanes(networks: Host, out: Host) -> None:
    """Write (networks, k) as (groups, k, lanes)."""
    groups, size, lanes = out.shape
    np.copyto(out, networks.reshape(groups, lanes, size).transpose(0, 2, 1))


def _from_lanes(packed: Host) -> Host:
    """Return (groups, k, lanes) as (networks, k)."""
    return packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])


def _array(pool: dict[str, Host], name: str, shape: tuple[int, ...], dtype: Any) -> Host:
    """Return an array of a thread, which is made once, aligned to cache lines."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if name not in pool or pool[name].size < size + 64:
        pool[name] = np.empty(size + 64, np.uint8)
    start = -pool[name].ctypes.data % 64
    array: Host = pool[name][start : start + size].view(dtype).reshape(shape)
    return array
