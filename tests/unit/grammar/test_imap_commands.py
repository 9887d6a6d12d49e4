"""IMAP commands from octets, and what must not be taken for one."""

from __future__ import annotations

import pytest

from lorrainemail.grammar.imap import parse_command
from lorrainemail.grammar.imap_append import parse_append
from lorrainemail.grammar.imap_commands import BadCommand, Command
from lorrainemail.grammar.imap_input import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    AppendMessage,
    CommandReader,
    Continue,
    Event,
    Fault,
    Ready,
)
from lorrainemail.grammar.imap_names import Pattern, decode_name, encode_name
from lorrainemail.grammar.imap_scan import Scanner
from lorrainemail.grammar.imap_search import MAX_DEPTH, SearchKey, UnknownCharset
from lorrainemail.grammar.imap_sets import STAR, parse_set, print_set


def events(data: bytes, reader: CommandReader | None = None, step: int = 0) -> list[Event]:
    """All events of some input, fed whole or in steps."""
    reader = reader or CommandReader(AFTER_LOGIN)
    found: list[Event] = []
    for start in range(0, len(data), step or len(data) or 1):
        reader.feed(data[start : start + (step or len(data))])
        while (event := reader.next()) is not None:
            found.append(event)
    return found


@pytest.mark.parametrize("step", [0, 1, 2, 3, 5, 7])
def test_literals_anywhere_however_the_octets_arrive(step: int) -> None:
    data = b'a LOGIN {3}\r\nb\r\n {4+}\r\np"w\\\r\nb NOOP\r\n\r\nc CAPABILITY\n'
    assert events(data, step=step) == [
        Continue(),
        Ready(b'a LOGIN {3}\r\nb\r\n {4+}\r\np"w\\'),
        Ready(b"b NOOP"),
        Fault(b"", "empty command"),
        Ready(b"c CAPABILITY"),
    ]
    assert parse_command(b'a LOGIN {3}\r\nb\r\n {4+}\r\np"w\\').arguments == (b"b\r\n", b'p"w\\')


def test_quoted_strings_with_both_escapes() -> None:
    # the stock server breaks on \"
    assert parse_command(rb'a LOGIN "b\"o\\b" "p w"').arguments == (b'b"o\\b', b"p w")
    for wrong in (rb'a LOGIN "b\x" c', b'a LOGIN "b c', b'a LOGIN "b" c d', b"a LOGIN b", b"a LOGIN  b c"):
        with pytest.raises(BadCommand) as caught:
            parse_command(wrong)
        assert caught.value.tag == b"a"


def test_a_literal_too_large_is_refused_before_it_is_sent_and_the_session_goes_on() -> None:
    assert events(b"a LOGIN {4294967296}\r\nb NOOP\r\n", CommandReader()) == [
        Fault(b"a", "literal too large", too_big=True),
        Ready(b"b NOOP"),
    ]
    assert events(b"a LOGIN {20000}\r\nb NOOP\r\n", CommandReader())[0] == Fault(
        b"a", "literal too large", too_big=True
    )


def test_a_literal_that_does_not_wait_is_read_over_when_it_is_too_large() -> None:
    inside = b"x NOOP\r\n" * 4000
    reader = CommandReader(BEFORE_LOGIN)
    data = b"a LOGIN bob {%d+}\r\n%b\r\nb NOOP\r\n" % (len(inside), inside)
    assert events(data, reader, step=1000) == [
        Fault(b"a", "literal too large", too_big=True),
        Ready(b"b NOOP"),
    ]
    assert reader.buffered == 0


def test_a_literal_beyond_all_bounds_ends_the_session() -> None:
    (fault,) = events(b"a LOGIN {4294967296+}\r\n", CommandReader())
    assert isinstance(fault, Fault) and fault.fatal


