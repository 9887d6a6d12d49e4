"""The grammar of SMTP commands."""

from __future__ import annotations

import pytest

from lorrainemail.addresses import Address
from lorrainemail.envelope import Parameter
from lorrainemail.errors import PermanentError
from lorrainemail.grammar.smtp import (
    MAIL_PARAMETERS,
    RCPT_PARAMETERS,
    decode_xtext,
    encode_xtext,
    is_well_formed_greeting,
    parse_auth,
    parse_greeting,
    parse_mail,
    parse_rcpt,
    split_command,
)

CAROLE = Address("carole", "elorac.fr")
BASIC = frozenset({"SIZE", "BODY"})


def mail_refused(argument: bytes, offered: frozenset[str] = MAIL_PARAMETERS) -> str:
    with pytest.raises(PermanentError) as caught:
        parse_mail(argument, offered)
    return f"{caught.value.reply.code} {caught.value.reply.enhanced}"


def rcpt_refused(argument: bytes, smtputf8: bool = False) -> str:
    with pytest.raises(PermanentError) as caught:
        parse_rcpt(argument, RCPT_PARAMETERS, smtputf8)
    return f"{caught.value.reply.code} {caught.value.reply.enhanced}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"QUIT", (b"QUIT", b"")),
        (b"quit ", (b"QUIT", b"")),
        (b"noop\t", (b"NOOP", b"")),
        (b"MAIL FROM:<>", (b"MAIL", b"FROM:<>")),
        (b"EHLO  a.b \t", (b"EHLO", b"a.b")),
        (b"", (b"", b"")),
        (b"\xff\xfe x", (b"\xff\xfe", b"x")),
    ],
)
def test_verb_and_argument(line: bytes, expected: tuple[bytes, bytes]) -> None:
    assert split_command(line) == expected


@pytest.mark.parametrize(
    ("argument", "sender"),
    [
        (b"FROM:<carole@elorac.fr>", CAROLE),
        (b"from:<carole@ELORAC.fr>", CAROLE),
        (b"FROM: <carole@elorac.fr>", CAROLE),
        (b"FROM:<@a.example,@[192.0.2.1]:carole@elorac.fr>", CAROLE),
        (b"FROM:<>", None),
        (b'FROM:<"john doe"@elorac.fr>', Address("john doe", "elorac.fr")),
        (b'FROM:<"a@b>c\\"d"@elorac.fr>', Address('a@b>c"d', "elorac.fr")),
        (b"FROM:<x@[192.0.2.1]>", Address("x", "[192.0.2.1]")),
        (b"FROM:<x@[IPv6:2001:DB8::1]>", Address("x", "[IPv6:2001:db8::1]")),
        (b"FROM:<user%host@ours.example>", Address("user%host", "ours.example")),
    ],
)
def test_reverse_path(argument: bytes, sender: Address | None) -> None:
    assert parse_mail(argument, BASIC).sender == sender


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (b"", "501 5.5.4"),
        (b"TO:<a@b>", "501 5.5.4"),
        (b"FROM:carole@elorac.fr", "501 5.1.7"),
        (b"FROM:<carole@elorac.fr", "501 5.1.7"),
        (b"FROM:<carole>", "501 5.1.7"),
        (b"FROM:<postmaster>", "501 5.1.7"),
        (b"FROM:<a b@c.d>", "501 5.1.7"),
        (b"FROM:<a..b@c.d>", "501 5.1.7"),
        (b"FROM:<a@c..d>", "501 5.1.7"),
        (b"FROM:<a@[300.1.1.1]>", "501 5.1.7"),
        (b"FROM:<a\0@c.d>", "501 5.1.7"),
        (b'FROM:<"a\rb"@c.d>', "501 5.1.7"),
        (b"FROM:<" + b"l" * 65 + b"@c.d>", "501 5.1.7"),
        (b"FROM:<a@" + b"d" * 300 + b">", "501 5.1.7"),
        (b"FROM:<a@b.c>SIZE=1", "501 5.5.4"),
        (b"FROM:<a@b.c> =1", "501 5.5.4"),
        (b"FROM:<a@b.c> SIZE=1 SIZE=2", "501 5.5.4"),
        (b"FROM:<a@b.c> SIZE", "501 5.5.4"),
        (b"FROM:<a@b.c> SIZE=1x", "501 5.5.4"),
        (b"FROM:<a@b.c> SIZE=-1", "501 5.5.4"),
        (b"FROM:<a@b.c> SIZE=" + b"1" * 21, "501 5.5.4"),
        (b"FROM:<a@b.c> BODY=BINARYMIME", "501 5.5.4"),
        (b"FROM:<a@b.c> SMTPUTF8=1", "501 5.5.4"),
        (b"FROM:<a@b.c> RET=ALL", "501 5.5.4"),
        (b"FROM:<a@b.c> ENVID=+0A", "501 5.5.4"),
        (b"FROM:<a@b.c> ENVID=+zz", "501 5.5.4"),
        (b"FROM:<a@b.c> ENVID=" + b"e" * 101, "501 5.5.4"),
        (b"FROM:<a@b.c> AUTH=+", "501 5.5.4"),
        (b"FROM:<a@b.c> SOLICIT=x", "555 5.5.4"),
        (b"FROM:<a@b.c> X-Y", "555 5.5.4"),
        (b"FROM:<\xff@b.c>", "501 5.1.7"),
        ("FROM:<é@b.c>".encode(), "553 5.6.7"),
        ("FROM:<a@é.c> SIZE=1".encode(), "553 5.6.7"),
    ],
)
def test_bad_mail_says_what_is_wrong(argument: bytes, reply: str) -> None:
    assert mail_refused(argument) == reply


