"""ARC verification: whether the chain of those who handled a message before us is whole (RFC 8617 §5.2).

One call a message, :meth:`ArcVerifier.verify`, where it has ARC fields. It says who sealed last and that
nothing in the chain was changed since; whether to believe him is for others to say. Works on the same header
and body hashes as DKIM, with the same keys and limits (:mod:`lorrainemail.mailauth.dkim`).

Bounds: :data:`MAX_SETS` sets; each field is hashed twice at most; all keys are asked at once within the time
that DKIM has. Never fails but where the content cannot be read: whatever is wrong is the result "fail".
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection
from typing import Final, Literal

import attrs
from twisted.internet.interfaces import IReactorTime

from lorrainemail.addresses import AddressError, normalise_domain
from lorrainemail.interfaces import IContent, IResolver
from lorrainemail.mailauth.canonical import Form
from lorrainemail.mailauth.dkim import (
    DkimResult,
    InThread,
    before_hashing,
    body_hashes,
    fetch_keys,
    mismatch,
    without_signature,
)
from lorrainemail.mailauth.dkim_record import (
    NEEDED,
    Key,
    Signature,
    SignatureError,
    base64_of,
    signature_of,
    signature_tags,
)
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.tags import without_space
from lorrainemail.message.header import Field

#: RFC 8617 §4.2.1.
MAX_SETS: Final = 50

_RESULTS, _MESSAGE, _SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
_NAMES: Final = frozenset({_RESULTS, _MESSAGE, _SEAL})
_INSTANCE = re.compile(rb"[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]{1,2})[ \t\r\n]*;", re.IGNORECASE)
_COMMENT = re.compile(rb"\([^()]*\)|\"[^\"]*\"")
_PASSED = re.compile(rb"(?:\A|\s)dmarc\s*=\s*pass(?:\s|\Z)")
_FROM = re.compile(rb"\sheader\.from\s*=\s*([^\s;]+)")
_DIGITS = re.compile(rb"[0-9]{1,2}\Z")


@attrs.frozen(slots=True)
class ArcResult:
    """What a chain came to.

    :ivar sets: how many there are. ``sealer``: the domain that sealed last, "" where that is unknown.
    :ivar reason: what is wrong, in a few words.
    :ivar links: of a chain that passes, in order: who sealed each set, and the results that it tells.
    """

    result: Literal["none", "pass", "fail"]
    sets: int = 0
    sealer: str = ""
    reason: str = ""
    links: tuple[tuple[str, bytes], ...] = attrs.field(default=(), eq=False, repr=False)

    def vouches(self, trusted: Collection[str], author: str) -> str:
        """The sealer, all after him being trusted like himself, who saw DMARC pass for the author's domain;
        "" where none did."""
        for sealer, results in reversed(self.links):
            if sealer not in trusted:
                return ""
            for method in _COMMENT.sub(b" ", results).lower().split(b";"):
                if _PASSED.search(method) and _FROM.findall(method) == [author.encode("ascii", "replace")]:
                    return sealer
        return ""


class _Broken(Exception):
    """The chain does not hold; the text says why."""


@attrs.frozen(slots=True)
class _Seal:
    """One ARC-Seal."""

    domain: str
    selector: str
    algorithm: str
    verdict: str
    signature: bytes


class ArcVerifier:
    """Verifies chains.

    :param clock: for the bound in time.
    :param in_thread: runs a function in a thread.
    :param wall_clock: for expiry.
    """

    def __init__(
        self,
        resolver: IResolver,
        clock: IReactorTime,
        in_thread: InThread[dict[Form, bytes]],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._in_thread = in_thread
        self._wall_clock = wall_clock

    async def verify(self, content: IContent, header: Header) -> ArcResult:
        """The result for a message."""
        present = [field for field in header.fields if field.name in _NAMES]
        if not present:
            return ArcResult("none")
        sets, sealer = 0, ""
        try:
            if not header.whole:
                raise _Broken("the header is too large to be checked")
            chain = _collected(header, present)
            sets = len(chain)
            seals = [_seal(header, fields[_SEAL]) for fields in chain]
            sealer = seals[-1].domain
            _check_verdicts(seals)
            message = _message_signature(header, chain[-1][_MESSAGE])
            names = {(message.selector, message.domain), *[(one.selector, one.domain) for one in seals]}
            keys = await fetch_keys(self._resolver, self._clock, names)
            await self._check_message(content, header, chain[-1][_MESSAGE], message, keys)
            _check_seals(header, chain, seals, keys)
        except _Broken as broken:
            return ArcResult("fail", sets, sealer, str(broken))
        links = tuple(
            (seal.domain, header.data[fields[_RESULTS].value : fields[_RESULTS].end])
            for seal, fields in zip(seals, chain, strict=True)
        )
        return ArcResult("pass", sets, sealer, links=links)

    async def _check_message(
        self,
        content: IContent,
        header: Header,
        field: Field,
        signature: Signature,
        keys: dict[tuple[str, str], Key | DkimResult],
    ) -> None:
        key = keys[signature.selector, signature.domain]
        verdict = before_hashing(signature, key, self._wall_clock())
        if verdict is not None or not isinstance(key, Key):
            raise _Broken(verdict[1] if verdict else "no key")
        hashes = await body_hashes(content, header, (signature.body_form,), self._in_thread)
        wrong = mismatch(header, field, signature, key, hashes)
        if wrong:
            raise _Broken(f"since the last seal {wrong}")


def _collected(header: Header, present: list[Field]) -> list[dict[bytes, Field]]:
    """The sets in order, each with its three fields (RFC 8617 §5.2 steps 1 to 3)."""
    if len(present) > 3 * MAX_SETS:
        raise _Broken(f"there are more than {MAX_SETS} sets")
    sets: dict[int, dict[bytes, Field]] = {}
    for field in present:
        number = _instance(header, field)
        if field.name in sets.setdefault(number, {}):
            raise _Broken(f"set {number} has a field twice")
        sets[number][field.name] = field
    chain = [sets.get(number, {}) for number in range(1, len(sets) + 1)]
    if len(sets) > MAX_SETS or any(len(fields) != len(_NAMES) for fields in chain):
        raise _Broken("a set is incomplete")
    return chain


def chain_of(header: Header) -> bytes:
    """What the next seal signs of a chain that was verified: its fields in canonical form, set by set."""
    present = [field for field in header.fields if field.name in _NAMES]
    return b"".join(
        header.canonical(fields[name], "relaxed") + b"\r\n"
        for fields in _collected(header, present)
        for name in (_RESULTS, _MESSAGE, _SEAL)
    )


def _instance(header: Header, field: Field) -> int:
    value = header.data[field.value : field.end]
    if field.name == _RESULTS:
        match = _INSTANCE.match(value)
        digits = match.group(1) if match else b""
    else:
        digits = _tags(value, ("i",))["i"]
    if not _DIGITS.match(digits) or not int(digits):
        raise _Broken("a field has no instance")
    return int(digits)


def _tags(value: bytes, needed: tuple[str, ...]) -> dict[str, bytes]:
    try:
        return signature_tags(value, needed)
    except SignatureError as error:
        raise _Broken(str(error)) from None


def _message_signature(header: Header, field: Field) -> Signature:
    """RFC 8617 §4.1.2: like a DKIM signature, but that i= is the instance and v= is not there."""
    tags = _tags(header.data[field.value : field.end], NEEDED)
    tags.pop("i", None)
    try:
        signature = signature_of(tags)
    except SignatureError as error:
        raise _Broken(str(error)) from None
    if _SEAL in signature.names:
        raise _Broken("a message signature covers a seal")
    return signature


def _seal(header: Header, field: Field) -> _Seal:
    """RFC 8617 §4.1.3."""
    tags = _tags(header.data[field.value : field.end], ("i", "a", "b", "cv", "d", "s"))
    if "h" in tags or "bh" in tags:
        raise _Broken("a seal names fields")
    text = {
        name: without_space(tags[name]).decode("utf-8", "replace").lower() for name in ("a", "cv", "d", "s")
    }
    try:
        signature, domain = base64_of(tags["b"], "b="), normalise_domain(text["d"])
    except (SignatureError, AddressError) as error:
        raise _Broken(f"a seal is malformed: {error}") from None
    if text["a"] not in ("rsa-sha256", "ed25519-sha256"):
        raise _Broken("a seal has an unknown algorithm")
    return _Seal(domain, text["s"], text["a"], text["cv"], signature)


def _check_verdicts(seals: list[_Seal]) -> None:
    """RFC 8617 §5.2 step 3: cv=none in the first, pass in all others."""
    for number, seal in enumerate(seals, 1):
        if seal.verdict != ("none" if number == 1 else "pass"):
            raise _Broken(f"set {number} says cv={seal.verdict[:10]}")


def _check_seals(
    header: Header,
    chain: list[dict[bytes, Field]],
    seals: list[_Seal],
    keys: dict[tuple[str, str], Key | DkimResult],
) -> None:
    """Each seal signs all sets before it and its own (RFC 8617 §5.1.1)."""
    before = hashlib.sha256()
    for number, (fields, seal) in enumerate(zip(chain, seals, strict=True), 1):
        key = keys[seal.selector, seal.domain]
        if isinstance(key, DkimResult):
            raise _Broken(f"seal {number}: {key.reason}")
        if key.unacceptable or key.kind != seal.algorithm.partition("-")[0]:
            raise _Broken(f"seal {number}: {key.unacceptable or 'the key is of another kind'}")
        for name in (_RESULTS, _MESSAGE):
            before.update(header.canonical(fields[name], "relaxed") + b"\r\n")
        sealed = before.copy()
        sealed.update(without_signature(header, fields[_SEAL], "relaxed"))
        if not key.verifies(seal.signature, sealed.digest()):
            raise _Broken(f"seal {number} does not match")
        before.update(header.canonical(fields[_SEAL], "relaxed") + b"\r\n")
