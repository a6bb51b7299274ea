"""A document as one HTML file that needs nothing else: no network, no other file."""

import base64
import hashlib
import html
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from cvfp_jax.report.page import (
    Block,
    Bullets,
    Facts,
    Figure,
    Heading,
    Links,
    Note,
    Page,
    Paragraph,
    Sentences,
    Table,
    Terms,
)

_ASSETS = Path(__file__).parent
_PNG = b"\x89PNG\r\n\x1a\n"
# What a cell begins with for a column to be sorted by it: "1,234.6", "79.7%", "31-37", "1.2M", "below 1".
_NUMBER = re.compile(
    r"(?:below |[<>] ?)?([+-]?(?:\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|inf))([kMBT]?)(?=$|[%\s-])"
)
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def sort_value(cell: str) -> float | None:
    """Returns the number that a table's cell is sorted by; None if it is text.

    >>> [sort_value(cell) for cell in ("1,234.6", "79.7%", "3.2e+09", "4 (2)", "1.2M", "1L_96d_1tok", "-")]
    [1234.6, 79.7, 3200000000.0, 4.0, 1200000.0, None, None]
    """
    found = _NUMBER.match(cell)
    return float(found[1].replace(",", "")) * _UNITS[found[2]] if found else None


def render(page: Page, figures: Path) -> str:
    """Returns a document as HTML.

    The page may run its own script and show its own styles and pictures, by their hashes and as data,
    and load nothing: a content security policy says so to the browser. All texts are escaped.

    Args:
      page: the document.
      figures: the folder of its figures, PNG files.

    Returns:
      One file of HTML 5.

    Raises:
      OSError: a figure cannot be read.
      ValueError: a figure is no PNG file.
    """
    style, script = ((_ASSETS / name).read_text() for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    title = html.escape(page.title)
    sections = list(_sections(page.blocks))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the report</a>
<header><h1>{title}</h1></header>
{_contents(sections)}
<main id="content">
{"".join(_section(name, blocks, figures) for name, blocks in sections)}</main>
<script>{script}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _sections(blocks: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Cuts a document before its headings of level 2, and names each part; what comes first has no name."""
    parts: list[list[Block]] = [[]]
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            parts.append([])
        parts[-1].append(block)
    taken = {"content", ""}
    for part in parts:
        first = part[0] if part else None
        name = slug = ""
        if isinstance(first, Heading) and first.level == 2:
            slug = re.sub(r"[^a-z0-9]+", "-", first.text.lower()).strip("-") or "section"
            name, number = slug, 2
            while name in taken:
                name, number = f"{slug}-{number}", number + 1
            taken.add(name)
        if part:
            yield name, part


def _contents(sections: Sequence[tuple[str, list[Block]]]) -> str:
    """The table of contents."""
    lines = [
        f'<li><a href="#{name}">{html.escape(blocks[0].text)}</a></li>'
        for name, blocks in sections
        if name and isinstance(blocks[0], Heading)
    ]
    return f'<nav aria-label="Contents"><ol>{"".join(lines)}</ol></nav>' if lines else ""


def _section(name: str, blocks: Sequence[Block], figures: Path) -> str:
    title, lines = "", []
    for block in blocks:
        if isinstance(block, Heading):
            title = block.text
            anchor = f' id="{name}"' if block is blocks[0] and name else ""
            lines.append(f"<h{block.level}{anchor}>{html.escape(title)}</h{block.level}>")
        else:
            lines.append(_block(block, title, figures))
    label = f' aria-labelledby="{name}"' if name else ""
    return f"<section{label}>\n" + "\n".join(lines) + "\n</section>\n"


def _block(block: Block, title: str, figures: Path) -> str:
    """A block that is no heading, under the heading ``title``."""
    match block:
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Note(text):
            return f'<p class="note" role="note">{html.escape(text)}</p>'
        case Bullets(items):
            lines = "".join(f"<li>{html.escape(item)}</li>" for item in items or ["none"])
            return f"<ul>{lines}</ul>"
        case Links(pairs):
            lines = "".join(
                f'<li><a href="{html.escape(target)}">{html.escape(text)}</a></li>' for text, target in pairs
            )
            return f"<ul>{lines}</ul>"
        case Facts(pairs) | Terms(pairs):
            kind = "facts" if isinstance(block, Facts) else "terms"
            lines = "".join(
                f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
                for name, value in pairs
            )
            return f'<dl class="{kind}">{lines}</dl>'
        case Table():
            return _table(block, title)
        case Sentences():
            return _sentences(block, title)
        case Figure():
            return _figure(block, figures)
        case _:
            raise TypeError(f"a {type(block).__name__} is no block of a page")


def _table(table: Table, title: str) -> str:
    """A table that scrolls by itself, sorted by a column when its heading is pressed."""
    numeric = [
        any(sort_value(cell) is not None for cell in column) for column in zip(*table.rows, strict=True)
    ]
    kinds = [' class="n"' if right else "" for right in numeric] or [""] * len(table.columns)
    head = "".join(
        f'<th scope="col"{kind}>'
        + (
            f'<button type="button">{html.escape(name)}</button>'
            if len(table.rows) > 1
            else html.escape(name)
        )
        + "</th>"
        for name, kind in zip(table.columns, kinds, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_cell(at, cell, kinds[at]) for at, cell in enumerate(row)) + "</tr>\n"
        for row in table.rows
    )
    caption = f"<figcaption>{html.escape(table.caption)}</figcaption>\n" if table.caption else ""
    content = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"
    label = ": ".join(text for text in (title, table.caption) if text)
    return f'<figure class="table">\n{caption}{_scroll(label, content)}\n</figure>'


def _scroll(label: str, content: str) -> str:
    """A frame that scrolls where its content is wider than the page, by keyboard too."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(label or "table")}">\n'
        f"{content}\n</div>"
    )


def _cell(at: int, text: str, kind: str) -> str:
    """A table's cell; the first of a row names it."""
    value = sort_value(text)
    data = "" if value is None else f' data-value="{str(value).replace("inf", "Infinity")}"'
    tag, scope = ("td", "") if at else ("th", ' scope="row"')
    return f"<{tag}{scope}{kind}{data}>{html.escape(text)}</{tag}>"


def _sentences(table: Sentences, title: str) -> str:
    """A table whose cells wrap; on a narrow screen each cell stands below the last, under its"
    " column's name."""
    names = [html.escape(name) for name in table.columns]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(
            f'<td data-name="{name}">{html.escape(cell)}</td>' if cell else '<td class="empty"></td>'
            for name, cell in zip(names[1:], row[1:], strict=True)
        )
        + "</tr>\n"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table class="sentences" aria-label="{html.escape(title or "table")}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>"
    )


def _figure(figure: Figure, folder: Path) -> str:
    content = (folder / figure.name).read_bytes()
    if not content.startswith(_PNG):
        raise ValueError(f"{figure.name} is no PNG file")
    width, height = struct.unpack(">II", content[16:24])  # known early, so that the text below stays in place
    picture = (
        f'<img src="data:image/png;base64,{base64.b64encode(content).decode()}"'
        f' width="{width}" height="{height}" alt="{html.escape(figure.alt)}">'
    )
    return (
        f'<figure class="picture">\n<div class="scroll">{picture}</div>\n'
        f"<figcaption>{html.escape(figure.caption)}</figcaption>\n</figure>"
    )
