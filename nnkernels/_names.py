"""Objects by name: `loss="huber"`, `optimizer="adam"` and their like, with the nearest name in the error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" for a misspelt name, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1, cutoff=0.7)  # "gpu" is not nearly "cpu"
    return f" Did you mean {close[0]!r}?" if close else ""


def by_name(what: str, spec: object, kind: type[T], table: Mapping[str, Callable[[], T]]) -> T:
    """Return `spec` if it is a `kind`, else the one that it names in the table.

    Raises
    ------
    TypeError
        It is neither a string nor a `kind`.
    ValueError
        There is nothing of that name.
    """
    if isinstance(spec, kind):
        return spec
    if not isinstance(spec, str):
        hint = f" (write {spec.__name__}(...))" if isinstance(spec, type) and issubclass(spec, kind) else ""
        raise TypeError(f"{what} must be a name or {_article(kind.__name__)}, not {spec!r}{hint}")
    if spec not in table:
        raise ValueError(f"unknown {what} {spec!r}. There are: {', '.join(table)}.{nearest(spec, table)}")
    return table[spec]()


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"
