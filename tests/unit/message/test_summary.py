"""ENVELOPE and BODYSTRUCTURE as clients receive them."""

from __future__ import annotations

import pytest

from lorrainemail.message.addresslist import Mailbox, parse_addresses
from lorrainemail.message.charsets import decode, decode_body, decode_words
from lorrainemail.message.dates import (
    date_time,
    parse_date,
    parse_date_time,
    parse_day,
    parse_search_date,
)
from lorrainemail.message.header import body_offset, fields, pick
from lorrainemail.message.structure import MAX_DEPTH, MAX_PARTS, parse_structure
from lorrainemail.message.subject import base_subject
from lorrainemail.message.summary import body_of, summarize


def wire(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("utf-8")


PLAIN = wire(
    "Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\n"
    "From: Terry Gray <gray@cac.washington.edu>\n"
    "Subject: IMAP4rev1 WG mtg summary and minutes\n"
    "To: imap@cac.washington.edu\n"
    "cc: minutes@CNRI.Reston.VA.US, \n"
    "   John Klensin <KLENSIN@MIT.EDU>\n"
    "Message-Id: <B27397-0100000@cac.washington.edu>\n"
    "MIME-Version: 1.0\n"
    "Content-Type: TEXT/PLAIN; CHARSET=US-ASCII\n"
    "\n"
    "one\ntwo\n"
)


def test_the_envelope_of_the_rfcs_own_example() -> None:
    # RFC 3501 §8
    assert summarize(PLAIN).envelope == (
        b'("Wed, 17 Jul 1996 02:23:25 -0700 (PDT)" "IMAP4rev1 WG mtg summary and minutes" '
        b'(("Terry Gray" NIL "gray" "cac.washington.edu")) '
        b'(("Terry Gray" NIL "gray" "cac.washington.edu")) '
        b'(("Terry Gray" NIL "gray" "cac.washington.edu")) '
        b'((NIL NIL "imap" "cac.washington.edu")) '
        b'((NIL NIL "minutes" "CNRI.Reston.VA.US")("John Klensin" NIL "KLENSIN" "MIT.EDU")) '
        b'NIL NIL "<B27397-0100000@cac.washington.edu>")'
    )


def test_the_body_structure_of_the_rfcs_own_example() -> None:
    summary = summarize(PLAIN)
    assert summary.structure == (
        b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 10 2 NIL NIL NIL NIL)'
    )
    assert summary.body == b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 10 2)'
    assert summary.header_octets == len(PLAIN) - 10
    assert summary.sent == 837595405


def test_mail_without_any_mime_field_is_plain_text_not_nil() -> None:
    assert summarize(b"From: a@b\r\n\r\nx\r\n").structure == (
        b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 3 1 NIL NIL NIL NIL)'
    )


def test_eight_bit_subjects_are_literals_so_that_the_line_stays_parseable() -> None:
    summary = summarize(wire("Subject: déjà\nFrom: René <r@x>\n\n"))
    assert b" {6}\r\nd\xc3\xa9j\xc3\xa0 " in summary.envelope
    assert b"(({5}\r\nRen\xc3\xa9 NIL " in summary.envelope


def test_quotes_and_backslashes_in_names_are_escaped() -> None:
    summary = summarize(b'From: "A \\"B\\" C\\\\D" <a@b>\r\nSubject: say "hi" \\o/\r\n\r\n')
    assert b'("A \\"B\\" C\\\\D" NIL "a" "b")' in summary.envelope
    assert b'"say \\"hi\\" \\\\o/"' in summary.envelope


