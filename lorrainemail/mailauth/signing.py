"""DKIM signing of what our own users send (RFC 6376 §5, RFC 8463).

One call a message, :meth:`Signer.sign`, by the submission doors when the message is complete: the fields to
put above it, one for each key of the From domain or of the nearest domain above it, or nothing where there
are none. Our own notices are signed by the same call, from intake. Relayed mail of others never comes here.
Small bodies are hashed at once, large ones in a thread.

Signed are, once more than they occur, so that nobody can add another: From, Reply-To, Subject, To, Cc; and,
where they occur, those of :data:`SIGNED`. Fails only where the content cannot be read.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import Final

from lorrainemail.interfaces import IContent
from lorrainemail.mailauth.authors import author_domains
from lorrainemail.mailauth.canonical import Form, canonical_field
from lorrainemail.mailauth.dkim import InThread, body_hashes, header_hash
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.keys import KeyRing, SigningKey

#: Signed once more than they occur, whether they do or not (RFC 6376 §5.4.2).
OVERSIGNED: Final = (b"from", b"reply-to", b"subject", b"to", b"cc")
#: Signed where they occur, then once more too: there is at most one of each (RFC 5322 §3.6).
OVERSIGNED_IF_THERE: Final = (
    b"sender",
    b"date",
    b"message-id",
    b"in-reply-to",
    b"references",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
)
#: Signed as often as they occur.
SIGNED: Final = (
    b"resent-from",
    b"resent-to",
    b"resent-cc",
    b"resent-date",
    b"resent-message-id",
    b"list-id",
    b"list-post",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
    b"autocrypt",
)
#: Fields of one name that are signed; more are not ours to vouch for.
MAX_OF_ONE: Final = 20
#: Characters of a line of the field.
LINE: Final = 76

_FORM: Final[Form] = "relaxed"


class Signer:
    """Signs.

    :param keys: the keys by domain.
    :param in_thread: runs a function in a thread.
    """

    def __init__(
        self,
        keys: KeyRing,
        in_thread: InThread[dict[Form, bytes]],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._in_thread = in_thread
        self._wall_clock = wall_clock

    async def sign(self, content: IContent) -> bytes:
        """The signature fields of a message, b"" where there is no key for it."""
        if self._keys.empty:
            return b""
        header = Header(content)
        if not header.whole:
            return b""
        domains = author_domains(header)
        # Several authors: the first one's domain, which is where a reader looks.
        keys = self._keys_for(domains[0]) if domains else ()
        if not keys:
            return b""
        hashes = await body_hashes(content, header, (_FORM,), self._in_thread)
        names = signed_names([field.name for field in header.fields])
        when = int(self._wall_clock())
        return b"".join(signature_field(header, key, names, hashes[_FORM], when) for key in keys)

    def _keys_for(self, domain: str) -> tuple[SigningKey, ...]:
        """The domain's own keys, or those of the nearest domain above it, which is aligned with it unless it
        says otherwise (RFC 9989 §4.4)."""
        while domain:
            keys = self._keys.keys(domain)
            if keys:
                return keys
            domain = domain.partition(".")[2]
        return ()


def signed_names(present: Sequence[bytes]) -> list[bytes]:
    """What h= names, in order."""
    names: list[bytes] = []
    for name in OVERSIGNED:
        names += [name] * (min(present.count(name), MAX_OF_ONE) + 1)
    for name in OVERSIGNED_IF_THERE:
        count = present.count(name)
        if count:
            names += [name] * (min(count, MAX_OF_ONE) + 1)
    for name in SIGNED:
        names += [name] * min(present.count(name), MAX_OF_ONE)
    return names


def signature_field(
    header: Header, key: SigningKey, names: Sequence[bytes], body_hash: bytes, when: int
) -> bytes:
    """One whole DKIM-Signature field."""
    value = (
        f" v=1; a={key.kind}-sha256; c=relaxed/relaxed;\r\n"
        f"\td={key.domain}; s={key.selector}; t={when};\r\n"
        f"\th={folded(names)};\r\n"
        f"\tbh={base64.b64encode(body_hash).decode('ascii')};\r\n"
        "\tb="
    ).encode("ascii")
    own = canonical_field(b"", b"dkim-signature", value, _FORM)
    signature = base64.b64encode(key.sign(header_hash(header, names, _FORM, own))).decode("ascii")
    lines = [signature[: LINE - 4]]
    lines += [signature[start : start + LINE - 2] for start in range(LINE - 4, len(signature), LINE - 2)]
    return b"DKIM-Signature:" + value + "\r\n\t".join(lines).encode("ascii") + b"\r\n"


def folded(names: Sequence[bytes]) -> str:
    """What h= names, in lines."""
    lines, line = [], ""
    for name in names:
        text = name.decode("ascii")
        if line and len(line) + len(text) > LINE - 10:
            lines.append(line + ":")
            line = text
        else:
            line = f"{line}:{text}" if line else text
    return "\r\n\t ".join([*lines, line])
