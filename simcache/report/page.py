"""One self-contained HTML page: no network, no script, light and dark, a phone's width, and print.

Whatever text goes in comes out as text: everything is escaped, figures are images that cannot run anything, and the page forbids
its reader's browser to load or run what is not in it.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..whole_files import whole_file
from .figures import sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH: Final = 4.6
"""Inches of a figure on a page: its 9 points are 11 pixels on a phone of 360 pixels and 15 on a desk."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells under a head; a line break in a cell starts a smaller line. ``keys``: so many columns are names."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    keys: int = 1


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as SVG, with a caption that says what to look at (also its text for those who cannot see it)."""

    svg: bytes
    caption: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Text that keeps its lines: a command, a file."""

    text: str
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Points:
    """Sentences as a list; ``warn`` sets them off."""

    lines: tuple[str, ...]
    warn: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands under it; a string is a paragraph. Pictures in a row share it where it is wide."""

    title: str
    parts: tuple[str | Table | Picture | Listing | Points, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A question, its answer in one sentence, and the sections that say why.

    >>> "&lt;script&gt;" in page_html(Page(title="<script>", question="?", answer="!", sections=()))
    True
    """

    title: str
    question: str
    answer: str
    sections: tuple[Section, ...] = field(default=())


class Drawing:
    """A figure on its way into a page: draw on ``axes``, then take ``picture``."""

    def __init__(self, axes: list[Axes], caption: str) -> None:
        self.axes, self.caption, self.svg = axes, caption, b""

    @property
    def picture(self) -> Picture:
        """The finished picture, once the block is left."""
        return Picture(svg=self.svg, caption=self.caption)


@contextmanager
def drawing(caption: str, *, rows: int = 1, height: float = 3.4) -> Iterator[Drawing]:
    """A figure of a page's width in the house's look.

    >>> with drawing("a line") as made:
    ...     _ = made.axes[0].plot([1, 2])
    >>> made.picture.svg[:5]
    b'<?xml'
    """
    with sheet(rows, 1, width=_WIDTH, height=height) as (figure, axes):
        made = Drawing(axes, caption)
        yield made
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        made.svg = buffer.getvalue()


