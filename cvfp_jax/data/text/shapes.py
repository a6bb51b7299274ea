"""The shapes that records have, and the text of each."""

from collections.abc import Sequence
from typing import Any

from cvfp_jax.data.text.conversations import Turn, found, is_turn, text_of, turns_of
from cvfp_jax.data.text.reading import AS_IT_IS, SKIP, BadRowError, Reading, ReadingLog
from cvfp_jax.errors import UserError

# In the order in which they are looked for: a record with several is read by the first.
_CONVERSATIONS_FIRST, _CONVERSATIONS_LAST = ("messages", "conversations"), ("conversation", "data")
# What is asked, what goes with it, and the names of what answers.
_QUESTIONS = {
    "instruction": (("input", "context"), ("output", "response")),
    "prompt": ((), ("completion", "response")),
    "question": (("context",), ("answer", "response")),
}
_PREFERENCES = ("chosen", "rejected")
FIELDS = (
    "messages or conversations (lists of turns), text, conversation or data (lists of turns), instruction and"
    " output, prompt and completion or response, question and answer, or chosen and rejected"
)
_KNOWN = {
    *_CONVERSATIONS_FIRST, *_CONVERSATIONS_LAST, *_PREFERENCES, *_QUESTIONS, "text", "system",
    *(name for parts in _QUESTIONS.values() for names in parts for name in names),
}  # fmt: skip
_MOST_NAMED = 12  # fields in a message


