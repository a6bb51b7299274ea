"""UltraChat's conversations: from the hub, or from a copy in any of the layouts that tools leave."""

from collections.abc import Iterator
from typing import Any

from cvfp_jax.data.hub import offline_if_unreachable
from cvfp_jax.data.text import samples
from cvfp_jax.data.text.folders import find
from cvfp_jax.data.text.reading import BadRowError, Reading, ReadingLog
from cvfp_jax.data.text.shapes import sample_text
from cvfp_jax.errors import UserError

NAME = "HuggingFaceH4/ultrachat_200k"
SPLIT = "train_sft"
_OTHER_SPLITS = ("test_sft", "train_gen", "test_gen")


def iterate_samples(place: str, reading: Reading, log: ReadingLog) -> Iterator[str]:
    """Yields the conversations of a local copy, in the order of the data set.

    The copy is a folder of Parquet, Arrow or JSON Lines files: as the hub has it (data/), flat, the hub's
    cache, or what ``save_to_disk`` writes.

    Args:
      place: the folder.
      reading: how a conversation becomes a text.
      log: told of what is left out.

    Raises:
      UserError: there is no such folder, or it has no file of the split.
    """
    corpus = f"ultrachat:{place}"
    folder = samples.existing(place, "ultrachat")
    if not folder.is_dir():
        raise UserError(f"corpus {corpus} is not a folder: give the folder of the copy, or text:{place}.")
    files = find(folder, corpus, samples.SUFFIXES).files
    named = [file for file in files if SPLIT in file.relative_to(folder).as_posix()]
    if not named and any(split in str(file.relative_to(folder)) for file in files for split in _OTHER_SPLITS):
        raise UserError(f"corpus {corpus} has no file of the split {SPLIT}: copy its files there too.")
    yield from samples.samples_of(named or files, reading, log, in_folder=True)


def read_ranges(ranges: tuple[range, ...], gaps: bool, reading: Reading, log: ReadingLog) -> Iterator[str]:
    """Yields ranges of the hub's conversations, with what lies before and between them where it is asked for.

    Args:
      ranges: one or more, in their order.
      gaps: whether what lies before and between them is read too.
      reading: how a conversation becomes a text.
      log: told of what is left out.

    Raises:
      UserError: the data set cannot be had, or is too small.
    """
    rows = _rows()
    stop = ranges[-1].stop
    if stop > len(rows):
        raise UserError(
            f"corpus ultrachat has {len(rows)} samples, but samples up to {stop} are asked for: lower"
            " --samples and --val_samples=START:STOP."
        )
    for part in (range(stop),) if gaps else ranges:
        for index, row in zip(part, rows.select(part), strict=True):
            yield sample_text(row, f"ultrachat, row {index}", reading, log)


def hub_samples(reading: Reading, log: ReadingLog) -> Iterator[str]:
    """Yields all of the hub's conversations; rows that cannot be used are left out if that is asked for.

    Args:
      reading: how a conversation becomes a text.
      log: told of what is left out.

    Raises:
      UserError: the data set cannot be had, or a row cannot be used.
    """
    for index, row in enumerate(_rows()):
        try:
            text = sample_text(row, f"ultrachat, row {index}", reading, log)
        except BadRowError as error:
            if not reading.skip_bad_rows:
                raise
            log.skipped[error.reason] += 1
        else:
            yield text


def _rows() -> Any:
    """Opens the data set, from the hub or from its library's cache."""
    offline = "for an offline run use --corpus=pydocs, --corpus=text:PATH or --corpus=ultrachat:FOLDER"
    try:
        with offline_if_unreachable():
            import datasets

            return datasets.load_dataset(NAME, split=SPLIT)
    except ImportError:
        raise UserError(f"corpus ultrachat needs an extra: pip install 'cvfp-jax[hub]'; {offline}.") from None
    except Exception as error:  # the library raises many kinds for no network and no split
        raise UserError(
            f"corpus ultrachat could not be loaded ({type(error).__name__}: {error}); check the network,"
            f" or {offline}."
        ) from None