@pytest.mark.parametrize("size", [b"-1", b"", b"x", b"1.5", b"0x10"])
def test_what_is_no_literal_is_a_syntax_error(size: bytes) -> None:
    (ready,) = events(b"a LOGIN {%b}\r\n" % size)
    assert isinstance(ready, Ready)
    with pytest.raises(BadCommand):
        parse_command(ready.data)


def test_an_over_long_line_is_thrown_away_as_it_comes() -> None:
    reader = CommandReader(AFTER_LOGIN)
    found: list[Event] = []
    reader.feed(b"a SEARCH TEXT ")
    for _ in range(300):
        reader.feed(b"x" * 10_000)
        while (event := reader.next()) is not None:
            found.append(event)
        assert reader.buffered < 100_000
    reader.feed(b" {6+}\r\nabc\r\n\r\r\nb NOOP\r\n")
    while (event := reader.next()) is not None:
        found.append(event)
    assert found == [Fault(b"a", "line too long"), Ready(b"b NOOP")]


def test_many_small_literals_cannot_pass_the_bound_of_a_command() -> None:
    data = b"a SEARCH TEXT" + (b" {1000+}\r\n" + b"x" * 1000) * 400 + b"\r\nb NOOP\r\n"
    found = events(data)
    assert isinstance(found[0], Fault) and found[0].tag == b"a"
    assert Ready(b"b NOOP") in found


def test_the_message_of_an_append_is_announced_not_gathered() -> None:
    reader = CommandReader(AFTER_LOGIN)
    reader.feed(b'a APPEND {4+}\r\nSent (\\Seen $X) "17-Jul-1996 02:44:25 -0700" {310}\r\nMess')
    event = reader.next()
    assert isinstance(event, AppendMessage)
    assert (event.size, event.waits, event.arguments.mailbox) == (310, True, "Sent")
    assert event.arguments.flags == ("\\Seen", "$X")
    assert event.arguments.date == 837596665
    assert reader.take(310) == b"Mess"


@pytest.mark.parametrize(
    "text",
    [
        b"a APPEND INBOX (\\Seen ",
        b'a APPEND INBOX "32-Jul-1996 02:44:25 -0700" ',
        b"a APPEND  ",
        b"a APPEND INBOX x ",
        b"a APPEND INBOX",
    ],
)
def test_a_wrong_append_is_bad_before_its_message(text: bytes) -> None:
    with pytest.raises(BadCommand):
        parse_append(text)


def test_the_sections_of_fetch() -> None:
    command = parse_command(
        b'a UID FETCH 1:3,7,10:* (flags Body[] BODY.PEEK[HEADER.FIELDS.NOT ("From" x)] body[1.2.mime]<5.10>'
        b" RFC822.SIZE BODY BODYSTRUCTURE UID)"
    )
    assert command.uid
    messages, items, modifiers = command.arguments
    assert modifiers.changed_since is None and not modifiers.vanished
    assert messages.ranges == ((1, 3), (7, 7), (10, STAR))
    assert [(i.kind, i.label, i.peek) for i in items] == [
        ("FLAGS", b"FLAGS", True),
        ("SECTION", b"BODY[]", False),
        ("SECTION", b"BODY[HEADER.FIELDS.NOT (From x)]", True),
        ("SECTION", b"BODY[1.2.MIME]<5>", False),
        ("RFC822.SIZE", b"RFC822.SIZE", True),
        ("BODY", b"BODY", True),
        ("BODYSTRUCTURE", b"BODYSTRUCTURE", True),
        ("UID", b"UID", True),
    ]
    assert (items[3].path, items[3].text, items[3].offset, items[3].count) == ((1, 2), "MIME", 5, 10)


