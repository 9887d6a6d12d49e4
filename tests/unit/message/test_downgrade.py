"""8-bit mail for servers of before 1994: what a person or a program decodes from it stays the same."""

from __future__ import annotations

import email
import email.policy

import pytest

from lorrainemail.message.downgrade import CannotDowngrade, downgraded

SIGNED = (
    b"MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=s; protocol=x\r\n"
    b"\r\n--s\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nd\xc3\xa9j\xc3\xa0\r\n--s\r\n"
    b"Content-Type: application/pgp-signature\r\n\r\nabc\r\n--s--\r\n"
)


def converted(data: bytes) -> bytes:
    out = b"".join(downgraded(data))
    assert out.isascii()
    assert out.count(b"\r") == out.count(b"\n") == out.count(b"\r\n")
    assert max(map(len, out.split(b"\r\n"))) <= 998
    return out


def texts(data: bytes) -> list[tuple[str, bytes]]:
    """The type and decoded body of each leaf."""
    message = email.message_from_bytes(data, policy=email.policy.SMTP)
    return [
        (part.get_content_type(), part.get_payload(decode=True))
        for part in message.walk()
        if not part.is_multipart()
    ]


def test_text_is_the_same_after_decoding() -> None:
    head = (
        b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\nContent-Type: text/plain; charset=utf-8\r\n"
    )
    body = "Déjà vu \r\n.\r\n\r\nFrom here=there\r\n".encode() + b"x" * 3000 + "é\r\n".encode()
    out = converted(head + b"Subject: x\r\n\r\n" + body)
    assert b"\r\nContent-Type: text/plain; charset=utf-8\r\nSubject: x\r\n" in out
    assert out.lower().count(b"content-transfer-encoding") == 1
    assert texts(out) == [("text/plain", body)]


@pytest.mark.parametrize(("body", "charset"), [(b"d\xc3\xa9\r\n", b"utf-8"), (b"d\xe9\r\n", b"unknown-8bit")])
def test_mail_of_before_mime_becomes_mime(body: bytes, charset: bytes) -> None:
    out = converted(b"Subject: x\r\n\r\n" + body)
    assert out.startswith(
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=" + charset + b"\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    assert texts(out)[0][1] == body
    assert converted(b"\r\n" + body).startswith(b"MIME-Version: 1.0\r\n")


def test_only_parts_with_8_bit_octets_are_touched() -> None:
    blob = bytes(range(128, 256)) * 3000
    data = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"
        b"Content-Transfer-Encoding: 8bit\r\n\r\npream\r\n--b\r\nX-First: 1\r\n\r\nplain =20 text\r\n--b\r\n"
        b"Content-Type: text/html; charset=iso-8859-1\r\n\r\n<p>d\xe9\r\n--b\r\n"
        b"Content-Type: image/png\r\ncontent-transfer-ENCODING: binary\r\n\r\n"
        + blob
        + b"\r\n--b--\r\nepilogue\r\n"
    )
    out = converted(data)
    assert (
        b"\r\nContent-Transfer-Encoding: 7bit\r\n\r\npream\r\n--b\r\nX-First: 1\r\n\r\nplain =20 text\r\n--"
        in out
    )
    assert b"Content-Transfer-Encoding: base64\r\n\r\ngIGC" in out and out.endswith(b"--b--\r\nepilogue\r\n")
    assert texts(out) == [("text/plain", b"plain =20 text"), ("text/html", b"<p>d\xe9"), ("image/png", blob)]


def test_a_message_within_a_message_is_converted_inside() -> None:
    data = (
        b"MIME-Version: 1.0\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        b"Subject: inner\r\n\r\nd\xc3\xa9\r\n"
    )
    out = converted(data)
    assert out == (
        b"MIME-Version: 1.0\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
        b"Subject: inner\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\nd=C3=A9\r\n"
    )


@pytest.mark.parametrize(
    "data",
    [
        SIGNED,
        SIGNED.replace(b"signed", b"encrypted"),
        b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n" + SIGNED + b"\r\n--o--\r\n",
        "Subject: Déjà\r\n\r\ndéjà\r\n".encode(),
        "Subject: Déjà\r\n\r\nx\r\n".encode(),
        b"Content-Type: multipart/mixed; boundary=o\r\n\r\npr\xe9\r\n--o\r\n\r\nx\r\n--o--\r\n",
        b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\r\nx\r\n--o--\r\n\xe9pi\r\n",
        b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\nX: \xe9\r\n\r\nx\xe9\r\n--o--\r\n",
        b"Content-Type: multipart/mixed; boundary=none\r\n\r\nd\xe9j\xe0\r\n",
        b"Content-Type: message/partial; id=1\r\n\r\nd\xe9j\xe0\r\n",
        b"Content-Transfer-Encoding: base64\r\n\r\nd\xe9j\xe0\r\n",
        (b"Content-Type: message/rfc822\r\n\r\n" * 60) + b"\r\nd\xe9j\xe0\r\n",
    ],
)
def test_what_may_not_be_converted_is_not(data: bytes) -> None:
    with pytest.raises(CannotDowngrade):
        downgraded(data)


def test_a_signed_part_without_8_bit_octets_does_not_stand_in_the_way() -> None:
    signed = SIGNED.replace(b"d\xc3\xa9j\xc3\xa0", b"deja")
    data = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n"
        + signed
        + b"\r\n--o\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nd\xc3\xa9\r\n--o--\r\n"
    )
    out = converted(data)
    assert signed in out and b"d=C3=A9\r\n--o--" in out
