"""Conversion for servers without 8BITMIME: 7-bit and faithful, or refused, whatever the message."""

from __future__ import annotations

import email
import email.policy

from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.message.downgrade import CannotDowngrade, downgraded

lines = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"--b", b"--b--", b"", b"Content-Type: multipart/mixed; boundary=b",
                b"Content-Type: message/rfc822", b"Content-Type: multipart/signed; boundary=b",
                b"Content-Transfer-Encoding: 8bit", b"Content-Transfer-Encoding: base64",
                b"Content-Type: application/x", b"MIME-Version: 1.0", b"d\xc3\xa9", b"\xff", b".",
                b"x " * 600,
            ]
        ),
        st.binary(max_size=80).map(lambda octets: octets.replace(b"\r", b"").replace(b"\n", b"")),
    ),
    max_size=25,
)  # fmt: skip


@given(lines)
def test_nothing_8_bit_comes_out_of_any_message(message: list[bytes]) -> None:
    data = b"".join(line + b"\r\n" for line in message)
    try:
        out = b"".join(downgraded(data))
    except CannotDowngrade:
        return
    assert out.isascii()
    if data.isascii():
        assert out == data


@given(st.binary().map(lambda octets: octets.replace(b"\r", b"").replace(b"\n", b"\r\n")), st.booleans())
def test_a_part_decodes_to_what_it_was(body: bytes, text: bool) -> None:
    kind = b"text/plain; charset=utf-8" if text else b"application/x-any"
    data = b"MIME-Version: 1.0\r\nContent-Type: " + kind + b"\r\n\r\n" + body + b"\r\n"
    out = b"".join(downgraded(data))
    message = email.message_from_bytes(out, policy=email.policy.SMTP)
    assert message.get_payload(decode=True) == body + b"\r\n" or out == data