def test_nul_never_reaches_a_literal() -> None:
    assert b"\0" not in summarize(b"Subject: a\0b\r\n\r\n").envelope


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"a@b", [Mailbox(None, None, b"a", b"b")]),
        (b"A B <a@b>, c@d", [Mailbox(b"A B", None, b"a", b"b"), Mailbox(None, None, b"c", b"d")]),
        (b"a@b (Old Style)", [Mailbox(b"Old Style", None, b"a", b"b")]),
        (b"(c (nested)) a (x) @ (y) b", [Mailbox(b"y", None, b"a", b"b")]),
        (b'"joe blow"@x.org', [Mailbox(None, None, b"joe blow", b"x.org")]),
        (b"J. R. Ewing <j@r>", [Mailbox(b"J. R. Ewing", None, b"j", b"r")]),
        (b"<@a,@b:c@d>", [Mailbox(None, b"@a,@b", b"c", b"d")]),
        (
            b"team: a@b, C <c@d>;, e@f",
            [
                Mailbox(None, None, b"team", None),
                Mailbox(None, None, b"a", b"b"),
                Mailbox(b"C", None, b"c", b"d"),
                Mailbox(None, None, None, None),
                Mailbox(None, None, b"e", b"f"),
            ],
        ),
        (
            b"undisclosed-recipients:;",
            [Mailbox(None, None, b"undisclosed-recipients", None), Mailbox(None, None, None, None)],
        ),
        (b"root", [Mailbox(None, None, b"root", b"")]),
        (b"<>", []),
        (b"a@[192.0.2.1]", [Mailbox(None, None, b"a", b"[192.0.2.1]")]),
        (b"Unclosed <a@b", [Mailbox(b"Unclosed", None, b"a", b"b")]),
        (b'"Unclosed <a@b>', [Mailbox(None, None, b"Unclosed <a@b>", b"")]),
        (b"", []),
        (b",,,", []),
    ],
)
def test_addresses_of_every_shape_are_shown(value: bytes, expected: list[Mailbox]) -> None:
    found = parse_addresses(value)
    assert [(m.name, m.route, m.mailbox, m.host) for m in found] == [
        (m.name, m.route if m.route is None else m.route.replace(b",", b"") and m.route, m.mailbox, m.host)
        for m in expected
    ]


MULTIPART = wire(
    "From: a@b\n"
    'Content-Type: multipart/mixed; boundary="out er"\n'
    "\n"
    "preamble\n"
    "--out er\n"
    "Content-Type: multipart/alternative; boundary=in\n"
    "\n"
    "--in\n"
    "\n"
    "plain\n"
    "--in\n"
    "Content-Type: text/html; charset=utf-8\n"
    "Content-Transfer-Encoding: quoted-printable\n"
    "\n"
    "<p>html</p>\n"
    "\n"
    "--in--\n"
    "epilogue of the inner one\n"
    "--out er  \n"
    "Content-Type: message/rfc822\n"
    "\n"
    "Subject: inner\n"
    "From: c@d\n"
    "\n"
    "inner text\n"
    "--out er\n"
    "Content-Type: image/png; name*0*=utf-8''a%20; name*1=b.png\n"
    "Content-Transfer-Encoding: base64\n"
    'Content-Disposition: attachment; filename="a b.png"\n'
    "Content-ID: <x@y>\n"
    "\n"
    "AAAA\n"
    "--out er--\n"
    "epilogue\n"
)


def test_nested_multiparts_and_an_embedded_message() -> None:
    summary = summarize(MULTIPART)
    assert summary.structure == (
        b'((("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 5 0 NIL NIL NIL NIL)'
        b'("TEXT" "HTML" ("CHARSET" "utf-8") NIL NIL "QUOTED-PRINTABLE" 13 1 NIL NIL NIL NIL)'
        b' "ALTERNATIVE" ("BOUNDARY" "in") NIL NIL NIL)'
        b'("MESSAGE" "RFC822" NIL NIL NIL "7BIT" 39 '
        b'(NIL "inner" ((NIL NIL "c" "d")) ((NIL NIL "c" "d")) ((NIL NIL "c" "d")) NIL NIL NIL NIL NIL) '
        b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 10 0 NIL NIL NIL NIL) 3 NIL NIL NIL NIL)'
        b'("IMAGE" "PNG" ("NAME*0*" "utf-8\'\'a%20" "NAME*1" "b.png") "<x@y>" NIL "BASE64" 4 '
        b'NIL ("ATTACHMENT" ("FILENAME" "a b.png")) NIL NIL)'
        b' "MIXED" ("BOUNDARY" "out er") NIL NIL NIL)'
    )
    assert summary.body == (
        b'((("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 5 0)'
        b'("TEXT" "HTML" ("CHARSET" "utf-8") NIL NIL "QUOTED-PRINTABLE" 13 1) "ALTERNATIVE")'
        b'("MESSAGE" "RFC822" NIL NIL NIL "7BIT" 39 '
        b'(NIL "inner" ((NIL NIL "c" "d")) ((NIL NIL "c" "d")) ((NIL NIL "c" "d")) NIL NIL NIL NIL NIL) '
        b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 10 0) 3)'
        b'("IMAGE" "PNG" ("NAME*0*" "utf-8\'\'a%20" "NAME*1" "b.png") "<x@y>" NIL "BASE64" 4)'
        b' "MIXED")'
    )


