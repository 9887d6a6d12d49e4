"""The SMTP grammar against a slow reference that reads RFC 5321 §4.1.2 character by character."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.addresses import Address
from lorrainemail.errors import PermanentError
from lorrainemail.grammar.smtp import (
    LONGEST_ORCPT,
    MAIL_PARAMETERS,
    RCPT_PARAMETERS,
    decode_xtext,
    encode_orcpt,
    encode_xtext,
    parse_greeting,
    parse_mail,
    parse_rcpt,
    split_command,
)

ATEXT = string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~"
LET_DIG = string.ascii_letters + string.digits


def reference(path: str) -> tuple[str, str] | None:
    """Local part (unquoted) and lower-case domain of ``<local@domain>``, None where it is none."""
    if not (path.startswith("<") and path.endswith(">")):
        return None
    text = path[1:-1]
    position = 0
    local = ""
    if text.startswith('"'):
        position = 1
        while position < len(text) and text[position] != '"':
            if text[position] == "\\":
                position += 1
                if position >= len(text):
                    return None
            if not 32 <= ord(text[position]) <= 126:
                return None
            local += text[position]
            position += 1
        position += 1
    else:
        while position < len(text) and text[position] != "@":
            local += text[position]
            position += 1
        if any(not atom or any(c not in ATEXT for c in atom) for atom in local.split(".")):
            return None
    if text[position : position + 1] != "@" or not 1 <= len(local) <= 64:
        return None
    domain = text[position + 1 :]
    for label in domain.split("."):
        # Underscores are no RFC 5321 letters; real names have them.
        if not 1 <= len(label) <= 63 or any(c not in LET_DIG + "-_" for c in label):
            return None
        if label[0] == "-" or label[-1] == "-":
            return None
    return (local, domain.lower()) if len(domain) <= 255 and len(text) <= 254 else None


near_miss = st.text(alphabet='ab.@<>"\\ -_1%!\0é', max_size=12)
atoms = st.text(alphabet=ATEXT, min_size=1, max_size=8)
dot_strings = st.lists(atoms, min_size=1, max_size=3).map(".".join)
quoted = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
domains = st.lists(labels, min_size=1, max_size=3).map(".".join)


@given(near_miss)
def test_paths_agree_with_the_reference(text: str) -> None:
    path = f"<{text}>"
    expected = reference(path)
    try:
        command = parse_mail(b"FROM:" + path.encode(), MAIL_PARAMETERS)
    except PermanentError as refusal:
        assert expected is None or "@" not in text
        assert 500 <= refusal.reply.code <= 555
    else:
        sender = command.sender
        if text == "":
            assert sender is None
        else:
            assert sender is not None
            assert (sender.local, sender.domain) == expected


@given(st.one_of(dot_strings, quoted), domains)
def test_written_addresses_are_read_back(local: str, domain: str) -> None:
    address = Address(local, domain)
    line = f"FROM:<{address}>".encode()
    assert parse_mail(line, frozenset()).sender == address
    assert parse_rcpt(f"TO:<@a.example,@b.example:{address}>".encode(), frozenset(), False).address == address


@given(st.binary(max_size=80))
def test_any_octets_give_a_value_or_a_reply(line: bytes) -> None:
    verb, argument = split_command(line)
    assert verb == verb.upper()
    for parse in (
        lambda: parse_mail(b"FROM:" + argument, MAIL_PARAMETERS),
        lambda: parse_mail(b"FROM:<a@b> " + argument, MAIL_PARAMETERS),
        lambda: parse_rcpt(b"TO:" + argument, RCPT_PARAMETERS, True),
        lambda: parse_rcpt(b"TO:<a@b> " + argument, RCPT_PARAMETERS, True),
        lambda: parse_rcpt(b"TO:<a@b> ORCPT=utf-8;" + argument, RCPT_PARAMETERS, True),
        lambda: parse_greeting(argument),
    ):
        try:
            parse()
        except PermanentError as refusal:
            assert "\n" not in refusal.reply.text
            assert "\r" not in refusal.reply.text


@given(st.text())
def test_xtext_is_undone(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return
    encoded = encode_xtext(text)
    assert encoded.isascii()
    assert decode_xtext(encoded) == text


@given(st.sampled_from(["rfc822", "utf-8", "UTF-8", "x400"]), st.text(min_size=1, max_size=40))
def test_orcpt_goes_on_as_it_came(kind: str, address: str) -> None:
    if not address.isprintable():
        return
    encoded = encode_orcpt(f"{kind};{address}")
    assert encoded.isascii()
    if len(encoded) <= LONGEST_ORCPT:
        line = f"TO:<a@b> ORCPT={encoded}".encode()
        assert parse_rcpt(line, RCPT_PARAMETERS, False).orcpt == f"{kind};{address}"
