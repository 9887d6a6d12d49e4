"""DKIM verification (RFC 6376, RFC 8463, with the limits of RFC 8301).

One call a message, :meth:`Verifier.verify`, by the policy check at the final dot. The header is looked at
once in the reactor (its size is bounded); the body is hashed once for each canonical form in use: at once
where it is in memory and small, else by a thread, chunk by chunk. Keys are parsed once (a bounded cache);
their DNS answers are remembered by the resolver.

Bounds: :data:`MAX_SIGNATURES` are verified, those that could matter to the From domain first;
the octets of header that :mod:`~lorrainemail.mailauth.header` takes; sizes of fields, records and keys in
:mod:`lorrainemail.mailauth.dkim_record`; :data:`TOTAL_TIME` for all the DNS. Never fails but where the
content itself cannot be read: whatever is wrong with a signature is its result.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeVar

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from lorrainemail.interfaces import DnsFailure, IContent, IResolver
from lorrainemail.mailauth.canonical import BodyHash, Form, canonical_field
from lorrainemail.mailauth.dkim_record import (
    Key,
    RecordFault,
    Signature,
    SignatureError,
    is_key,
    parse_key,
    parse_signature,
)
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.tags import emptied
from lorrainemail.message.header import Field

T = TypeVar("T")
DkimWord = Literal["pass", "fail", "policy", "neutral", "temperror", "permerror"]

#: Signatures of one message that are verified (RFC 6376 §6.1 leaves the number to us).
MAX_SIGNATURES: Final = 8
#: Signature fields that are parsed to find those.
MAX_PARSED: Final = 64
#: Octets of a body that are hashed in the reactor thread; larger ones go to another.
AT_ONCE: Final = 256 * 1024
#: Seconds for all keys of a message.
TOTAL_TIME: Final = 20.0
#: Seconds that a signature may come from the future: clocks differ.
SLACK: Final = 3600

InThread = Callable[[Callable[[], T]], Deferred[T]]


@attrs.frozen(slots=True)
class DkimResult:
    """What one signature came to.

    :ivar result: a word of RFC 8601 §2.7.1. "policy": it may be right, but is of a kind that we do not trust.
    :ivar domain: d=, "" where the field could not be read. ``selector``: s=. ``identity``: i=.
    :ivar reason: a few words for people, "" at an ordinary pass.
    :ivar mark: the first characters of b=, to tell signatures of one domain apart (RFC 6008).
    """

    result: DkimWord
    domain: str = ""
    selector: str = ""
    identity: str = ""
    algorithm: str = ""
    bits: int = 0
    reason: str = ""
    mark: str = ""


def header_hash(header: Header, names: Iterable[bytes], form: Form, own: bytes) -> bytes:
    """What a signature signs: the hash of the chosen fields and of its own, whose b= is empty."""
    hashed = hashlib.sha256()
    for field in header.selected(names, form):
        hashed.update(field)
        hashed.update(b"\r\n")
    hashed.update(own)
    return hashed.digest()


def hash_body(content: IContent, start: int, forms: Sequence[Form]) -> dict[Form, bytes]:
    """The hashes of a body. Reads the content: outside the reactor thread only, unless it is in memory."""
    hashes = {form: BodyHash(form) for form in forms}
    skip = start
    for chunk in content.chunks():
        if skip:
            taken = min(skip, len(chunk))
            skip -= taken
            chunk = chunk[taken:]
        if chunk:
            for one in hashes.values():
                one.update(chunk)
    return {form: one.digest() for form, one in hashes.items()}


async def body_hashes(
    content: IContent, header: Header, forms: Iterable[Form], in_thread: InThread[dict[Form, bytes]]
) -> dict[Form, bytes]:
    """:func:`hash_body` where it belongs: here while that is short, else in a thread. Remembered there."""
    missing = sorted(set(forms).difference(header.hashes))
    start = header.body
    if missing:
        if content.size - start <= AT_ONCE and content.in_memory() is not None:
            header.hashes.update(hash_body(content, start, missing))
        else:
            header.hashes.update(await in_thread(lambda: hash_body(content, start, missing)))
    return header.hashes


class Verifier:
    """Verifies messages.

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

    async def verify(
        self, content: IContent, header: Header, author_domains: Sequence[str] = ()
    ) -> list[DkimResult]:
        """One result for each signature that was looked at, in the order of the header.

        :param author_domains: of From; signatures that could be theirs are not left out for others.
        """
        signed = [field for field in header.fields if field.name == b"dkim-signature"]
        if not signed and header.whole:
            return []
        if not header.whole:
            return [DkimResult("permerror", reason="the header is too large to be checked")]
        results: dict[int, DkimResult] = {}
        candidates: list[tuple[int, Field, Signature]] = []
        for number, field in enumerate(signed[:MAX_PARSED]):
            try:
                signature = parse_signature(header.data[field.value : field.end])
            except SignatureError as error:
                if len(results) < MAX_SIGNATURES:
                    results[number] = DkimResult("permerror", reason=str(error))
                continue
            candidates.append((number, field, signature))
        if len(candidates) > MAX_SIGNATURES:
            candidates.sort(key=lambda one: not _related(one[2].domain, author_domains))
            candidates = sorted(candidates[:MAX_SIGNATURES], key=lambda one: one[0])
        keys = await self._keys([signature for _, _, signature in candidates])
        now = self._wall_clock()
        ready: list[tuple[int, Field, Signature, Key]] = []
        for number, field, signature in candidates:
            key = keys[signature.selector, signature.domain]
            verdict = before_hashing(signature, key, now)
            if verdict is not None or not isinstance(key, Key):
                word, reason = verdict or ("permerror", "no key")
                results[number] = _result(signature, key, word, reason)
            else:
                ready.append((number, field, signature, key))
        forms = [signature.body_form for _, _, signature, _ in ready]
        hashes = await body_hashes(content, header, forms, self._in_thread)
        for number, field, signature, key in ready:
            results[number] = _check(header, field, signature, key, hashes)
        return [results[number] for number in sorted(results)]

    async def _keys(self, signatures: Sequence[Signature]) -> dict[tuple[str, str], Key | DkimResult]:
        """The keys of all, or in their place why there is none."""
        wanted = {(one.selector, one.domain) for one in signatures if not one.unacceptable}
        found: dict[tuple[str, str], Key | DkimResult] = {
            (one.selector, one.domain): DkimResult("permerror", reason="no key") for one in signatures
        }
        found.update(await fetch_keys(self._resolver, self._clock, wanted))
        return found


