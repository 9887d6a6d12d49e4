"""ARC seals on what aliases and filters of ours send on to other servers (RFC 8617 §5.1).

One call a message, :meth:`Sealer.seal`, by intake before such a message is queued: the three fields of one
more set, to put above everything else, or nothing where no domain of ours has an RSA key, or where the chain
that came with the message is broken (whoever gets it sees that it is; a seal of ours would not mend it). What
the set tells is our own Authentication-Results field. Small bodies are hashed at once, large ones in a
thread. Fails only where the content cannot be read.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from lorrainemail.interfaces import IContent, IResolver
from lorrainemail.mailauth.arc import MAX_SETS, ArcVerifier, chain_of
from lorrainemail.mailauth.authres import is_by
from lorrainemail.mailauth.canonical import Form, canonical_field
from lorrainemail.mailauth.dkim import InThread, body_hashes, header_hash
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.keys import KeyRing, SigningKey
from lorrainemail.mailauth.signing import folded, signed_names

#: Octets of our own results that are passed on.
MAX_RESULTS: Final = 8192
#: Characters of a line of base64.
LINE: Final = 72

_FORM: Final[Form] = "relaxed"


class Sealer:
    """Seals.

    :param keys: the keys by domain.
    :param resolver: for the chain that a message brings; None: messages that bring one are not sealed.
    :param in_thread: runs a function in a thread.
    :param hostname: our name, the authserv-id.
    """

    def __init__(
        self,
        keys: KeyRing,
        resolver: IResolver | None,
        clock: IReactorTime,
        in_thread: InThread[dict[Form, bytes]],
        hostname: str,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._in_thread = in_thread
        self._hostname = hostname
        self._wall_clock = wall_clock
        self._verifier = None
        if resolver is not None:
            self._verifier = ArcVerifier(resolver, clock, in_thread, wall_clock)

    async def seal(self, content: IContent, domains: Iterable[str]) -> bytes:
        """The fields of one more set, b"" for none.

        :param content: the message as it goes on, with what we put above it.
        :param domains: of those who send it on; one of them, or our own name's, seals.
        """
        if self._keys.empty:
            return b""
        key = self._key((*domains, self._hostname))
        if key is None:
            return b""
        header = Header(content)
        if not header.whole:
            return b""
        before = b""
        number, verdict = 1, "none"
        if any(field.name == b"arc-seal" for field in header.fields):
            chain = None if self._verifier is None else await self._verifier.verify(content, header)
            if chain is None or chain.result != "pass" or chain.sets >= MAX_SETS:
                return b""
            number, verdict = chain.sets + 1, "pass"
            before = chain_of(header)
        results = self._results(header, number)
        hashes = await body_hashes(content, header, (_FORM,), self._in_thread)
        when = int(self._wall_clock())
        signature = _message_signature(header, key, hashes[_FORM], number, when)
        return _seal(key, before, results, signature, number, verdict, when) + signature + results

    def _key(self, domains: Iterable[str]) -> SigningKey | None:
        """The RSA key of the first domain, or of one above it, that has one: all verifiers know RSA."""
        for domain in domains:
            while domain:
                for key in self._keys.keys(domain):
                    if key.kind == "rsa":
                        return key
                domain = domain.partition(".")[2]
        return None

    def _results(self, header: Header, number: int) -> bytes:
        """Our own Authentication-Results as those of the set (RFC 8617 §4.1.1)."""
        told = f" {self._hostname}; none".encode()
        for field in header.fields:
            value = header.data[field.value : field.end]
            if field.name == b"authentication-results" and is_by(value, self._hostname):
                if len(value) <= MAX_RESULTS:
                    told = value.removesuffix(b"\r\n")
                break
        return b"ARC-Authentication-Results: i=%d;" % number + told + b"\r\n"


def _message_signature(header: Header, key: SigningKey, body: bytes, number: int, when: int) -> bytes:
    """RFC 8617 §4.1.2."""
    present = [field.name for field in header.fields]
    names = [*signed_names(present), *[b"dkim-signature"] * min(present.count(b"dkim-signature"), 8)]
    value = (
        f" i={number}; a=rsa-sha256; c=relaxed/relaxed;\r\n"
        f"\td={key.domain}; s={key.selector}; t={when};\r\n"
        f"\th={folded(names)};\r\n"
        f"\tbh={base64.b64encode(body).decode('ascii')};\r\n"
        "\tb="
    ).encode("ascii")
    own = canonical_field(b"", b"arc-message-signature", value, _FORM)
    signature = key.sign(header_hash(header, names, _FORM, own))
    return b"ARC-Message-Signature:" + value + _lines(signature)


def _seal(
    key: SigningKey, before: bytes, results: bytes, signature: bytes, number: int, verdict: str, when: int
) -> bytes:
    """RFC 8617 §4.1.3, §5.1.1: it signs all sets, its own last, in the order in which they were made."""
    value = (
        f" i={number}; a=rsa-sha256; cv={verdict}; d={key.domain};\r\n\ts={key.selector}; t={when};\r\n\tb="
    ).encode("ascii")
    hashed = hashlib.sha256(before)
    for field in (results, signature):
        name, _, rest = field.partition(b":")
        hashed.update(canonical_field(field, name.lower(), rest, _FORM) + b"\r\n")
    hashed.update(canonical_field(b"", b"arc-seal", value, _FORM))
    return b"ARC-Seal:" + value + _lines(key.sign(hashed.digest()))


def _lines(signature: bytes) -> bytes:
    text = base64.b64encode(signature)
    return b"\r\n\t".join(text[start : start + LINE] for start in range(0, len(text), LINE)) + b"\r\n"
