"""What clients with and without UTF-8 get of internationalized messages (RFC 6856, RFC 6858), and LANG."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.message.header import body_offset
from lorrainemail.message.surrogate import NOWHERE, surrogate
from lorrainemail.pop3.wire import for_ascii, whole_answer
from lorrainemail.pop3.words import LANGUAGES, translated

MESSAGE = (
    "From: Édith <édith@bücher.example>\r\n"
    'To: bob@bricoleur.com, "Élise, B." <elise@example.org>, Team: zoé@x.example;\r\n'
    "Subject: Déjà vu, \r\n une longue ligne " + "é" * 60 + "\r\n"
    'Content-Type: text/plain; charset=utf-8; name="é.txt"\r\n'
    "X-Plain: stays  as it   is\r\n\r\nÇa va\r\n"
).encode()


def test_what_can_be_said_in_ascii_is_said_so() -> None:
    made = surrogate(MESSAGE[: body_offset(MESSAGE)])
    assert made.isascii() and made.endswith(b"\r\n\r\n")
    assert b"X-Plain: stays  as it   is\r\n" in made
    assert all(len(line) <= 78 for line in made.split(b"\r\n"))
    read = message_from_bytes(made, policy=policy.default)
    assert read["Subject"].startswith("Déjà vu,") and str(read["Subject"]).endswith("é" * 60)
    sender = read["From"].addresses[0]
    assert sender.addr_spec == NOWHERE and sender.display_name == "Édith édith@bücher.example"
    assert [(one.display_name, one.addr_spec) for one in read["To"].addresses] == [
        ("", "bob@bricoleur.com"),
        ("Élise, B.", "elise@example.org"),
        ("zoé@x.example", NOWHERE),
    ]


def test_headers_without_utf8_and_octets_that_are_none_stay_as_they_are() -> None:
    for header in (b"Subject: plain\r\n\r\n", b"Subject: caf\xe9 latin-1\r\n\r\n", b"\r\n"):
        assert surrogate(header) == header


@given(st.binary(max_size=400))
def test_any_message_keeps_its_body_and_becomes_no_other(octets: bytes) -> None:
    made = for_ascii(octets)
    at = octets.find(b"\r\n\r\n")
    if at >= 0 and not octets.startswith(b"\r\n"):
        assert made.endswith(octets[at + 2 :])
    if octets.isascii():
        assert made == octets


@given(st.text(max_size=200))
def test_any_subject_comes_back_from_its_surrogate(text: str) -> None:
    words = " ".join(("é" + "".join(c for c in text if c.isprintable())).split())
    made = surrogate(f"Subject: {words}\r\n\r\n".encode())
    assert made.isascii() and made.count(b"\r\n\r\n") == 1


def test_the_answer_says_the_size_of_what_is_sent() -> None:
    for utf8 in (False, True):
        first, _, rest = whole_answer(MESSAGE, utf8).partition(b"\r\n")
        assert first == b"+OK %d octets" % (len(rest) - len(b".\r\n"))
        assert (rest[: -len(b".\r\n")] == MESSAGE) is utf8


@pytest.mark.parametrize(
    ("english", "french"),
    [
        (b"[SYS/TEMP] Internal error, try again later", "[SYS/TEMP] Erreur interne, réessayez plus tard"),
        (b"3 messages (120 octets)", "3 messages (120 octets)"),
        (b"Message 12 deleted", "Message 12 supprimé"),
        (b"words of somebody else", "words of somebody else"),
        (b"2 1-abc", "2 1-abc"),
    ],
)
def test_people_read_their_language_and_programs_the_same_codes(english: bytes, french: str) -> None:
    assert translated(english, "fr").decode() == french
    assert translated(english, "en") == english
    assert set(LANGUAGES) == {"en", "fr"}
