import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.mcp.jsontext import Scanner, elements, members, skip_value

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans(), st.integers(0, 2))
def test_scanner_takes_all_json_in_any_pieces(value: Any, ascii_only: bool, indent: int) -> None:
    text = json.dumps([value], ensure_ascii=ascii_only, indent=indent or None).encode()
    for step in (1, 3, len(text)):
        scanner = Scanner()
        for at in range(0, len(text), step):
            assert not scanner.done
            assert scanner.feed(text[at : at + step])
        assert scanner.done
    assert not scanner.feed(b"x")


@given(VALUES)
def test_skip_finds_the_end(value: Any) -> None:
    text = json.dumps(value).encode()
    assert skip_value(text + b" , 1", 0) == len(text)


@given(st.lists(st.tuples(st.text(max_size=4), VALUES), max_size=5))
def test_members_and_elements_are_where_they_are(pairs: list[tuple[str, Any]]) -> None:
    text = (
        "{ " + " , ".join(f"{json.dumps(key)} : {json.dumps(value)}" for key, value in pairs) + " }"
    ).encode()
    found = members(text, 0)
    assert [(json.loads(each.key), json.loads(text[each.start : each.end])) for each in found] == (
        pairs
    )
    array = json.dumps([value for _, value in pairs]).encode()
    assert [json.loads(array[start:end]) for start, end in elements(array, 0)] == [
        value for _, value in pairs
    ]


@pytest.mark.parametrize(
    "text",
    [b"{,", b"[1 2", b'{"a" 1', b'{"a":1,}', b"[01,", b"[tru,", b'["\\x"', b'["\n', b"{{", b"]"],
)
def test_scanner_refuses_what_is_not_json(text: bytes) -> None:
    assert not Scanner().feed(text)


def test_truncated_members_say_so() -> None:
    found = members(b'{"id":1,"params":{"a":', 0)
    assert [(each.key, each.end) for each in found] == [(b'"id"', 7), (b'"params"', -1)]
    assert members(b'{"id"', 0)[0].start == -1
    assert members(b'{"i', 0)[0].key == b'"i'


def test_depth_is_no_limit() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert skip_value(deep, 0) == len(deep)
    scanner = Scanner()
    assert scanner.feed(deep)
    assert scanner.done
