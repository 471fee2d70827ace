"""Lines of CUDA C++, written in order."""

from __future__ import annotations

from collections.abc import Iterator


class Text:
    """Lines of a program. What a Python ``for`` over `block` writes stands between its braces."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, *lines: str) -> None:
        """Write lines at the present depth."""
        self.lines += ["    " * self.depth + line if line else "" for line in lines]

    def block(self, head: str, end: str = "}") -> Iterator[None]:
        """Write what a ``for`` over this writes as the body of `head`."""
        self(f"{head} {{")
        self.depth += 1
        yield
        self.depth -= 1
        self(end)

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"
