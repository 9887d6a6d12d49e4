"""SEARCH programs against a naive evaluator that looks at every message, with and without the indexes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from lorrainemail.imap import search

_spec = importlib.util.spec_from_file_location(
    "imap_door_for_programs", Path(__file__).parents[1] / "unit" / "imap" / "conftest.py"
)
assert _spec is not None and _spec.loader is not None
harness: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

#: A message: (subject, body, seen, flagged), by which the naive evaluator goes.
Mail = tuple[str, str, bool, bool]
Program = tuple[str, Callable[[int, Mail], bool]]

WORDS = ["volet", "bleu", "Porte", "été", "x"]
MAILS = st.tuples(
    st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join),
    st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join),
    st.booleans(),
    st.booleans(),
)


def leaf(words: str, test: Callable[[int, Mail], bool]) -> Program:
    return words, test


def holds(needle: str, text: str) -> bool:
    return needle.lower() in text.lower()


LEAVES = st.one_of(
    st.sampled_from(
        [
            leaf("ALL", lambda n, m: True),
            leaf("SEEN", lambda n, m: m[2]),
            leaf("UNSEEN", lambda n, m: not m[2]),
            leaf("FLAGGED", lambda n, m: m[3]),
            leaf("KEYWORD $none", lambda n, m: False),
            leaf("LARGER 100000", lambda n, m: False),
            leaf("SINCE 1-Jan-1990", lambda n, m: True),
        ]
    ),
    st.sampled_from(["volet", "ole", "BLEU", "t\u00e9", "nowhere", "porte x"]).flatmap(
        lambda needle: st.sampled_from(
            [
                leaf(f'SUBJECT "{needle}"', lambda n, m: holds(needle, m[0])),
                leaf(f'BODY "{needle}"', lambda n, m: holds(needle, m[1])),
                leaf(f'TEXT "{needle}"', lambda n, m: holds(needle, m[0]) or holds(needle, m[1])),
                leaf(f'HEADER Subject "{needle}"', lambda n, m: holds(needle, m[0])),
            ]
        )
    ),
    st.integers(1, 5).map(lambda last: leaf(f"1:{last}", lambda n, m: n <= last)),
    st.integers(1, 5).map(lambda first: leaf(f"UID {first}:*", lambda n, m: n >= first)),
)
PROGRAMS: st.SearchStrategy[Program] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda one: leaf(f"NOT {one[0]}", lambda n, m: not one[1](n, m))),
        st.tuples(inner, inner).map(
            lambda two: leaf(f"OR {two[0][0]} {two[1][0]}", lambda n, m: two[0][1](n, m) or two[1][1](n, m))
        ),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda all_: leaf(
                f"({' '.join(words for words, _ in all_)})",
                lambda n, m: all(test(n, m) for _, test in all_),
            )
        ),
    ),
    max_leaves=6,
)


@given(st.lists(MAILS, min_size=5, max_size=8), PROGRAMS, st.integers(0, 8))
@settings(deadline=None, max_examples=150)
def test_a_program_finds_what_looking_at_everything_finds(
    mails: list[Mail], program: Program, known: int
) -> None:
    door = harness.Door()
    for subject, body, seen, flagged in mails:
        flags = (("\\Seen",) if seen else ()) + (("\\Flagged",) if flagged else ())
        door.put(
            f"Date: Sun, 22 Nov 2026 10:00:00 +0000\nSubject: {subject}\n"
            f"Content-Type: text/plain; charset=utf-8\n\n{body}\n",
            flags=flags,
        )
    client = door.selected()
    words, test = program
    expected = [n for n, mail in enumerate(mails, 1) if test(n, mail)]
    for bound in (0, 1_000_000):
        door.folder().texts_in = known
        with (
            mock.patch.object(search, "MIN_NARROWED", bound),
            mock.patch.object(search, "MIN_INDEXED", bound),
        ):
            said = client.say(f"a SEARCH {words}")
        assert said[0].split()[2:] == [str(n) for n in expected], words
        assert said[-1].startswith("a OK")
