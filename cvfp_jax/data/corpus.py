"""Corpora: sequences of samples (documents or conversations), read by place."""

import itertools
from collections.abc import Iterable

from cvfp_jax.data import pydocs, textfiles
from cvfp_jax.errors import UserError

ULTRACHAT = "HuggingFaceH4/ultrachat_200k"


def read_samples(
    corpus: str, ranges: Iterable[range], turns: textfiles.Turns = textfiles.ALL_TURNS
) -> list[list[str]]:
    """Reads ranges of a corpus's samples.

    Args:
      corpus: ``pydocs``, ``text:PATH``, ``ultrachat`` or ``ultrachat:FOLDER``.
      ranges: sample indices, counted from 0 in the corpus's own order.
      turns: how a conversation becomes a text; samples of other kinds are texts already.

    Returns:
      The texts of each range.

    Raises:
      UserError: the corpus cannot be read, or has too few samples.
    """
    wanted = list(ranges)
    stop = max(part.stop for part in wanted)
    kind, _, place = corpus.partition(":")
    if kind == "ultrachat":
        return _read_ultrachat(corpus, place or ULTRACHAT, wanted, turns)
    if corpus == "pydocs":
        samples = pydocs.read_samples(stop)
    else:
        samples = list(itertools.islice(textfiles.iterate_samples(place, turns), stop))
    _check_enough(corpus, len(samples), wanted)
    return [samples[part.start : part.stop] for part in wanted]


def _check_enough(corpus: str, available: int, wanted: list[range]) -> None:
    for part in wanted:
        if part.stop > available:
            raise UserError(
                f"corpus {corpus} has {available} samples, but samples {part.start}:{part.stop} are asked"
                f" for: use more text (in a single .txt or .md file blank lines part the samples), or lower"
                f" --samples and --val_samples=START:STOP until both lie within 0:{available}."
            )


def _read_ultrachat(corpus: str, source: str, wanted: list[range], turns: textfiles.Turns) -> list[list[str]]:
    """Reads UltraChat's conversations in the order of the data set, from the hub or a local copy."""
    offline = "for an offline run use --corpus=pydocs or --corpus=text:PATH"
    try:
        import datasets
    except ImportError:
        raise UserError(f"corpus {corpus} needs an extra: pip install 'cvfp-jax[hub]'; {offline}.") from None
    try:
        rows = datasets.load_dataset(source, split="train_sft")
    except Exception as error:  # the library raises many kinds for no network, no folder and no split
        raise UserError(
            f"corpus {corpus} could not be loaded ({type(error).__name__}: {error}); check the network,"
            f" or {offline}."
        ) from None
    _check_enough(corpus, len(rows), wanted)
    return [
        [
            textfiles.sample_text(row, f"{corpus}, row {part.start + place}", turns)
            for place, row in enumerate(rows.select(part))
        ]
        for part in wanted
    ]
