"""Where a network's random numbers come from: one key, and counters."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from nnkernels._record import Record

Sampling = Literal["permutation", "replacement", "sequential"]


def check_sampling(sampling: str) -> None:
    """Raise unless `sampling` is a way to draw rows."""
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling must be one of {', '.join(get_args(Sampling))}, not {sampling!r}")


class Key(Record):
    """What a network's start, row order and dropout are a function of.

    Parameters
    ----------
    seed : int
        64 bits.
    network : int
        Number of the network in an ensemble.
    """

    seed: int
    network: int = 0

    @staticmethod
    def of(rng: Key | int | np.random.Generator | None) -> Key:
        """Return the key that ``rng=`` stands for; None draws one from the system, a Generator gives its next."""
        if isinstance(rng, Key):
            return rng
        if rng is None:
            rng = np.random.default_rng()
        if isinstance(rng, np.random.Generator):
            return Key(int(rng.integers(2**64, dtype=np.uint64)))
        if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
            raise TypeError(f"rng must be an int, a numpy.random.Generator or None, not {rng!r}")
        if not 0 <= rng < 2**64:
            raise ValueError(f"rng must be in [0, 2**64), not {rng}")
        return Key(int(rng))

    def generator(self) -> np.random.Generator:
        """Return the generator that draws the initial parameters."""
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, self.network], np.uint64)))

    def for_fit(self, number: int) -> int:
        """Return the seed of a network's `number`-th fit: a second fit does not repeat the first one's order."""
        return int(np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0])


def steps_per_epoch(n_rows: int, batch_size: int) -> int:
    """Number of batches of an epoch, the last of which may be short."""
    return -(-n_rows // batch_size)


def batch_rows(step: int, n_rows: int, batch_size: int, sampling: str) -> int:
    """Number of rows of a step's batch."""
    if sampling == "replacement":
        return batch_size
    position = step % steps_per_epoch(n_rows, batch_size) * batch_size
    return min(batch_size, n_rows - position)


def rows_of_batches(first_step: int, count: int, n_rows: int, batch_size: int, sampling: str) -> Any:
    """Return `batch_rows` of each of `count` steps, (count,)."""
    rows = np.full(count, batch_size, np.int64)
    per_epoch = steps_per_epoch(n_rows, batch_size)
    last = per_epoch - 1  # of an epoch
    rows[last - first_step % per_epoch :: per_epoch] = batch_rows(last, n_rows, batch_size, sampling)
    return rows


def consecutive(numbers: np.ndarray[Any, Any]) -> list[tuple[slice, int]]:
    """Return the runs of consecutive numbers: where each one is, and its first number.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkernels._sampling import consecutive
    >>> consecutive(np.array([3, 4, 9]))
    [(slice(0, 2, None), 3), (slice(2, 3, None), 9)]
    """
    bounds = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
    return [(slice(start, stop), int(numbers[start])) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]
