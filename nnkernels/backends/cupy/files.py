"""The `.cu` files, as text."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def read(*names: str) -> str:
    """Return files, one after another; a compiler's errors name the file, and the line in it."""
    return "".join(f'#line 1 "{name}.cu"\n{(FOLDER / f"{name}.cu").read_text()}' for name in names)
