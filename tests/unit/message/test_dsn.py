"""Notices, read back with the standard library's parser."""

from __future__ import annotations

import email
import email.message
import email.policy

import pytest

from lorrainemail.addresses import Address, parse_address
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.errors import Reply
from lorrainemail.message import dsn

ORIGINAL = (
    b"Received: from a by b;\r\n\tSun, 22 Nov 2026 07:00:00 +0000\r\n"
    b"Message-ID: <abc@elorac.fr>\r\nSubject: Bonjour\r\n\r\nSalut Bob,\r\nCarole\r\n"
)


def envelope(**more: object) -> Envelope:
    facts: dict[str, object] = {
        "id": "0123456789abcdefg",
        "sender": parse_address("carole@elorac.fr"),
        "recipients": (),
        "received_at": 1_790_000_000.0,
    }
    return Envelope(**{**facts, **more})  # type: ignore[arg-type]


def fate(address: str = "bob@bricoleur.com", **more: object) -> dsn.Fate:
    facts: dict[str, object] = {
        "recipient": Recipient(parse_address(address)),
        "action": "failed",
        "reply": Reply(550, "5.1.1", "no such user here"),
        "host": "mx.bricoleur.com",
        "last_attempt": 1_790_000_100.0,
    }
    return dsn.Fate(**{**facts, **more})  # type: ignore[arg-type]


def parsed(raw: bytes) -> email.message.EmailMessage:
    for line in raw.split(b"\r\n"):
        assert len(line) <= 998
        assert b"\n" not in line and b"\r" not in line
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, email.message.EmailMessage)
    assert not message.defects
    return message


def build(*fates: dsn.Fate, original: bytes = ORIGINAL, **more: object) -> email.message.EmailMessage:
    about = envelope(**more)
    part = original[: dsn.octets_wanted(about, len(original))]
    return parsed(dsn.build("mail.elorac.fr", "n1", about, fates, part, len(original), 1_790_000_200.0))


def parts(message: email.message.EmailMessage) -> list[email.message.EmailMessage]:
    found = list(message.iter_parts())
    assert len(found) == 3
    return found  # type: ignore[return-value]


def status_groups(message: email.message.EmailMessage) -> list[email.message.Message]:
    payload = parts(message)[1].get_payload()
    assert isinstance(payload, list)
    return payload


def test_a_mail_program_recognises_the_notice_as_a_report() -> None:
    message = build(fate())
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["To"] == "<carole@elorac.fr>" or "carole@elorac.fr" in message["To"]
    assert message["In-Reply-To"] == "<abc@elorac.fr>"
    kinds = [part.get_content_type() for part in message.iter_parts()]
    assert kinds == ["text/plain", "message/delivery-status", "text/rfc822-headers"]


