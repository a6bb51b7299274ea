import json

from hypothesis import given, settings
from hypothesis import strategies as st

from cvfp_jax.data.text.reading import BadRowError, Reading, ReadingLog
from cvfp_jax.data.text.shapes import _KNOWN, sample_text

KEYS = st.sampled_from([*sorted(_KNOWN), "role", "from", "value", "content", "type", "tool_calls", "x"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
RECORDS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(
    st.dictionaries(KEYS, RECORDS, max_size=4) | RECORDS,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "x"]),
)
def test_any_record_is_a_text_or_a_line(record, first_only, roles, text_field):
    message = ""
    try:
        text = sample_text(
            record, "here", Reading(first_only, roles=roles, text_field=text_field), ReadingLog()
        )
    except BadRowError as error:
        message = str(error)
    else:
        assert text.strip()
        text.encode()
    assert "\n" not in message
    assert message.startswith("here" if message else "")


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(min_size=1)), min_size=1))
def test_a_conversation_is_its_turns(said):
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for _, text in said]
    if not "".join(texts).strip():
        return
    for role, content in (("role", "content"), ("from", "value")):
        turns = [{role: who, content: text} for who, text in said]
        for record in (turns, {"messages": turns}, {"conversation": turns}, {"data": turns}):
            assert sample_text(json.loads(json.dumps(record)), "here") == "\n".join(texts)
