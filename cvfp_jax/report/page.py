"""What a document consists of, and how it is written in Markdown."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

from cvfp_jax.report.tables import Table, escape


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
