"""A document as one HTML file that needs nothing else: no network, no other file."""

import base64
import dataclasses
import functools
import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, get_args

import jinja2

from cvfp_jax.report.page import Block, Heading, Page, Table

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
    leading = _NUMBER.match(cell)
    return float(leading[1].replace(",", "")) * _UNITS[leading[2]] if leading else None


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
    return _template().render(
        title=page.title,
        sections=list(_sections(page.blocks)),
        load=lambda figure: _picture(figures / figure.name),
        style=style,
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)};"
        " base-uri 'none'; form-action 'none'",
    )


@functools.cache
def _template() -> jinja2.Template:
    """The page's template, which asks ``block is heading`` for each kind of block."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests |= {kind.__name__.lower(): functools.partial(_is, kind) for kind in get_args(Block)}
    environment.filters |= {"data_value": _data_value, "number_columns": _number_columns}
    environment.globals["refuse"] = _refuse
    return environment.get_template("page.html.jinja")


def _is(kind: type, block: object) -> bool:
    return isinstance(block, kind)


def _refuse(block: object) -> NoReturn:
    raise TypeError(f"a {type(block).__name__} is no block of a page")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@dataclasses.dataclass(frozen=True)
class _Section:
    """A part of a document; what comes before the first heading of level 2 has no name."""

    name: str  # the id of its heading
    blocks: Sequence[Block]


def _sections(blocks: Sequence[Block]) -> Iterator[_Section]:
    """Cuts a document before its headings of level 2, and names each part."""
    parts: list[list[Block]] = [[]]
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            parts.append([])
        parts[-1].append(block)
    taken = {"content", ""}
    for part in parts:
        first = part[0] if part else None
        name = ""
        if isinstance(first, Heading) and first.level == 2:
            slug = re.sub(r"[^a-z0-9]+", "-", first.text.lower()).strip("-") or "section"
            name, count = slug, 2
            while name in taken:
                name, count = f"{slug}-{count}", count + 1
            taken.add(name)
        if part:
            yield _Section(name, part)


def _number_columns(table: Table) -> list[bool]:
    """Which columns hold a number in any row."""
    if not table.rows:
        return [False] * len(table.columns)
    return [any(sort_value(cell) is not None for cell in column) for column in zip(*table.rows, strict=True)]


def _data_value(cell: str) -> str | None:
    """The number that a cell is sorted by, as scripts write it."""
    value = sort_value(cell)
    return None if value is None else str(value).replace("inf", "Infinity")


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A PNG file, whose size is told early, so that the text below stays in place."""

    base64: str
    width: int
    height: int


def _picture(path: Path) -> _Picture:
    content = path.read_bytes()
    if not content.startswith(_PNG):
        raise ValueError(f"{path.name} is no PNG file")
    width, height = struct.unpack(">II", content[16:24])
    return _Picture(base64.b64encode(content).decode(), width, height)
