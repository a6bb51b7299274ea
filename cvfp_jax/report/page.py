"""What a document consists of, and how it is written in Markdown."""

import dataclasses
import html
import re
from collections.abc import Sequence
from typing import TypeAlias


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading; level 2 begins a section, deeper ones stand inside it."""

    level: int
    text: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Note:
    """A paragraph that a reader must not overlook."""

    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list; "none" where it is empty."""

    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Links:
    """Other documents: what each is, and its file beside this one."""

    pairs: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and short values."""

    pairs: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Terms:
    """Words and what they mean, a sentence or two each."""

    pairs: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Table:
    """Column names and rows of cells, all of them text; the first column is the rows' name."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def text(self) -> str:
        """Returns the table for a terminal.

        >>> print(Table(["name", "PPL"], [["a", "9.5"]]).text())
        name  PPL
        ----  ---
        a     9.5
        """
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [self.columns, ["-" * width for width in widths], *self.rows]
        return "\n".join(self._line(line, widths) for line in lines)

    @staticmethod
    def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()

    def markdown(self) -> str:
        """Returns the table in Markdown.

        >>> print(Table(["name", "PPL"], [["a|b", "9.5"]]).markdown())
        | name | PPL |
        |:---|---:|
        | a\\|b | 9.5 |
        """
        rule = ["|:---" + "|---:" * (len(self.columns) - 1) + "|"]
        header, *rows = ("| " + " | ".join(map(escape, line)) + " |" for line in [self.columns, *self.rows])
        return "\n".join([header, *rule, *rows])


@dataclasses.dataclass(frozen=True)
class Sentences:
    """A table of sentences, which wrap and are not sorted; the first of a row names it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A PNG file of the folder ``figures``."""

    name: str
    alt: str  # what it shows, for readers who do not see it
    caption: str


Block: TypeAlias = Heading | Paragraph | Note | Bullets | Links | Facts | Terms | Table | Sentences | Figure


@dataclasses.dataclass(frozen=True)
class Page:
    """A document: its title and what follows. Every text is plain text; writing escapes it."""

    title: str
    blocks: Sequence[Block]


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line.

    >>> escape("<b>|")
    '&lt;b&gt;\\\\|'
    >>> print(escape("![a](b)"))
    !\\[a\\](b)
    """
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def markdown(page: Page) -> str:
    """Returns a document in Markdown.

    >>> print(markdown(Page("Laws", [Heading(2, "Findings"), Bullets(["a < b"]), Note("One seed.")])), end="")
    # Laws
    <BLANKLINE>
    ## Findings
    <BLANKLINE>
    - a &lt; b
    <BLANKLINE>
    > One seed.
    """
    return "\n\n".join([f"# {escape(page.title)}", *map(_markdown_block, page.blocks)]) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {escape(text)}"
        case Paragraph(text):
            return escape(text)
        case Note(text):
            return f"> {escape(text)}"
        case Bullets(items):
            return "\n".join(f"- {escape(item)}" for item in items or ["none"])
        case Links(pairs):
            return "\n".join(f"- [{escape(text)}]({target})" for text, target in pairs)
        case Facts(pairs) | Terms(pairs):
            return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in pairs)
        case Table():
            return f"{escape(block.caption)}\n\n{block.markdown()}" if block.caption else block.markdown()
        case Sentences(columns, rows):
            lines = [columns, [":---"] * len(columns), *([escape(cell) for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Figure(name, alt, caption):
            return f"![{escape(alt)}](figures/{name})\n\n{escape(caption)}"