def columns(names: Sequence[str], where: str, text_field: str = "") -> list[str]:
    """Returns which of a table's columns samples are made of.

    Raises:
      UserError: none is known, or there is none of the given name.

    >>> columns(["id", "text", "image"], ""), columns(["id", "body"], "", "body")
    (['text'], ['body'])
    """
    known = [name for name in names if (name == text_field if text_field else name in _KNOWN)]
    if known:
        return known
    wanted = f"no column {text_field}" if text_field else "no usable column"
    raise UserError(
        f"{where}: {wanted} (found {_shown(names)}); a sample needs {FIELDS}, or name the column that is its"
        " text by --text_field."
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


def sample_text(record: Any, where: str, reading: Reading = AS_IT_IS, log: ReadingLog | None = None) -> str:
    """Returns the text of one record.

    Args:
      record: a string, a list of turns, or an object with one of the fields named in ``FIELDS``.
      where: the record's file and line, for messages.
      reading: how a conversation becomes a text, and which field to read; other records are texts already.
      log: told of what the record has that is not read.

    Returns:
      The text, which is not blank.

    Raises:
      BadRowError: no field is recognised, a turn is no text, or the sample's text is blank.

    >>> sample_text({"messages": [{"role": "user", "content": "Hi"}, {"content": "Ho"}]}, "")
    'Hi\\nHo'
    >>> sample_text({"question": "Why?", "answer": "So."}, "", Reading(separator=" "))
    'Why? So.'
    """
    if isinstance(record, dict):
        text = _object_text(record, where, reading, log or ReadingLog())
    elif isinstance(record, str):
        text = record
    elif isinstance(record, list) and record and all(map(is_turn, record)):
        text = text_of(turns_of(record, "the list", where, log or ReadingLog()), reading, where)
    else:
        raise _no_field(record, where, reading)
    if not text or text.isspace():
        raise BadRowError(f"{where}: the sample is empty; remove it, or {SKIP}.", "blank")
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON can spell half of a surrogate pair, which is no Unicode text.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _object_text(record: dict[str, Any], where: str, reading: Reading, log: ReadingLog) -> str:
    """Returns the text of an object, by the first field that is known and not null."""
    if reading.text_field:
        return _named_text(record, where, reading, log)
    text = record.get("text")
    if isinstance(text, str) and all(record.get(name) is None for name in _CONVERSATIONS_FIRST):
        return text
    turns = _turns(record, where, log)
    if _has_preference(record):
        preferred = _preferred(record, turns, where, reading, log)
        if isinstance(preferred, str):
            return preferred
        turns = preferred
    if not turns:
        raise _no_field(record, where, reading)
    system = record.get("system")
    if isinstance(system, str) and system.strip() and turns[0].role != "system":
        turns = [Turn(system, "system"), *turns]
    return text_of(turns, reading, where)


def _named_text(record: dict[str, Any], where: str, reading: Reading, log: ReadingLog) -> str:
    """Returns the text of the field that --text_field names."""
    name = reading.text_field
    if name not in record:
        raise _no_field(record, where, reading)
    value = record[name]
    if isinstance(value, str):
        return value
    if value is None:
        raise _null(name, where)
    return text_of(turns_of(value, name, where, log), reading, where)


def _turns(record: dict[str, Any], where: str, log: ReadingLog) -> list[Turn]:
    """Returns the turns of a conversation, or of a question and its answer; none if there is neither."""
    for name in (*_CONVERSATIONS_FIRST, *_CONVERSATIONS_LAST):
        if record.get(name) is not None:
            return turns_of(record[name], name, where, log)
    for asked, (beside, answers) in _QUESTIONS.items():
        answer = next((name for name in answers if record.get(name) is not None), None)
        if record.get(asked) is None or (answer is None and not _has_preference(record)):
            continue
        if isinstance(record[asked], list):  # a prompt can be a list of turns, and its completion too
            question = turns_of(record[asked], asked, where, log)
        else:
            parts = [_text(record, asked, where)]
            parts += [_text(record, name, where) for name in beside if record.get(name)]
            question = [Turn("\n".join(parts), "user")]
        if answer is None:
            return question
        if isinstance(record[answer], list):
            return question + turns_of(record[answer], answer, where, log)
        return [*question, Turn(_text(record, answer, where), "assistant")]
    return []


def _text(record: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(record[name], str):
        raise BadRowError(
            f"{where}: {name} is {found(record[name])} and not a text; mend it, or {SKIP}.", "no text"
        )
    return str(record[name])


def _has_preference(record: dict[str, Any]) -> bool:
    return record.get("chosen") is not None and record.get("rejected") is not None


def _preferred(
    record: dict[str, Any], turns: list[Turn], where: str, reading: Reading, log: ReadingLog
) -> list[Turn] | str:
    """Adds the answer that is read of a preference pair, which may begin with the conversation itself."""
    name = reading.preference
    log.note(f"records have chosen and rejected answers: {name} ones are read (--config.data.preference)")
    answer = record[name]
    if isinstance(answer, str):
        if not turns:
            return answer  # both sides are in it
        return answer if answer.startswith(turns[0].text) else [*turns, Turn(answer, "assistant")]
    answers = turns_of(answer, name, where, log)
    return answers if turns and answers[0].text == turns[0].text else turns + answers


def _null(name: str, where: str) -> BadRowError:
    return BadRowError(f"{where}: {name} is null; remove the row, or {SKIP}.", "null")


def _no_field(record: Any, where: str, reading: Reading) -> BadRowError:
    """Says what was found where no field is usable, and which field may have been meant."""
    if not isinstance(record, dict):
        return BadRowError(
            f"{where}: no usable field (found {type(record).__name__}); a sample needs {FIELDS}; mend it, or"
            f" {SKIP}.",
            "no usable field",
        )
    names = list(map(str, record))
    listed = _shown(names)
    if reading.text_field:
        return BadRowError(
            f"{where}: no field {reading.text_field} (found fields {listed}); give another --text_field, or"
            f" {SKIP}.",
            "no usable field",
        )
    null = next((name for name in record if name in _KNOWN and record[name] is None), None)
    if null is not None:
        return _null(null, where)
    wrong = next((name for name in record if name in _KNOWN and not isinstance(record[name], str)), None)
    kind = f"; {wrong} is {found(record[wrong])}" if wrong else ""
    texts = {name: len(value) for name, value in record.items() if isinstance(value, str) and value.strip()}
    longest = max(texts, key=lambda name: texts[name], default=None)
    meant = f", or name the field that is its text, such as --text_field={longest}" if longest else ""
    return BadRowError(
        f"{where}: no usable field (found fields {listed}{kind}); a sample needs {FIELDS}{meant}, or {SKIP}.",
        "no usable field",
    )