def test_programs_find_every_recipient_with_status_and_reply() -> None:
    groups = status_groups(
        build(fate(), fate("anne@bricoleur.com", reply=Reply(552, "5.2.2", "full")), envid="E 1")
    )
    assert groups[0]["Reporting-MTA"] == "dns; mail.elorac.fr"
    assert groups[0]["Original-Envelope-Id"] == "E 1"
    assert groups[0]["X-Lorrainemail-Id"] == "0123456789abcdefg"
    assert [group["Final-Recipient"] for group in groups[1:]] == [
        "rfc822; bob@bricoleur.com",
        "rfc822; anne@bricoleur.com",
    ]
    assert [group["Status"] for group in groups[1:]] == ["5.1.1", "5.2.2"]
    assert groups[1]["Action"] == "failed"
    assert groups[1]["Remote-MTA"] == "dns; mx.bricoleur.com"
    assert groups[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user here"


def test_the_person_reads_both_languages_and_the_id() -> None:
    text = parts(build(fate()))[0].get_content()
    assert "could not be delivered" in text
    assert "n'a pas pu être remis" in text
    assert "bob@bricoleur.com" in text
    assert "no such user here" in text
    assert text.count("0123456789abcdefg") == 2


def test_a_delay_is_not_mistaken_for_a_failure() -> None:
    message = build(
        fate(action="delayed", reply=Reply(421, "4.4.1", "no answer"), retry_until=1_790_400_000.0)
    )
    group = status_groups(message)[1]
    assert (group["Action"], group["Status"]) == ("delayed", "4.4.1")
    assert group["Will-Retry-Until"]
    assert "need not send it again" in parts(message)[0].get_content()


def test_an_expired_message_carries_the_status_for_it() -> None:
    group = status_groups(build(fate(expired=True, reply=Reply(421, "4.4.1", "no answer"))))[1]
    assert (group["Action"], group["Status"]) == ("failed", "4.4.7")


def test_success_is_reported_as_delivered() -> None:
    group = status_groups(build(fate(action="delivered", reply=Reply(250, "2.0.0", "ok"))))[1]
    assert (group["Action"], group["Status"]) == ("delivered", "2.0.0")


def test_a_sender_who_asked_for_his_message_back_gets_it_byte_for_byte() -> None:
    about = envelope(ret="FULL")
    raw = dsn.build("m.example", "n", about, [fate()], ORIGINAL, len(ORIGINAL), 1.0)
    assert b"Content-Type: message/rfc822\r\n\r\n" + ORIGINAL + b"\r\n--" in raw
    assert parts(parsed(raw))[2].get_content_type() == "message/rfc822"


def test_a_large_message_is_not_sent_back_whole() -> None:
    large = ORIGINAL + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * (dsn.MAX_RETURNED_MESSAGE // 72)
    about = envelope(ret="FULL")
    wanted = dsn.octets_wanted(about, len(large))
    assert wanted <= dsn.MAX_RETURNED_HEADER
    raw = dsn.build("m.example", "n", about, [fate()], large[:wanted], len(large), 1.0)
    assert b"yyyy" not in raw
    assert b"Subject: Bonjour" in raw


def test_a_header_longer_than_what_is_returned_ends_at_a_line() -> None:
    original = (b"X-Pad: " + b"z" * 900 + b"\r\n") * 100
    message = build(fate(), original=original)
    returned = parts(message)[2].get_payload(decode=True)
    assert isinstance(returned, bytes)
    assert len(returned) > 60_000
    assert {len(line) for line in returned.rstrip().splitlines()} == {907}


def test_eight_bit_headers_come_back_in_a_seven_bit_notice() -> None:
    original = "Subject: Déjà vu\r\n\r\nx\r\n".encode()
    about = envelope()
    raw = dsn.build("m.example", "n", about, [fate()], original, len(original), 1.0)
    assert raw.isascii()
    returned = parts(parsed(raw))[2].get_payload(decode=True)
    assert isinstance(returned, bytes)
    assert "Déjà vu" in returned.decode()


def test_words_of_a_hostile_host_cannot_add_fields_or_parts() -> None:
    nasty = "no\r\nAction: delivered\r\n\r\n--=_x\x00\x1b[2J" + "é" * 50 + "w" * 5000
    message = build(fate(reply=Reply(550, "5.7.1", nasty), host="mx\r\nX: y"))
    groups = status_groups(message)
    assert len(groups) == 2
    assert groups[1].get_all("Action") == ["failed"]
    assert len(groups[1]["Diagnostic-Code"]) < dsn.MAX_DIAGNOSTIC + 200


def test_an_international_address_is_told_in_ascii() -> None:
    group = status_groups(build(fate("zoé@bricoleur.com")))[1]
    assert group["Final-Recipient"] == "utf-8; zo\\x{E9}@bricoleur.com"


def test_the_private_target_of_an_alias_is_not_told() -> None:
    hidden = Recipient(parse_address("secret@gmail.example"), original="sales@bricoleur.com")
    reply = Reply(550, "5.1.1", "<secret@gmail.example> unknown")
    raw = dsn.build(
        "m.example",
        "n",
        envelope(),
        [fate(recipient=hidden, reply=reply, concealed=True)],
        ORIGINAL,
        len(ORIGINAL),
        1.0,
    )
    assert b"secret" not in raw and b"gmail" not in raw
    assert b"sales@bricoleur.com" in raw


def test_the_boundary_never_occurs_in_what_is_returned() -> None:
    raw = dsn.build("m.example", "n", envelope(ret="FULL"), [fate()], ORIGINAL, len(ORIGINAL), 1.0)
    boundary = parsed(raw).get_boundary()
    assert boundary is not None
    assert raw.count(boundary.encode()) == 5  # declared once, three parts and the end


def test_the_null_reverse_path_never_gets_a_notice() -> None:
    with pytest.raises(ValueError, match="null"):
        dsn.build("m.example", "n", envelope(sender=None), [fate()], ORIGINAL, len(ORIGINAL), 1.0)


def test_the_postmaster_is_named() -> None:
    assert str(Address("postmaster", "mail.elorac.fr")) in parts(build(fate()))[0].get_content()


@pytest.mark.parametrize(
    ("field", "language"),
    [
        (b"Content-Language: fr\r\n", "fr"),
        (b"Content-Language: fr-CA, en\r\n", "fr"),
        (b"content-language:\r\n EN-us\r\n", "en"),
        (b"Accept-Language: de;q=0.3, fr;q=0.8, en;q=0.5\r\n", "fr"),
        (b"Accept-Language: fr\r\nContent-Language: en\r\n", "en"),
        (b"Accept-Language: frisian\r\n", ""),
        (b"Content-Language: de\r\n", ""),
        (b"Content-Language: ;q=9, \xff\r\n", ""),
        (b"", ""),
    ],
)
def test_a_sender_whose_language_is_known_is_written_to_in_it(field: bytes, language: str) -> None:
    message = build(fate(), original=field + ORIGINAL)
    text = parts(message)[0].get_content()
    assert ("Ici le serveur" in text) == (language != "en")
    assert ("This is the mail server" in text) == (language != "fr")
    assert str(message["Content-Language"] or "") == language
    subjects = {
        "fr": "Message non remis",
        "en": "Mail not delivered",
        "": "Mail not delivered (message non remis)",
    }
    assert message["Subject"] == subjects[language]


def test_the_sender_hears_what_he_can_do() -> None:
    text = parts(build(fate()))[0].get_content()
    assert "Check the spelling of the address" in text and "Vérifiez l'orthographe" in text
    late = parts(build(fate(action="delayed", reply=Reply(421, "4.4.1", "no connection"))))[0].get_content()
    assert "does not answer" in late and "another way" not in late