def test_the_body_is_told_from_a_structure_that_holds_literals_and_quotes() -> None:
    message = wire('Content-Type: text/plain; name="(é\\") x"\nContent-Description: a "b" (\n\nx\n')
    summary = summarize(message)
    assert body_of(summary.structure) == summary.structure.removesuffix(b" NIL NIL NIL NIL)") + b")"


def test_a_multipart_without_its_delimiters_still_shows_its_text() -> None:
    # RFC 3501 §7.4.2: a multipart has at least one part
    for head in (b'multipart/mixed; boundary="x"', b"multipart/mixed"):
        data = b"Content-Type: " + head + b"\r\n\r\ncut off\r\n"
        assert summarize(data).structure.startswith(
            b'(("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 9 1 NIL NIL NIL NIL) "MIXED"'
        )


def test_a_digest_holds_messages_by_default() -> None:
    data = wire("Content-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: s\n\nhello\n--d--\n")
    part = parse_structure(data)
    assert (part.parts[0].type, part.parts[0].subtype) == (b"message", b"rfc822")
    inner = part.parts[0].parts[0]
    assert data[inner.body : inner.end] == b"hello"


def test_an_unended_inner_multipart_ends_with_the_outer_one() -> None:
    data = wire(
        "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\n"
        "--i\n\nfirst\n--o\n\nsecond\n--o--\n"
    )
    part = parse_structure(data)
    assert [data[p.body : p.end] for p in part.parts[0].parts] == [b"first"]
    assert data[part.parts[1].body : part.parts[1].end] == b"second"


def test_depth_and_number_of_parts_are_bounded() -> None:
    deep = b""
    for level in range(MAX_DEPTH * 3):
        deep += b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
    summary = summarize(deep)
    assert summary.structure.count(b'"MIXED"') == MAX_DEPTH
    nested = b"Content-Type: message/rfc822\r\n\r\n" * 2000
    assert summarize(nested).structure.count(b'"RFC822"') == MAX_DEPTH
    wide = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * (MAX_PARTS * 3)
    assert len(list(parse_structure(wide).walk())) <= MAX_PARTS + 1


def test_lines_that_only_look_like_delimiters_do_not_end_a_part() -> None:
    data = wire("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--bb\n--b y\n --b\n--\n--b--\n")
    (only,) = parse_structure(data).parts
    assert data[only.body : only.end] == b"x\r\n--bb\r\n--b y\r\n --b\r\n--"


def test_header_fields_are_copied_octet_for_octet() -> None:
    # RFC 3501 §6.4.5: HEADER.FIELDS keeps order, duplicates, spelling, folding and ends with an empty line
    data = b"Received: 1\r\nsubject : S\r\n more\r\nX: y\r\nReceived:\t2\r\n\r\nbody\r\n"
    assert (
        pick(data, [b"RECEIVED", b"Subject"])
        == b"Received: 1\r\nsubject : S\r\n more\r\nReceived:\t2\r\n\r\n"
    )
    assert pick(data, [b"received"], invert=True) == b"subject : S\r\n more\r\nX: y\r\n\r\n"
    assert pick(data, [b"nothing"]) == b"\r\n"
    assert [(f.name, data[f.value : f.end]) for f in fields(data)] == [
        (b"received", b" 1\r\n"),
        (b"subject", b" S\r\n more\r\n"),
        (b"x", b" y\r\n"),
        (b"received", b"\t2\r\n"),
    ]