_CSS: Final = """
:root { color-scheme: light dark; --ink: #1a1c1f; --soft: #565b63; --line: #d9dce1; --ground: #fff; --raised: #f4f6f8;
  --accent: #0b5c94; --warn: #8a3a00; --warn-ground: #fff4e8 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 68rem; padding: 1.25rem clamp(.9rem, 3vw, 2.2rem) 3rem; color: var(--ink);
  background: var(--ground); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem }
h1 { font-size: 1.15rem; margin: 0; color: var(--soft); font-weight: 600; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p, ul { max-width: 46rem; overflow-wrap: anywhere }
ul { padding-left: 1.2rem }
.question { color: var(--soft); margin: .2rem 0 0 }
.answer { font-size: 1.4rem; line-height: 1.35; margin: .7rem 0 1.2rem; max-width: 50rem; font-weight: 600 }
.warn { color: var(--warn); background: var(--warn-ground); border-left: 4px solid; border-radius: 4px;
  padding: .6rem .8rem .6rem 2rem; list-style: square }
.wide { overflow-x: auto; margin: .6rem 0; border: 1px solid var(--line); border-radius: 6px }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { padding: .42rem .5rem; text-align: right; vertical-align: top; border-top: 1px solid var(--line); white-space: pre-line;
  unicode-bidi: isolate }
thead th { border-top: 0; color: var(--soft); font-weight: 600; background: var(--raised); vertical-align: bottom }
.name { text-align: left; font-weight: 500; min-width: 8.5rem; overflow-wrap: break-word }
td small { color: var(--soft); white-space: nowrap }
.note { color: var(--soft); font-size: .85rem; margin: .3rem 0 0 }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.2rem; align-items: start }
figure { margin: .4rem 0; break-inside: avoid }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .35rem; overflow-wrap: anywhere }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .8rem; margin: .3rem 0 .9rem;
  overflow: auto; max-height: 22rem; font: .82rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
.label { font-weight: 600; margin: .9rem 0 .2rem }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a4abb5; --line: #373c44; --ground: #15171a; --raised: #1e2125; --accent: #7fc4f5;
    --warn: #ffc58a; --warn-ground: #33230f }
  figure img { filter: invert(.92) hue-rotate(180deg) }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt }
  pre { max-height: none; white-space: pre-wrap; overflow-wrap: anywhere }
  .wide { overflow: visible; border: 0 }
  table { font-size: 8.5pt } th, td { padding: .25rem .3rem }
  .row { grid-template-columns: 1fr 1fr }
  h2 { break-after: avoid } tr, figure { break-inside: avoid }
}
"""
_SHORT: Final = 20
_KEPT: Final = "\n\t\u00a0\u2009\u202f\u3000\u200c\u200d"
"""Not printable, but part of texts: line ends, other spaces, what joins letters of some scripts. Overrides of direction are not."""
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page_html(page: Page) -> str:
    """The page as one HTML document; equal pages, equal text."""
    body = "\n".join(_section(section) for section in page.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,">\n<title>{_text(page.title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n'
        f'<header>\n<h1>{_text(page.title)}</h1>\n<p class="question">{_text(page.question)}</p>\n'
        f'<p class="answer">{_text(page.answer)}</p>\n</header>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def save_page(page: Page, path: str | Path) -> Path:
    """Write the page, whole or not at all; return the path. Raises InputError when it cannot be written."""
    with whole_file(path, name="output", make_folder=True) as partial:
        partial.write_text(page_html(page), encoding="utf-8", newline="\n")
    return Path(path)


def _text(text: str) -> str:
    """Text as markup that shows it; what no HTML may hold becomes the replacement character."""
    shown = "".join(c if c.isprintable() or c in _KEPT else "\N{REPLACEMENT CHARACTER}" for c in text)
    return html.escape(shown, quote=True)


def _section(section: Section) -> str:
    parts: list[str] = []
    pictures: list[str] = []
    for part in (*section.parts, ""):
        if isinstance(part, Picture):
            pictures.append(_picture(part))
            continue
        if pictures:
            parts.append(f'<div class="row">\n{"".join(pictures)}</div>')
            pictures = []
        if part:
            parts.append(_part(part))
    return f"<section>\n<h2>{_text(section.title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def _part(part: str | Table | Listing | Points) -> str:
    if isinstance(part, str):
        return f"<p>{_text(part)}</p>"
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Listing):
        label = f'<p class="label">{_text(part.label)}</p>\n' if part.label else ""
        return f'{label}<pre tabindex="0">{_text(part.text)}</pre>'
    kind = ' class="warn"' if part.warn else ""
    return f"<ul{kind}>{''.join(f'<li>{_text(line)}</li>' for line in part.lines)}</ul>"


def _table(table: Table) -> str:
    def cells(row: Sequence[str], tag: str, scope: str) -> str:
        made = []
        for place, cell in enumerate(row):
            first, _, rest = cell.partition("\n")
            if tag == "td" and place >= table.keys and len(first) <= _SHORT:
                first = first.replace(" ", "\N{NO-BREAK SPACE}")  # a figure stays with its unit
            below = f"\n<small>{_text(rest)}</small>" if rest and tag == "td" else f"\n{_text(rest)}" if rest else ""
            named = place < table.keys
            kind = "th" if named and place == 0 else tag
            attributes = (' class="name"' if named else "") + (scope if kind == "th" else "")
            made.append(f"<{kind}{attributes}>{_text(first)}{below}</{kind}>")
        return "".join(made)

    head = cells(table.head, "th", ' scope="col"')
    rows = "\n".join(f"<tr>{cells(row, 'td', ' scope=row')}</tr>" for row in table.rows)
    note = f'\n<p class="note">{_text(table.note)}</p>' if table.note else ""
    return (
        f'<div class="wide" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>{note}'
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.svg).decode("ascii")
    caption = _text(picture.caption)
    return f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>\n'
