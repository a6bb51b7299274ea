"""Conversations as people write them down, to the texts of their turns."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cvfp_jax.data.text.reading import SKIP, BadRowError, Reading, ReadingLog

ROLES, CONTENTS = ("role", "from"), ("content", "value")
# Fields that say what a turn does that says nothing.
_CALLS = ("tool_calls", "function_call")
_SYSTEM = ("system", "developer")
_SPEAKERS = ("user", "assistant")  # of turns that are texts alone, in turn
_LONGEST_SHOWN = 40


class Turn(NamedTuple):
    """What somebody says."""

    text: str
    role: str = ""


def is_turn(value: Any) -> bool:
    """Says whether a value can be a turn: a text, or an object with one."""
    return isinstance(value, str) or (isinstance(value, dict) and any(key in value for key in CONTENTS))


def turns_of(conversation: Any, field: str, where: str, log: ReadingLog) -> list[Turn]:
    """Returns the turns of a conversation that have a text.

    Args:
      conversation: a list of turns, or one turn: objects with a content or a value, or texts.
      field: its name in the record.
      where: the record's file and line, for messages.
      log: told of turns and parts of turns that have no text.

    Raises:
      BadRowError: there is no turn, or one is none.
    """
    turns = conversation if isinstance(conversation, list) else [conversation]
    if not turns or not (isinstance(conversation, list) or is_turn(conversation)):
        raise BadRowError(
            f"{where}: {field} is not a list of turns with a text field 'content' or 'value' (found"
            f" {found(conversation)}); mend it, or {SKIP}.",
            "no list of turns",
        )
    # Which of two texts a turn means follows from the name of the list, as it always has.
    keys = CONTENTS[::-1] if field == "conversations" else CONTENTS
    texts: list[Turn] = []
    for number, value in enumerate(turns, 1):
        turn = _plain(value, keys[0]) or _turn(value, number, f"{where}: turn {number} of {field}", keys, log)
        if turn:
            texts.append(turn)
    if not texts:
        raise BadRowError(
            f"{where}: no turn of {field} has a text; remove it, or {SKIP}.", "no turn with a text"
        )
    return texts


def _plain(value: Any, key: str) -> Turn | None:
    """Returns what nearly all turns are: an object with a text and a role; None for anything else."""
    if isinstance(value, dict):
        text, role = value.get(key), value.get(ROLES[0])
        if isinstance(text, str) and isinstance(role, str):
            return Turn(text, role)
    return None


def _turn(value: Any, number: int, where: str, keys: Sequence[str], log: ReadingLog) -> Turn | None:
    """Returns a turn; None if it has no text because it calls a tool."""
    if isinstance(value, str):
        return Turn(value, _SPEAKERS[(number - 1) % 2])
    if not isinstance(value, dict):
        raise _bad_turn(where, f"is {found(value)}")
    key = next((key for key in keys if value.get(key) is not None), None)
    role = next((value[name] for name in ROLES if isinstance(value.get(name), str)), "")
    if key is None:
        if any(value.get(call) for call in _CALLS):
            log.count("turns that call a tool and say nothing are no text")
            return None
        named = next((key for key in keys if key in value), None)
        shown = f"has {named} null" if named else f"has no content or value (found {found(value)})"
        raise _bad_turn(where, shown)
    text = _content(value[key], where, key, log)
    return None if text is None else Turn(text, role)


def _content(content: Any, where: str, key: str, log: ReadingLog) -> str | None:
    """Returns the text of a content, which may be a list of parts; None if no part has one."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise _bad_turn(where, f"has a {key} that is {found(content)}")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            texts.append(text)
        elif isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] != "text":
            log.count(f"parts of turns of type {part['type'][:_LONGEST_SHOWN]} are no text")
        else:
            raise _bad_turn(where, f"has a part that is {found(part)}")
    return "\n".join(texts) if texts else None


def _bad_turn(where: str, what: str) -> BadRowError:
    return BadRowError(f"{where} {what}: give it a text, or {SKIP}.", "a turn without a text")


def found(value: Any) -> str:
    """Says what a value is, in few words.

    >>> found(None), found({"a": 1}), found([]), found(3)
    ('null', 'an object with a', 'an empty list', 'the number 3')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"an object with {', '.join(map(str, value))}" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return f"the number {str(value)[:_LONGEST_SHOWN]}"
    return type(value).__name__


def text_of(turns: Sequence[Turn], reading: Reading, where: str) -> str:
    """Returns the text of a conversation of one turn or more.

    Raises:
      BadRowError: only the first turn is read, and it is blank although others are not.
    """
    if not (reading.first_only or reading.roles):
        return reading.join([turn.text for turn in turns])
    said = list(turns)
    if reading.first_only:
        # A system prompt is no turn of the conversation, and often the same in all of them.
        said = [turn for turn in turns if turn.role not in _SYSTEM][:1] or said[:1]
    if any(turn.text.strip() for turn in said):
        labelled = reading.roles
        return reading.join([f"{role}: {text}" if labelled and role else text for text, role in said])
    if any(turn.text.strip() for turn in turns):
        raise BadRowError(
            f"{where}: the first turn is empty; remove the sample, use --config.data.turns=all, or {SKIP}.",
            "first turn empty",
        )
    return ""