def test_the_body_begins_after_the_first_empty_line() -> None:
    assert body_offset(b"\r\nbody") == 2
    assert body_offset(b"A: b\r\n\r\n") == 8
    assert body_offset(b"A: b\r\n") == 6
    assert body_offset(b"") == 0
    assert body_offset(b"A: b\n\nnot a line end\r\n\r\nx") == 24


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        (b"Sat, 14 Nov 2026 10:00:00 +0100", 1794646800),
        (b"14 Nov 2026 10:00 +0100", 1794646800),
        (b"Sat,14 Nov 26 09:00:00 GMT", 1794646800),
        (b"Sat, 14 Nov 2026 04:00:00 EST (comment)", 1794646800),
        (b"Thu, 1 Jan 1970 00:00:00 -0000", 0),
        (b"nonsense", None),
        (b"31 Feb 2020 10:00:00 +0000", None),
        (b"", None),
    ],
)
def test_dates_that_mailers_write_are_understood(text: bytes, stamp: int | None) -> None:
    assert parse_date(text) == stamp


def test_imap_dates_both_ways() -> None:
    assert parse_date_time(b"14-Nov-2026 10:00:00 +0100") == 1794646800
    assert parse_date_time(b" 1-Jan-1970 00:00:00 +0000") == 0
    assert parse_date_time(b"31-Feb-2020 10:00:00 +0000") is None
    assert parse_date_time(b"1-Jan-1970 00:00:00 +0000") is None
    assert date_time(0) == b'" 1-Jan-1970 00:00:00 +0000"'
    assert parse_search_date(b"2-Jan-1970") == 1
    assert parse_search_date(b"30-Feb-1970") is None
    assert parse_day(b"Fri, 2 Jan 1970 23:59:00 -1200") == 1


@pytest.mark.parametrize(
    ("subject", "base"),
    [
        # RFC 5256 §2.1
        (b"Re: Re[2]: [list] Hello (fwd)", "HELLO"),
        (b"[Fwd: Re: hello]", "HELLO"),
        (b"[a][b] fw: x", "X"),
        (b"[only]", "[ONLY]"),
        (b"Re:", ""),
        (b"=?utf-8?q?Re=3A_d=C3=A9j=C3=A0?=", "DÉJÀ"),
        (b"Reply to all", "REPLY TO ALL"),
        (b"re : \t  spaced   out", "SPACED OUT"),
    ],
)
def test_base_subjects(subject: bytes, base: str) -> None:
    assert base_subject(subject) == base


def test_encoded_words_are_decoded_for_searching() -> None:
    assert decode_words(b"=?iso-8859-1?q?Andr=E9?= <a@b>") == "André <a@b>"
    assert decode_words(b"=?utf-8?b?w6k=?= =?utf-8?b?w6k=?=") == "éé"
    assert decode_words(b"=?utf-8?b?w6?= =?utf-8*fr?b?qQ==?=")
    assert decode_words(b"=?no-such?q?x=41?=") == "xA"
    assert decode_words(b"\xe9") == "é"
    assert decode(b"ab", "zip") == "ab"
    assert decode(b"a" * 9, "idna") == "a" * 9
    assert decode_body(b"w6k=\r\n", b"BASE64") == "é".encode()
    assert decode_body(b"a=3Db=\r\nc", b"quoted-printable") == b"a=bc"
    assert decode_body(b"w6k=w", b"base64")


def test_message_ids_for_threads() -> None:
    summary = summarize(
        b"Message-ID: <a@b> x\r\nIn-Reply-To: Your <c@d> of today\r\nReferences: <1@x>\r\n <2@x>\r\n\r\n"
    )
    assert (summary.message_id, summary.in_reply_to, summary.references) == (
        b"<a@b>",
        b"<c@d>",
        (b"<1@x>", b"<2@x>"),
    )
