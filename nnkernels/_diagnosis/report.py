"""What a check found: data first, then text for a terminal, HTML for a notebook, and a page to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from textwrap import indent, wrap
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group

WIDTH = 79


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes
    ----------
    code : str
        What it is; `nnkernels._diagnosis.codes.CODES` lists all. Stable.
    parameter : str or None
        The gradient, or the layer's weight, where it is.
    message : str
        What is wrong, in one sentence.
    evidence : str
        The numbers that say so.
    remedy : str
        What to do about it, as code where code does it.
    wrong, right : str
        The formula that gives the user's numbers, and the right one.
    also : tuple of str
        Other names for the same program, "code: message": no network of these layers tells them apart.
    alternatives : tuple of tuple of Finding
        Where the code is "tied": explanations that differ, of which any may be true.
    """

    code: str
    parameter: str | None
    message: str
    evidence: str
    remedy: str
    wrong: str = ""
    right: str = ""
    also: tuple[str, ...] = ()
    alternatives: tuple[tuple[Finding, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        fields = self._asdict()
        fields["alternatives"] = [[finding.to_dict() for finding in some] for some in self.alternatives]
        return fields | {"also": list(self.also)}

    def lines(self) -> list[tuple[str, str]]:
        """Return labels and texts, in the order of reading."""
        rows = [("", self.message), ("evidence", self.evidence), ("wrong", self.wrong), ("right", self.right)]
        rows += [("or", other) for other in self.also] + [("fix", self.remedy if self.remedy != self.right else "")]
        for number, some in enumerate(self.alternatives, start=1):
            rows.append(
                (
                    f"either {number}" if number == 1 else f"or {number}",
                    " and: ".join(f"{f.message} {f.wrong}".strip() for f in some),
                )
            )
        return [(label, text) for label, text in rows if text]


class Report:
    """What a check found.

    Attributes
    ----------
    title : str
        What was checked.
    findings : list of Finding
        What is wrong; empty if nothing is.
    status : dict of str to str
        Of each parameter (or layer), in a few words.
    notes : list of str
        What is worth knowing and is not wrong.
    """

    def __init__(
        self,
        title: str,
        findings: Iterable[Finding],
        status: Mapping[str, str],
        notes: Iterable[str] = (),
        pictures: Callable[[], list[tuple[str, Figure]]] | None = None,
    ) -> None:
        self.title, self.findings, self.status, self.notes = title, list(findings), dict(status), list(notes)
        self._pictures = pictures

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def summary(self) -> str:
        """The result in one line."""
        if self.ok:
            return f"{self.title}: nothing wrong found"
        count = len(self.findings)
        return f"{self.title}: {count} finding{'s' * (count > 1)} ({', '.join(f.code for f in self.findings)})"

    def __repr__(self) -> str:
        return f"Report({self.summary})"

    def __str__(self) -> str:
        parts = ["\n".join(wrap(self.summary, WIDTH))]
        if self.status:
            width = max(map(len, self.status))
            parts.append("\n".join(f"  {name:{width}}  {state}" for name, state in self.status.items()))
        for number, finding in enumerate(self.findings, start=1):
            parts.append(f"{number}. {finding.code}" + (f" ({finding.parameter})" if finding.parameter else ""))
            parts += [_paragraph(label, text) for label, text in finding.lines()]
        parts += [_paragraph("note", note) for note in self.notes]
        return "\n".join(parts)

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        status = Table.grid(padding=(0, 2))
        for name, state in self.status.items():
            style = (
                "green" if state.startswith(("right", "agrees", "healthy")) else "yellow" if "told" in state else "red"
            )
            status.add_row(Text(name), Text(state, style=style))
        parts: list[Any] = [Text(self.summary, style="bold green" if self.ok else "bold red"), status]
        for finding in self.findings:
            body = Table.grid(padding=(0, 2))
            body.add_column(no_wrap=True)
            body.add_column(overflow="fold")
            styles = {"wrong": "red", "right": "green", "fix": "bold green", "": "bold"}
            for label, text in finding.lines():
                body.add_row(Text(label, style="dim"), Text(text, style=styles.get(label, "")))
            place = f" · {finding.parameter}" if finding.parameter else ""
            parts.append(Panel(body, title=Text(finding.code + place), title_align="left", border_style="red"))
        return Group(*parts, *(Text(f"note: {note}") for note in self.notes))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data, for JSON."""
        return {
            "title": self.title,
            "ok": self.ok,
            "status": self.status,
            "findings": [finding.to_dict() for finding in self.findings],
            "notes": self.notes,
        }

    def _repr_html_(self) -> str:
        from nnkernels._diagnosis.page import fragment

        return fragment(self)

    def pictures(self) -> list[tuple[str, Figure]]:
        """Return titles and matplotlib figures: histograms, gradient flow, the pattern of each wrong gradient."""
        return self._pictures() if self._pictures else []

    def save(self, path: str | PathLike[str]) -> None:
        """Write one HTML page that needs nothing beside it, plots included where matplotlib is installed."""
        from nnkernels._diagnosis.page import page
        from nnkernels._io.model_file import write_atomically

        write_atomically(Path(path), page(self).encode())


def _paragraph(label: str, text: str) -> str:
    first = f"{label}: " if label else ""
    lines = [
        line
        for part in (first + text).splitlines()
        for line in wrap(part, WIDTH - 3, break_long_words=False, break_on_hyphens=False)
    ]
    return indent("\n".join(lines), "   ")
