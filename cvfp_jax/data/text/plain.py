"""Plain texts and Markdown: a sample a file, a paragraph or a line."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from cvfp_jax.data.text import decoding
from cvfp_jax.data.text.reading import Row


def whole_file(path: Path) -> Iterator[Row]:
    """Yields the text of a file."""
    yield decoding.whole(path), str(path)


def paragraphs(path: Path) -> Iterator[Row]:
    """Yields the blocks of a file between blank lines."""
    block: list[str] = []
    for line in itertools.chain(decoding.lines(path), [""]):
        if line.strip():
            block.append(line)
        elif block:
            yield "\n".join(block), str(path)
            block = []


def lines(path: Path) -> Iterator[Row]:
    """Yields the lines of a file that are not blank."""
    for number, line in enumerate(decoding.lines(path), 1):
        if line.strip():
            yield line, f"{path}, line {number}"