def test_parameter_that_the_door_does_not_offer_is_refused() -> None:
    assert mail_refused(b"FROM:<a@b.c> RET=FULL", BASIC) == "555 5.5.4"
    assert mail_refused("FROM:<é@b.c> SMTPUTF8".encode(), BASIC) == "555 5.5.4"


def test_every_mail_parameter_is_understood_and_kept() -> None:
    command = parse_mail(
        "FROM:<é@münchen.example> size=1000 BODY=8bitmime SMTPUTF8 RET=hdrs ENVID=a+2Bb AUTH=c+3Dd".encode(),
        MAIL_PARAMETERS,
    )
    assert command.sender == Address("é", "xn--mnchen-3ya.example")
    assert (command.size, command.body, command.smtputf8) == (1000, "8BITMIME", True)
    assert (command.ret, command.envid, command.auth) == ("HDRS", "a+b", "c=d")
    assert command.parameters[:2] == (Parameter("SIZE", "1000"), Parameter("BODY", "8bitmime"))
    assert parse_mail(b"FROM:<a@b.c> AUTH=<>", MAIL_PARAMETERS).auth == "<>"


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        (b"TO:<bob@bricoleur.com>", Address("bob", "bricoleur.com")),
        (b"TO:<@relay.example:bob@bricoleur.com>", Address("bob", "bricoleur.com")),
        (b"TO:<Postmaster>", Address("Postmaster", "")),
        (b"TO:<postmaster@bricoleur.com>", Address("postmaster", "bricoleur.com")),
    ],
)
def test_forward_path(argument: bytes, address: Address) -> None:
    assert parse_rcpt(argument, frozenset(), False).address == address


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (b"TO:<>", "501 5.1.3"),
        (b"TO:<bob>", "501 5.1.3"),
        (b"TO:bob@bricoleur.com", "501 5.1.3"),
        (b"FROM:<bob@bricoleur.com>", "501 5.5.4"),
        (b"TO:<a@b.c> SIZE=1", "555 5.5.4"),
        (b"TO:<a@b.c> NOTIFY=NEVER,DELAY", "501 5.5.4"),
        (b"TO:<a@b.c> NOTIFY=DELAY,NEVER", "501 5.5.4"),
        (b"TO:<a@b.c> NOTIFY=DELAY,DELAY", "501 5.5.4"),
        (b"TO:<a@b.c> NOTIFY", "501 5.5.4"),
        (b"TO:<a@b.c> ORCPT=rfc822", "501 5.5.4"),
        (b"TO:<a@b.c> ORCPT=rfc822;", "501 5.5.4"),
        (b"TO:<a@b.c> ORCPT=rfc822;a+0D", "501 5.5.4"),
        (b"TO:<a@b.c> ORCPT=utf-8;\\x{D800}", "501 5.5.4"),
        (b"TO:<a@b.c> ORCPT=utf-8;\\x{FFFFFF}", "501 5.5.4"),
        ("TO:<é@b.c>".encode(), "553 5.6.7"),
    ],
)
def test_bad_rcpt_says_what_is_wrong(argument: bytes, reply: str) -> None:
    assert rcpt_refused(argument) == reply


def test_utf8_recipient_is_understood_under_smtputf8() -> None:
    command = parse_rcpt("TO:<jérôme@b.c> ORCPT=utf-8;jé\\x{20AC}@b.c".encode(), RCPT_PARAMETERS, True)
    assert command.address.local == "jérôme"
    assert command.orcpt == "utf-8;jé€@b.c"


def test_dsn_parameters_of_rcpt_are_kept() -> None:
    command = parse_rcpt(b"TO:<a@b.c> NOTIFY=success,DELAY ORCPT=rfc822;x+2By@z", RCPT_PARAMETERS, False)
    assert command.notify == ("SUCCESS", "DELAY")
    assert command.orcpt == "rfc822;x+y@z"
    assert len(command.parameters) == 2


@pytest.mark.parametrize("argument", [b"", b"a b", b"a\0b", b"\xc3\xa9.fr", b"x" * 256, b"\x7f"])
def test_greeting_that_is_no_word_is_refused(argument: bytes) -> None:
    with pytest.raises(PermanentError) as caught:
        parse_greeting(argument)
    assert caught.value.reply.code == 501


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("mail.elorac.fr", True),
        ("localhost", True),
        ("[192.0.2.1]", True),
        ("[IPv6:2001:db8::1]", True),
        ("WIN_HOST", True),
        ("[192.0.2.256]", False),
        ("a..b", False),
        ("-x.org", False),
        ("<a>", False),
        ("a/b", False),
    ],
)
def test_well_formed_greeting(name: str, good: bool) -> None:
    assert parse_greeting(name.encode()) == name
    assert is_well_formed_greeting(name) is good


def test_auth_argument() -> None:
    assert parse_auth(b"PLAIN") == (b"PLAIN", None)
    assert parse_auth(b"PLAIN =") == (b"PLAIN", b"=")
    assert parse_auth(b"login YQ==") == (b"login", b"YQ==")
    with pytest.raises(PermanentError):
        parse_auth(b"")


def test_xtext() -> None:
    assert encode_xtext("a+b=c é\n") == "a+2Bb+3Dc+20+C3+A9+0A"
    assert decode_xtext("a+2Bb+3Dc+20+C3+A9+0A") == "a+b=c é\n"
    for bad in ("a b", "a=b", "+2b", "+2", "+", "+FF", "é"):
        with pytest.raises(ValueError):
            decode_xtext(bad)