async def fetch_keys(
    resolver: IResolver, clock: IReactorTime, names: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Key | DkimResult]:
    """The keys of (selector, domain) pairs, all asked at once, or in their place why there is none."""
    asked = {
        name: Deferred.fromCoroutine(_key(resolver, *name)).addTimeout(TOTAL_TIME, clock) for name in names
    }
    found: dict[tuple[str, str], Key | DkimResult] = {}
    for name, answer in asked.items():
        try:
            found[name] = await answer
        except TimeoutError:
            found[name] = DkimResult("temperror", reason="the key cannot be looked up now")
    return found


async def _key(resolver: IResolver, selector: str, domain: str) -> Key | DkimResult:
    try:
        records = await resolver.txt(f"{selector}._domainkey.{domain}")
    except DnsFailure as failure:
        if failure.kind == "temporary":
            return DkimResult("temperror", reason="the key cannot be looked up now")
        return DkimResult("permerror", reason=f"there is no key {selector} of {domain}")
    keys = [record for record in records if is_key(record)]
    if len(keys) > 1:
        return DkimResult("permerror", reason="there is more than one key")
    try:
        return parse_key(keys[0]) if keys else DkimResult("permerror", reason="the record is no key")
    except RecordFault as fault:
        return DkimResult("permerror", reason=str(fault))


def before_hashing(signature: Signature, key: Key | DkimResult, now: float) -> tuple[DkimWord, str] | None:
    """What can be said without looking at the message."""
    if signature.unacceptable:
        return "policy", signature.unacceptable
    if isinstance(key, DkimResult):
        return key.result, key.reason
    if key.unacceptable:
        return "policy", key.unacceptable
    if signature.expires is not None and signature.expires < now:
        return "fail", "the signature has expired"
    if signature.made is not None and signature.made > now + SLACK:
        return "fail", "the signature is from the future"
    if key.kind != signature.algorithm.partition("-")[0]:
        return "permerror", "the key is of another kind than the signature"
    if key.hashes is not None and "sha256" not in key.hashes:
        return "permerror", "the key does not allow this hash"
    if key.strict and signature.identity.rpartition("@")[2].lower() != signature.domain:
        return "permerror", "the key wants i= in exactly its domain"
    return None


def _check(
    header: Header, field: Field, signature: Signature, key: Key, hashes: dict[Form, bytes]
) -> DkimResult:
    wrong = mismatch(header, field, signature, key, hashes)
    if wrong:
        return _result(signature, key, "fail", wrong)
    return _result(signature, key, "pass", "the domain is testing" if key.testing else "")


def mismatch(header: Header, field: Field, signature: Signature, key: Key, hashes: dict[Form, bytes]) -> str:
    """What about the message is not as it was signed, "" where all is."""
    if hashes[signature.body_form] != signature.body_hash:
        return "the body was changed"
    form = signature.header_form
    own = without_signature(header, field, form)
    if not key.verifies(signature.signature, header_hash(header, signature.names, form, own)):
        return "the header was changed or the key is another"
    return ""


def without_signature(header: Header, field: Field, form: Form) -> bytes:
    """A signature's own field in canonical form, its b= empty, as it was signed."""
    raw = header.data[field.start : field.end]
    value = emptied(header.data[field.value : field.end], b"b")
    return canonical_field(raw[: field.value - field.start] + value, field.name, value, form)


def _result(signature: Signature, key: Key | DkimResult, word: DkimWord, reason: str) -> DkimResult:
    return DkimResult(
        word,
        signature.domain,
        signature.selector,
        signature.identity,
        signature.algorithm,
        key.bits if isinstance(key, Key) else 0,
        reason,
        base64.b64encode(signature.signature[:6]).decode("ascii"),
    )


def _related(domain: str, authors: Sequence[str]) -> bool:
    """Whether a signature of the domain could ever be aligned with one of the authors'."""
    return any(
        domain == author or domain.endswith("." + author) or author.endswith("." + domain)
        for author in authors
    )