@pytest.mark.parametrize(
    "text",
    [
        b"a FETCH 0 FLAGS",
        b"a FETCH 1:a FLAGS",
        b"a FETCH 1 (FLAGS",
        b"a FETCH 1 ()",
        b"a FETCH 1 BODY[MIME]",
        b"a FETCH 1 BODY[0]",
        b"a FETCH 1 BODY[1.]",
        b"a FETCH 1 BODY[]<0.0>",
        b"a FETCH 1 BODY[]<-1.5>",
        b"a FETCH 1 BODY[]<1>",
        b"a FETCH 1 BODY[HEADER.FIELDS ()]",
        b"a FETCH 4294967296 FLAGS",
        b"a FETCH 1 (ALL)",
        b"a FETCH 1 FROB",
        b"a FETCH 1",
        b"a STORE 1 FLAGS (\\Seen",
        b"a STORE 1 FLAG \\Seen",
        b"a SEARCH",
        b"a SEARCH FROB",
        b"a SEARCH NOT",
        b"a SEARCH (SEEN",
        b"a SEARCH SINCE 30-Feb-2020",
        b"a SEARCH CHARSET utf-8 TEXT {1}\r\n\xff",
        b"a COPY 1",
        b"a STATUS INBOX ()",
        b"a STATUS INBOX (FROB)",
        b"a LIST x",
        b"a CREATE &",
        b'a CREATE ""',
        b"a UID NOOP",
        b"a NOOP x",
        b"a FROB",
        b"a",
        b"",
        b"+ NOOP",
        b"a \xff",
    ],
)
def test_wrong_commands_are_bad_and_nothing_worse(text: bytes) -> None:
    with pytest.raises(BadCommand):
        parse_command(text)


def test_search_programs() -> None:
    key, options = parse_command(
        b'a SEARCH CHARSET UTF-8 FLAGGED (OR FROM "x" NOT 1:3) SINCE 1-Feb-1994'
    ).arguments
    assert key.name == "AND" and not options.extended
    flagged, inner, since = key.keys
    assert flagged == SearchKey("FLAGGED")
    assert inner.keys[0].name == "OR"
    assert inner.keys[0].keys[0] == SearchKey("FROM", text="x")
    assert inner.keys[0].keys[1].keys[0].messages is not None
    assert since.number == 8797
    latin, _ = parse_command(b"a SEARCH CHARSET iso-8859-1 SUBJECT {1}\r\n\xe9").arguments
    assert latin.text == "é"
    with pytest.raises(UnknownCharset):
        parse_command(b"a SEARCH CHARSET x-klingon TEXT q")


def test_depth_is_bounded_where_the_stock_server_runs_out_of_stack() -> None:
    for opening in (b"(", b"NOT ", b"OR ALL "):
        with pytest.raises(BadCommand):
            parse_command(b"a SEARCH " + opening * 1500 + b"ALL")
        parse_command(
            b"a SEARCH " + opening * (MAX_DEPTH - 1) + b"ALL" + b")" * ((MAX_DEPTH - 1) * (opening == b"("))
        )


def test_list_and_its_extensions() -> None:
    (plain,) = parse_command(b'a LIST "" "%"').arguments
    assert not plain.extended and not plain.empty
    (empty,) = parse_command(b'a LIST "" ""').arguments
    assert empty.empty
    (extended,) = parse_command(
        b'a LIST (SUBSCRIBED RECURSIVEMATCH) "" ("INBOX" "Dr*") RETURN (CHILDREN STATUS (MESSAGES UNSEEN))'
    ).arguments
    assert extended.select == {"SUBSCRIBED", "RECURSIVEMATCH"}
    assert extended.status == ("MESSAGES", "UNSEEN")
    assert [p.text for p in extended.patterns] == ["INBOX", "Dr*"]


def test_other_commands() -> None:
    assert parse_command(b"a1 noop") == Command(b"a1", "NOOP", False, ())
    assert parse_command(b"a AUTHENTICATE plain =").arguments == (b"PLAIN", b"=")
    assert parse_command(b"a CREATE x (USE (\\Sent \\Drafts))").arguments == ("x", ("\\Sent", "\\Drafts"))
    assert parse_command(b'a ID ("name" "mutt" "os" NIL)').arguments == (((b"name", b"mutt"), (b"os", None)),)
    assert parse_command(b"a ID NIL").arguments == ((),)
    (store,) = parse_command(b"a STORE 1 -flags.silent \\Seen $x").arguments
    assert (store.operation, store.silent, store.flags) == ("remove", True, ("\\Seen", "$x"))
    assert parse_command(b"a UID EXPUNGE 5:9").arguments[0].ranges == ((5, 9),)


