"""What a case is: rows that are measured against each other, in one unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from benchmarks.timing import interleave, summarize

Kind = Literal["own", "peer", "limit", "bound"]

WRONG = "computes something else"  #: begins the note of a row whose result is not the reference's
FAILED = "failed"  #: begins the note of a row of ours that broke


class Settings(NamedTuple):
    """What the user asked for.

    Parameters
    ----------
    quick : bool
        Fewer steps, sizes and rounds.
    threads : int
        Threads that every row may use.
    devices : tuple of str
        Devices of our own rows; empty for all that can be used. With "cuda" among them, the peers run on the GPU.
    peers : tuple of str or None
        Libraries to compare with; None for all.
    rounds : int or None
        Rounds of every case; None for each case's own number.
    """

    quick: bool = False
    threads: int = 1
    devices: tuple[str, ...] = ()
    peers: tuple[str, ...] | None = None
    rounds: int | None = None

    @property
    def gpu(self) -> bool:
        """Whether a GPU is among our devices: the peers then run on that GPU, too."""
        return any(name.partition(":")[0] == "cuda" for name in self.devices)


class Row(NamedTuple):
    """One line of a case.

    Parameters
    ----------
    kind : {"own", "peer", "limit", "bound"}
        Ours, somebody else's, what can be reached, or what cannot be passed and is out of reach.
    run : callable or None
        Returns the seconds (or whatever the case measures) of one run; None if the row is absent.
    work : float
        Steps, samples, GB, ... of one run: figures are per unit of work, so that a slow row may do less of it.
    note : str
        Why it is absent, or what is different about it.
    """

    kind: Kind
    run: Callable[[], float] | None
    work: float = 1.0
    note: str = ""


class Case(NamedTuple):
    """Rows to be measured against each other.

    Parameters
    ----------
    name, title : str
        Key in the results, and heading of the table.
    unit : str
        Of the figures.
    scale : float
        A figure is ``scale * seconds / work``, or ``work / seconds / scale`` where more is better.
    rows : dict of str to Row
        By name, ours first.
    rounds : int
        How often each row is run.
    more_is_better : bool
        Whether the figures are speeds.
    point : dict
        Where a case belongs in a sweep: its coordinates.
    """

    name: str
    title: str
    unit: str
    scale: float
    rows: dict[str, Row]
    rounds: int
    more_is_better: bool = False
    point: dict[str, Any] | None = None

    def measure(self) -> dict[str, Any]:
        """Run the rows, interleaved; return the figures as what JSON has."""
        runs = {name: row.run for name, row in self.rows.items() if row.run is not None}
        measured, lost = interleave(runs, self.rounds)
        rows: dict[str, dict[str, Any]] = {}
        for name, row in self.rows.items():
            rows[name] = {"kind": row.kind, "note": lost.get(name, row.note)}
            if name in measured:
                rows[name] |= summarize([self._figure(value, row.work) for value in measured[name]])
        return {
            "title": self.title,
            "unit": self.unit,
            "more_is_better": self.more_is_better,
            "rounds": self.rounds,
            "rows": rows,
            **({"point": self.point} if self.point else {}),
        }

    def _figure(self, value: float, work: float) -> float:
        return work / value / self.scale if self.more_is_better else self.scale * value / work
