"""Whatever a client sends, the reader stays bounded and the parser answers with a value or a BAD."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from lorrainemail.grammar.imap import parse_command
from lorrainemail.grammar.imap_commands import BadCommand
from lorrainemail.grammar.imap_input import AFTER_LOGIN, AppendMessage, CommandReader, Fault, Limits, Ready
from lorrainemail.grammar.imap_names import Pattern, decode_name, encode_name
from lorrainemail.grammar.imap_scan import Scanner
from lorrainemail.grammar.imap_search import UnknownCharset
from lorrainemail.grammar.imap_sets import SequenceSet, parse_set, print_set
from lorrainemail.message.quoting import astring, nstring, string

WORDS = st.sampled_from(
    [b"a", b" ", b"  ", b"(", b")", b"[", b"]", b"<0.1>", b'"', b"\\", b"\\Seen", b"{3}\r\nabc", b"{0+}\r\n",
     b"{9", b"FETCH", b"UID", b"SEARCH", b"NOT", b"OR", b"TEXT", b"HEADER", b"BODY[", b"BODY.PEEK[1.HEADER]",
     b"1:*", b"*", b"1,2", b"LIST", b"%", b"STORE", b"+FLAGS", b"APPEND", b"STATUS", b"(MESSAGES)", b"ID",
     b"NIL", b"CHARSET", b"utf-8", b"SINCE", b"1-Feb-1994", b"LOGIN", b"AUTHENTICATE", b"RETURN", b"\xff",
     b"\0", b"&", b"INBOX", b"COPY", b"CREATE", b"RENAME", b"ENABLE", b"KEYWORD"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, max_size=14))
def test_any_command_is_a_value_or_bad(words: list[bytes]) -> None:
    for data in (b" ".join(words), b"".join(words), b"t " + b" ".join(words)):
        try:
            parse_command(data)
        except (BadCommand, UnknownCharset):
            pass


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b"a NOOP\r\n", b"b LOGIN {3}\r\nx\r\n y\r\n", b"c X {4+}\r\nab\r\n\r\n",
                              b"\r\n",
                              b"d " + b"y" * 300 + b"\r\n", b"e APPEND x {2+}\r\nhi\r\n",
                              b"f {99+}\r\n" + b"z" * 99 + b"\r\n"]),
             max_size=8),
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
)  # fmt: skip
def test_events_do_not_depend_on_how_the_octets_arrive(commands: list[bytes], cuts: list[int]) -> None:
    def run(chunks: list[bytes]) -> list[object]:
        reader = CommandReader(Limits(line=200, command=250, skip=500))
        out: list[object] = []
        body: list[int] = []

        def drain() -> None:
            while True:
                if body:
                    taken = reader.take(body[0])
                    body[0] -= len(taken)
                    if body[0]:
                        return
                    rest = reader.line(100)
                    if rest is None:
                        return
                    assert rest == b""
                    body.clear()
                event = reader.next()
                if event is None:
                    return
                out.append(event)
                if isinstance(event, AppendMessage):
                    body.append(event.size)

        for chunk in chunks:
            reader.feed(chunk)
            drain()
        return out

    data = b"".join(commands)
    chunks = []
    position = 0
    for cut in cuts * (len(data) // sum(cuts) + 1):
        chunks.append(data[position : position + cut])
        position += cut
    assert run([data]) == run(chunks)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_the_reader_never_breaks(data: bytes) -> None:
    reader = CommandReader(AFTER_LOGIN)
    reader.feed(data + b"\r\n")
    for _ in range(300):
        event = reader.next()
        if event is None or isinstance(event, AppendMessage):
            break
        assert isinstance(event, (Ready, Fault)) or event is not None


@given(st.binary(max_size=60))
def test_printed_strings_are_read_back(value: bytes) -> None:
    clean = value.replace(b"\0", b"")
    assert Scanner(string(clean)).string() == clean
    assert Scanner(nstring(clean)).nstring() == clean
    assert Scanner(nstring(None)).nstring() is None
    assert Scanner(astring(clean)).astring() == clean


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40))
def test_names_survive_the_wire(name: str) -> None:
    wire = encode_name(name)
    decoded = decode_name(wire)
    assert decoded == name or decoded.upper() == name.upper()
    assert encode_name(decoded) == wire or decoded.startswith("INBOX")


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.booleans()), min_size=1, max_size=6),
    st.sets(st.integers(1, 50), max_size=20),
    st.booleans(),
)
def test_sets_mean_what_a_loop_over_all_messages_finds(
    pairs: list[tuple[int, int, bool]], present: set[int], by_uid: bool
) -> None:
    uids = sorted(present)
    text = b",".join(
        b"%d" % a if a == b else b"%d:%b" % (a, b"*" if star else b"%d" % b) for a, b, star in pairs
    )
    found = parse_set(text)
    assert isinstance(found, SequenceSet)
    largest = (uids[-1] if uids else 0) if by_uid else len(uids)
    wanted = set()
    for a, b, star in pairs:
        high = largest if star and a != b else b
        wanted |= set(range(min(a, high), max(a, high) + 1))
    expected = [i for i, uid in enumerate(uids) if (uid if by_uid else i + 1) in wanted]
    assert found.indexes(uids, by_uid) == expected
    printed = parse_set(print_set(uids)) if uids else None
    assert printed is None or printed.indexes(uids, True) == list(range(len(uids)))


@given(st.text("ab/*%", max_size=12), st.text("ab/", max_size=12))
def test_wildcards_mean_what_a_regular_expression_would(pattern: str, name: str) -> None:
    expression = "".join(
        {"*": ".*", "%": "[^/]*"}.get(c, re.escape(c)) for c in re.sub(r"[*%]*\*[*%]*", "*", pattern)
    )
    assert Pattern(pattern).matches(name) is (re.fullmatch(expression, name) is not None)
