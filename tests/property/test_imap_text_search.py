"""The shortcut of SEARCH TEXT, BODY and HEADER finds nothing other than the whole way does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from lorrainemail.grammar.imap_search import SearchKey
from lorrainemail.imap import matching, search
from lorrainemail.message.collation import fold, plain
from lorrainemail.message.searchable import grams

_spec = importlib.util.spec_from_file_location(
    "imap_door_for_searches", Path(__file__).parents[1] / "unit" / "imap" / "conftest.py"
)
assert _spec is not None and _spec.loader is not None
harness: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

PIECES = st.sampled_from(
    [
        b"Subject: ",
        b"word",
        b"Word",
        b"other",
        b"\r\n",
        b"\r\n ",
        b"\r\n\r\n",
        b"=?utf-8?q?wo=72d?=",
        b"wo=\r\nrd",
        b"Content-Type: text/plain; charset=utf-8\r\n",
        b"Content-Type: text/plain; charset=utf-7\r\n",
        b"d29yZA==",
        b"+AHcAbwByAGQ-",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: Quoted-Printable\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n",
        b"--b\r\n",
        b"--b--\r\n",
        b"\xc3\x89",
        b" ",
        b"X-Tag: ",
    ]
)
KEYS = st.builds(
    SearchKey,
    st.sampled_from(["TEXT", "BODY", "HEADER"]),
    text=st.sampled_from(["word", "wo", "", "word other", "é", "WORD", "=", "nowhere"]),
    field=st.sampled_from([b"subject", b"x-tag"]),
)


@given(st.lists(PIECES, max_size=14).map(b"".join), st.lists(KEYS, min_size=1, max_size=3))
def test_the_short_way_and_the_whole_way_agree(data: bytes, keys: list[SearchKey]) -> None:
    short = matching.content_answers(keys, data)
    with mock.patch.object(matching, "_surely", lambda leaves, octets: {}):
        whole = matching.content_answers(keys, data)
    assert short == whole


HEADERS = st.sampled_from(
    [
        b"From: Carole <carole@elorac.test>",
        b"From: carole@elorac.test (Karl), other@x.test",
        b'From: "Doe, John" <word@x.test>,b@x.test',
        b"From: =?utf-8?q?wo=72d?= <a@b.test>",
        b"From: friends: word@x.test, other@y.test;",
        b'From: "wo\\rd" <a@b.test>',
        b"To: Word Wide <to@x.test>",
        b"Cc: k@x.test,\r\n word@y.test",
        b"Subject: word",
        b"Subject: =?utf-8?b?d29yZA==?=",
        b"Subject: wo\r\n rd",
        b"Subject: caf\xc3\xa9 word",
        b"References: <1.word@x.test> <2@x.test>",
        b"References: see <1@x.test> word",
        b"References: <=?utf-8?q?wo=72d?=@x>",
        b"In-Reply-To: <word@x.test>",
        b"Message-ID: <word.1@x.test>",
        b"message-id : word",
        b"Date: Sun, 22 Nov 2026 10:00:00 +0000 (word)",
        b"Sender: word@x.test",
        b"Reply-To:\r\n\tother <word@x.test>",
    ]
)
FIELDS = [
    "subject",
    "from",
    "to",
    "cc",
    "references",
    "in-reply-to",
    "message-id",
    "date",
    "sender",
    "reply-to",
]
NEEDLES = ["word", "wo", "word@x.test", "k@x", "other", "doe, john", "word wide", "1.word@x.test> <2", "karl"]


@given(
    st.lists(st.lists(HEADERS, max_size=4).map(lambda lines: b"\r\n".join(lines)), min_size=1, max_size=5),
    st.sampled_from([f"HEADER {field}" for field in FIELDS] + ["FROM", "TO", "CC", "SUBJECT"]),
    st.sampled_from(NEEDLES),
)
@settings(deadline=None)
def test_what_the_index_rules_out_would_not_have_matched(heads: list[bytes], key: str, needle: str) -> None:
    door = harness.Door()
    door.put(*(head + b"\r\n\r\nbody\r\n" for head in heads))
    client = door.selected()
    answers = []
    for bound in (0, 1_000_000):
        with mock.patch.object(search, "MIN_NARROWED", bound):
            answers.append(client.say(f'a SEARCH {key} "{needle}"'))
    assert answers[0] == answers[1]


@given(
    st.lists(st.lists(PIECES, max_size=14).map(b"".join), min_size=1, max_size=5),
    st.sampled_from(
        ["TEXT", "BODY", "NOT TEXT", "HEADER x-tag", "FUZZY TEXT", "FUZZY HEADER subject", "OR SEEN BODY"]
    ),
    st.sampled_from(
        ["word", "wor", "wo", "word other", "\u00e9word", "WORD", "other", "nowhere", "x.test", "e\u0301"]
    ),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_what_the_text_index_rules_out_would_not_have_matched(
    messages: list[bytes], key: str, needle: str, known: int
) -> None:
    door = harness.Door()
    door.put(*(message + b"\r\n" for message in messages))
    client = door.selected()
    answers = []
    octets = needle.encode()
    for bound in (0, 1_000_000):
        door.folder().texts_in = known
        with mock.patch.object(search, "MIN_INDEXED", bound):
            answers.append(client.say(b"a SEARCH %b {%d+}\r\n%b\r\n" % (key.encode(), len(octets), octets)))
    assert answers[0] == answers[1]
    assert answers[0][-1] == "a OK SEARCH completed"


@given(st.text(max_size=40), st.text(max_size=40), st.text(min_size=1, max_size=8))
def test_a_text_that_holds_another_has_its_grams(before: str, after: str, needle: str) -> None:
    assert grams(before + needle + after) >= grams(needle)
    assert fold(needle) in fold(before + needle + after)
    assert plain(needle) in plain(before + needle + after)
    assert plain(fold(needle)) == plain(needle)
