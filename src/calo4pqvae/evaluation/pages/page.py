"""One self-contained HTML page: sections of text, tables and figures, without script and without anything to load.

A :class:`Section` is the unit of a report: what it shows, and the same numbers as data for the JSON file beside the
page. Another part of the package adds to a report by handing over further sections.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Template

from matplotlib.figure import Figure

from calo4pqvae.evaluation.pages.canvas import png_base64

__all__ = ["Section", "figure_html", "mapping_html", "page_html", "paragraph", "table_html"]


_LEGIBLE_PER_INCH = 72  # letters of 10 points are 10 pixels high


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        identifier: Short name, used as the anchor on the page and as the key in the JSON file.
        title: Heading.
        body: HTML, made with the functions of this module.
        data: The numbers that the section shows, as plain data.
    """

    identifier: str
    title: str
    body: str
    data: object = field(default=None)


_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; }
html { scroll-padding-top: 3.2rem; }
body { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1c2430; background: #fff;
       line-height: 1.5; max-width: 1160px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; padding-bottom: .25rem; border-bottom: 2px solid #d5dbe3; }
p, figcaption, li { max-width: 52rem; }
nav { position: sticky; top: 0; z-index: 5; font-size: .92rem; margin: 1rem 0; padding: .45rem 0; background: #fff;
      border-bottom: 1px solid #d5dbe3; overflow-x: auto; white-space: nowrap; }
nav a { margin-right: 1rem; }
a { color: #08519c; }
.summary { font-size: 1.08rem; padding: .7rem 1rem; border-left: 5px solid #08519c; background: #f1f5fa; }
.note { padding: .6rem 1rem; border-left: 5px solid #b8860b; background: #fdf7e6; }
.tablebox { overflow-x: auto; margin: .8rem 0 1.2rem; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .45rem; text-align: left; vertical-align: top; }
td { white-space: nowrap; }
td.wrap { white-space: normal; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #9aa7b8; vertical-align: bottom; background: #fff; }
tbody tr:nth-child(even) { background: #f4f6f9; }
.pass { color: #1a6b2f; font-weight: 600; }
.fail { color: #b3151b; font-weight: 700; }
figure { margin: 1.2rem 0 1.8rem; }
figure input { position: absolute; opacity: 0; }
.frame { display: block; overflow-x: auto; cursor: zoom-in; border: 1px solid #e3e7ec; }
.frame img { display: block; width: 100%; max-width: var(--natural); height: auto; }
input:focus-visible + .frame { outline: 3px solid #08519c; }
input:checked + .frame { position: fixed; inset: 0; z-index: 10; overflow: auto; cursor: zoom-out; background: #fff; }
input:checked + .frame img { width: max(100vw, var(--natural)); max-width: none; }
figcaption { font-size: .92rem; color: #465264; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
footer { margin-top: 3rem; font-size: .85rem; color: #6a7686; }
@media (max-width: 640px) {
  body { padding: 1rem .8rem 3rem; }
  .frame img { width: min(var(--natural), var(--legible)); max-width: none; }
}
</style>
</head>
<body>
<h1>$title</h1>
$lead
<nav aria-label="Sections">$links</nav>
$sections
<footer>Made by calo4pqvae. Every number on this page is also in metrics.json beside it.</footer>
</body>
</html>
"""
)


def page_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: Title, as text.
        lead: HTML between the title and the list of sections.
        sections: In the order in which they are shown.
    """
    links = " ".join(f'<a href="#{html.escape(s.identifier)}">{html.escape(s.title)}</a>' for s in sections)
    bodies = "\n".join(
        f'<section id="{html.escape(s.identifier)}">\n<h2>{html.escape(s.title)}</h2>\n{s.body}\n</section>'
        for s in sections
    )
    return _PAGE.substitute(title=html.escape(title), lead=lead, links=links, sections=bodies)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text; ``kind`` is "summary", "note" or nothing."""
    attribute = f' class="{html.escape(kind)}"' if kind else ""
    return f"<p{attribute}>{html.escape(text)}</p>"


def table_html(rows: Sequence[Mapping[str, str]]) -> str:
    """A table whose headings are the keys of the first row; the words "pass" and "FAIL" get a mark and a colour."""
    if not rows:
        return paragraph("There is nothing to show here.")
    head = "".join(f'<th scope="col">{html.escape(key)}</th>' for key in rows[0])
    body = "\n".join(_row_html(row.values()) for row in rows)
    return f'<div class="tablebox"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def mapping_html(mapping: Mapping[str, object]) -> str:
    """A table of names and values; a mapping within is shown as further rows."""
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td class="wrap">{html.escape(value)}</td></tr>'
        for name, value in _flat(mapping)
    )
    return f'<div class="tablebox"><table><tbody>\n{rows}\n</tbody></table></div>'


def figure_html(figure: Figure, caption: str) -> str:
    """A figure as an image within the page, with its caption; a click opens it in its full size, another closes it.

    On a narrow screen it keeps a width at which its smallest letters can be read, and scrolls sideways.
    """
    text = html.escape(caption)
    natural = round(figure.get_figwidth() * figure.dpi)
    legible = round(_LEGIBLE_PER_INCH * figure.get_figwidth())
    image = f'<img alt="{text}" src="data:image/png;base64,{png_base64(figure)}">'
    style = f"--natural: {natural}px; --legible: {legible}px"
    control = f'<input type="checkbox" aria-label="Open large: {text}">'
    frame = f'<span class="frame" style="{style}">{image}</span>'
    return f"<figure><label>{control}{frame}</label><figcaption>{text}</figcaption></figure>"


def _row_html(cells: Iterable[str]) -> str:
    return "<tr>" + "".join(_cell_html(cell) for cell in cells) + "</tr>"


def _cell_html(cell: str) -> str:
    if cell == "pass":
        return '<td class="pass">&#10003; pass</td>'
    if cell == "FAIL":
        return '<td class="fail">&#10007; FAIL</td>'
    return f"<td>{html.escape(cell)}</td>"


def _flat(mapping: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", str(value)))
    return rows
