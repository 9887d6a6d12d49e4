"""In whose name scripts write: their owner's, whatever they say."""

from __future__ import annotations

from email import message_from_bytes
from typing import Any

import attrs
import pytest

from lorrainemail.addresses import parse_address
from lorrainemail.sieve.effects import Context, Envelope, Keep, Redirect, Sent
from lorrainemail.sieve.language import compile_script
from lorrainemail.sieve.message import Message
from lorrainemail.sieve.run import run_program

MESSAGE = b"From: carole@elorac.fr\r\nTo: bob@bricoleur.com\r\nSubject: hi\r\n\r\nhello\r\n"
BOB = parse_address("bob@bricoleur.com")


def sent_by(script: str, **more: Any) -> Sent:
    context = Context(
        now=1.0, addresses=frozenset({"bob@bricoleur.com", "sales@bricoleur.com", "@shop.test"})
    )
    program = compile_script(script.encode(), lambda where, name: None)
    envelope = Envelope(parse_address("carole@elorac.fr"), BOB, "")
    result = run_program(program, Message.of(MESSAGE), envelope, attrs.evolve(context, **more))
    assert not result.error
    (found,) = [effect for effect in result.effects if isinstance(effect, Sent)]
    return found


@pytest.mark.parametrize(
    ("origin", "author"),
    [
        ("Bob <BOB@bricoleur.com>", "Bob <BOB@bricoleur.com>"),
        ("sales@bricoleur.com", "sales@bricoleur.com"),
        ("anybody@shop.test", "anybody@shop.test"),
        ("The Boss <boss@bricoleur.com>", "bob@bricoleur.com"),
        ("boss@elsewhere.test", "bob@bricoleur.com"),
        ("bob@bricoleur.com <boss@bricoleur.com>", "bob@bricoleur.com"),
        ("no address", "bob@bricoleur.com"),
    ],
)
@pytest.mark.parametrize(
    "script",
    [
        'require ["vacation", "variables"]; set "x" "%s"; vacation :from "${x}" "away";',
        'require ["enotify", "variables"]; set "x" "%s"; notify :from "${x}" "mailto:x@y.test?body=Pay";',
    ],
)
def test_from_is_an_address_of_the_account(script: str, origin: str, author: str) -> None:
    message = message_from_bytes(sent_by(script % origin).message)
    assert message.get_all("From") == [author]


def test_a_reply_in_mime_brings_no_other_fields_than_its_own() -> None:
    text = (
        'require "vacation"; vacation :mime "From: boss@bricoleur.com\r\nContent-Type: text/html;\r\n'
        ' charset=utf-8\r\nSubject: Pay\r\n now\r\nBcc: x@y.test\r\nMIME-Version: 1.0\r\n\r\n<p>away</p>";'
    )
    message = message_from_bytes(sent_by(text).message)
    assert message.get_all("From") == ["bob@bricoleur.com"]
    assert len(message.get_all("Subject", [])) == len(message.get_all("MIME-Version", [])) == 1
    assert message["Bcc"] is None
    assert message.get_content_type() == "text/html" and message.get_content_charset() == "utf-8"
    assert str(message.get_payload()).strip() == "<p>away</p>"


def test_a_reply_in_mime_without_fields_is_text() -> None:
    message = message_from_bytes(sent_by('require "vacation"; vacation :mime "\r\naway";').message)
    assert message.get_content_type() == "text/plain" and "away" in str(message.get_payload())


@pytest.mark.parametrize(
    "change",
    [
        'deleteheader "From"; addheader "From" "boss@bricoleur.com";',
        'addheader "FROM" "boss@bricoleur.com"; addheader "Sender" "boss@bricoleur.com";',
        'set "n" "from"; addheader :last "${n}" "boss@bricoleur.com"; addheader "x" "y";',
        'replace :from "boss@bricoleur.com" "pay";',
        'replace :mime "From: boss@bricoleur.com\r\nContent-Type: text/plain\r\n\r\npay";',
    ],
)
def test_what_is_sent_on_keeps_its_author(change: str) -> None:
    require = 'require ["editheader", "variables", "replace"]; '
    program = compile_script((require + change + ' redirect "x@y.test";').encode(), lambda where, name: None)
    context = Context(now=1.0, addresses=frozenset({"bob@bricoleur.com"}))
    result = run_program(program, Message.of(MESSAGE), Envelope(BOB, BOB, ""), context)
    assert not result.error
    (redirect,) = [effect for effect in result.effects if isinstance(effect, Redirect)]
    header = MESSAGE if redirect.version is None else redirect.version.header
    message = message_from_bytes(header)
    assert message.get_all("From") == ["carole@elorac.fr"] and message["Sender"] is None


def test_a_message_may_be_replaced_in_ones_own_name() -> None:
    script = b'require "replace"; replace :from "Sales <sales@bricoleur.com>" "text";'
    context = Context(now=1.0, addresses=frozenset({"sales@bricoleur.com"}))
    program = compile_script(script, lambda where, name: None)
    (keep,) = run_program(program, Message.of(MESSAGE), Envelope(BOB, BOB, ""), context).effects
    assert isinstance(keep, Keep) and keep.version is not None
    message = message_from_bytes(keep.version.header)
    assert message.get_all("From") == ["Sales <sales@bricoleur.com>"]
    assert message.get_all("Original-From") == ["carole@elorac.fr"]
