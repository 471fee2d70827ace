"""Reports as HTML: a fragment for a notebook, and one page that needs nothing beside it."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from nnkernels._version import __version__

if TYPE_CHECKING:
    from nnkernels._diagnosis.report import Finding, Report

STYLE = """
.nnk { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; }
.nnk h2 { font-size: 1.25em; margin: 0 0 .6em; } .nnk h2.ok { color: #176d33; } .nnk h2.bad { color: #a31515; }
.nnk table { border-collapse: collapse; margin: .4em 0; background: none; }
.nnk td { padding: .15em .9em .15em 0; text-align: left; vertical-align: top; border: 0; }
.nnk .finding { border-left: 4px solid #a31515; background: #fbf5f4; padding: .6em 1em; margin: .9em 0; color: #222; }
.nnk .finding b.message { display: block; margin-bottom: .3em; } .nnk .label { color: #777; white-space: nowrap; }
.nnk code { font: 13px/1.45 ui-monospace, monospace; white-space: pre-wrap; background: none; color: inherit; }
.nnk .wrong code { color: #a31515; } .nnk .right code, .nnk .fix code { color: #176d33; }
.nnk .state-right { color: #176d33; } .nnk .state-wrong { color: #a31515; } .nnk .note { color: #555; }
.nnk figure { margin: 1.2em 0; } .nnk figcaption { font-weight: 600; } .nnk img { max-width: 100%; }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ margin: 2rem auto; padding: 0 1.2rem; max-width: 62rem; background: #fff; }}</style></head>
<body>{body}{figures}<div class="nnk"><p class="note">nnkernels {version}</p></div></body></html>
"""
CODE = ("wrong", "right", "fix")
GOOD = ("right", "agrees", "healthy")


def fragment(report: Report) -> str:
    """Return a report without its plots."""
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td class='{_state(state)}'>{escape(state)}</td></tr>"
        for name, state in report.status.items()
    )
    findings = "".join(map(_finding, report.findings))
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in report.notes)
    heading = f"<h2 class='{'ok' if report.ok else 'bad'}'>{escape(report.summary)}</h2>"
    return f"<div class='nnk'><style>{STYLE}</style>{heading}<table>{rows}</table>{findings}{notes}</div>"


def page(report: Report) -> str:
    """Return a report as a whole page, with its plots if matplotlib is installed."""
    try:
        figures = "".join(_figure(title, picture) for title, picture in report.pictures())
    except ModuleNotFoundError:
        figures = "<p class='note'>Plots need matplotlib: pip install 'nnkernels[plot]'</p>"
    body = f"<div class='nnk'>{figures}</div>"
    return PAGE.format(title=escape(report.title), body=fragment(report), figures=body, version=__version__)


def _state(state: str) -> str:
    for kind, starts in (("right", GOOD), ("wrong", ("wrong", "differs"))):
        if state.startswith(starts):
            return f"state-{kind}"
    return "state-other"


def _finding(finding: Finding) -> str:
    place = f" <span class='label'>{escape(finding.parameter)}</span>" if finding.parameter else ""
    rows = []
    for label, text in finding.lines():
        if label:
            shown = f"<code>{escape(text)}</code>" if label in CODE else escape(text)
            rows.append(f"<tr class='{label}'><td class='label'>{escape(label)}</td><td>{shown}</td></tr>")
    head = f"<code>{escape(finding.code)}</code>{place}<b class='message'>{escape(finding.message)}</b>"
    return f"<div class='finding'>{head}<table>{''.join(rows)}</table></div>"


def _figure(title: str, picture: object) -> str:
    content = BytesIO()
    picture.savefig(content, format="png", dpi=130)  # type: ignore[attr-defined]
    source = b64encode(content.getvalue()).decode()
    image = f"<img alt='{escape(title)}' src='data:image/png;base64,{source}'>"
    return f"<figure><figcaption>{escape(title)}</figcaption>{image}</figure>"
