from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.wire.json_text import is_deeper_than

tricky_text = st.text(alphabet='[]{}"\\/a\n')
json_values = st.recursive(
    tricky_text | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky_text, inner, max_size=3),
    max_leaves=30,
)


def depth_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@settings(deadline=None)
@given(json_values)
def test_depth_is_counted_outside_strings_only(value: object) -> None:
    text = json.dumps(value).encode()
    depth = depth_of(value)
    assert not is_deeper_than(depth, text)
    assert depth == 0 or is_deeper_than(depth - 1, text)


def test_more_quotes_than_a_byte_can_count_do_not_confuse_it() -> None:
    text = json.dumps(["[", "\\", '"'] * 1_000 + [[[]]]).encode()
    assert is_deeper_than(2, text)
    assert not is_deeper_than(3, text)