# -- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "name"),
    [
        (b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),  # RFC 3501 §5.1.3
        (b"R&-D", "R&D"),
        (b"inbox", "INBOX"),
        (b"inBox/x", "INBOX/x"),
        (b"inboxes", "inboxes"),
        (b"&2D3cqQ-", "\N{PILE OF POO}"),
        (b"Entw&APw-rfe", "Entwürfe"),
    ],
)
def test_mailbox_names_both_ways(wire: bytes, name: str) -> None:
    assert decode_name(wire) == name
    assert decode_name(encode_name(name)) == name


@pytest.mark.parametrize(
    "wire",
    [
        b"&",
        b"R&D",
        b"&Jjo",
        b"&Jjo!",
        b"&AGE-",
        b"&U,BTFw-&ZeVnLIqe-",
        b"\xc3\xa9",
        b"a\x01",
        b"&2D0-",
        b"x" * 1001,
    ],
)
def test_names_that_are_not_modified_utf7_are_refused(wire: bytes) -> None:
    with pytest.raises(ValueError):
        decode_name(wire)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "a/b/c", True),
        ("%", "a", True),
        ("%", "a/b", False),
        ("%/%", "a/b", True),
        ("a%c", "abbc", True),
        ("a%c", "ab/c", False),
        ("a*c", "ab/c", True),
        ("*%*", "x/y", True),
        ("inbox", "INBOX", True),
        ("in%", "INBOX", True),
        ("inbox/*", "INBOX/x", False),
        ("", "a", False),
        ("*a*b*c*", "xxaxxbxxc", True),
        ("*a*b*c*", "xxcxxbxxa", False),
    ],
)
def test_list_wildcards(pattern: str, name: str, fits: bool) -> None:
    assert Pattern(pattern).matches(name) is fits


# -- sets --------------------------------------------------------------------------------------------


def test_sets_stay_ranges_and_resolve_in_any_order() -> None:
    # the stock server needs seconds for some thousand ids, and gigabytes for 1:4294967295
    found = parse_set(b"4294967295:1,*:5,3")
    assert found is not None
    assert found.indexes([2, 4, 9], by_uid=True) == [0, 1, 2]
    assert found.indexes([2, 4, 9], by_uid=False) == [0, 1, 2]
    many = parse_set(b",".join(b"%d" % n for n in range(1, 16_000, 2)))
    assert many is not None
    assert many.indexes(range(1, 20_001), by_uid=True) == list(range(0, 16_000, 2))
    star = parse_set(b"*")
    assert star is not None
    assert star.indexes([5, 8], by_uid=True) == [1]
    assert star.indexes([], by_uid=True) == []
    beyond = parse_set(b"100:*")
    assert beyond is not None
    assert beyond.indexes([5, 8], by_uid=True) == [1]  # RFC 3501 §6.4.8
    assert parse_set(b"1:2:3") is None
    assert parse_set(b"1,,2") is None
    assert parse_set(b"4294967296") is None


def test_sets_are_printed_with_runs_joined() -> None:
    assert print_set([1, 2, 3, 7, 9, 10]) == b"1:3,7,9:10"
    assert print_set([5, 4]) == b"5,4"
    assert print_set([]) == b""


def test_nul_in_a_literal_is_refused() -> None:
    with pytest.raises(BadCommand):
        parse_command(b"a LOGIN {1}\r\n\0 x")
    assert Scanner(b"{3}\r\na\r\n").string() == b"a\r\n"
