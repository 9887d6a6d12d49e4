"""The line scanner finds in any TOML document exactly the keys that tomllib finds, where they stand."""

from __future__ import annotations

import datetime
import json
import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lorrainemail.config.lines import key_lines
from lorrainemail.config.model import KeyPath

bare = st.text("abcXYZ019_-", min_size=1, max_size=5)
anything = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=6)
blanks = st.sampled_from(["", " ", "\t", "\n", "\n# note [x] = 'y'\n", ' # "odd\n\n'])
spaces = st.sampled_from(["", " ", "\t "])


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@st.composite
def keys(draw: st.DrawFn) -> tuple[str, str]:
    """A key and how it is written."""
    if draw(st.booleans()):
        key = draw(bare)
        return key, key
    key = draw(anything)
    if "'" not in key and "\x7f" not in key and draw(st.booleans()):
        return key, f"'{key}'"
    return key, quoted(key)


scalars = st.one_of(
    st.integers(-(2**40), 2**40).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.datetimes(datetime.datetime(1900, 1, 1)).map(lambda value: value.isoformat(" ")),
    st.sampled_from(["1.5", "-inf", "0x1F", "07:32:00", "1979-05-27T07:32:00Z"]),
    anything.map(quoted),
    st.sampled_from(["'a\\'", "'[x] # no'", '"a \\" ] # b"', '""', "''"]),
    st.sampled_from(['"""\na = 1\n[b]\n"""', "'''\n]]# x\n'''", '"""a""b\\""""', "'''a''b'''"]),
    st.just('"""""x"""""'),
)


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    elements = draw(st.lists(inner, max_size=3))
    pieces = [draw(blanks) + element + draw(blanks) for element in elements]
    tail = "," + draw(blanks) if pieces and draw(st.booleans()) else ""
    return "[" + ",".join(pieces) + tail + draw(blanks) + "]"


@st.composite
def inline_tables(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(keys(), inner), max_size=3, unique_by=lambda pair: pair[0][0]))
    space = draw(spaces)
    return "{" + space + ", ".join(f"{key[1]}{space}={space}{value}" for key, value in pairs) + space + "}"


values = st.recursive(scalars, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Pairs, tables and arrays of tables, dotted or not; some are no TOML and are passed over."""
    pieces = []
    for _ in range(draw(st.integers(0, 6))):
        dotted = (draw(spaces) + "." + draw(spaces)).join(
            written for _, written in draw(st.lists(keys(), min_size=1, max_size=3))
        )
        space = draw(spaces)
        pieces.append(
            draw(
                st.sampled_from(
                    [f"[{space}{dotted}{space}]", f"[[{space}{dotted}{space}]]", f"{space}{dotted}{space}="]
                )
            )
        )
        if pieces[-1].endswith("="):
            pieces[-1] += space + draw(values)
        pieces[-1] += draw(st.sampled_from(["", " # note"])) + "\n" + draw(blanks)
    return "".join(pieces)


def paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found |= paths(inner, (*path, index))
    return found


@settings(max_examples=150, deadline=None)
@given(documents())
def test_every_key_that_toml_has_gets_a_line_and_no_other(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = key_lines(text)
    assert set(lines) == paths(data)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(keys(), values, blanks), max_size=6, unique_by=lambda item: item[0][0]))
def test_a_key_is_on_the_line_where_it_was_written(items: list[tuple[tuple[str, str], str, str]]) -> None:
    text, expected = "", {}
    for (key, written), value, blank in items:
        expected[key] = text.count("\n") + 1
        text += f"{written} = {value}\n" + (blank if blank.strip() else "") + "\n"
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = key_lines(text)
    assert {path[0]: line for path, line in lines.items() if len(path) == 1} == expected
