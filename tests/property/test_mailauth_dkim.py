"""DKIM against dkimpy, both ways, on messages that nobody would write by hand; bodies cut anywhere."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from lorrainemail.mailauth.canonical import BodyHash
from lorrainemail.mailauth.dkim import Verifier
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.keys import KeyRing, generate
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.mailauth.signing import Signer
from lorrainemail.ops.content import Content

dkim = pytest.importorskip("dkim")

NAMES = [
    b"Subject",
    b"To",
    b"Cc",
    b"X-Odd",
    b"Received",
    b"Reply-To",
    b"sUBJECT",
    b"List-Id",
    b"MIME-Version",
]
blanks = st.sampled_from([b"", b" ", b"  ", b"\t", b" \t "])
words = st.sampled_from([b"a", b"b;c=d", b"=?utf-8?q?=C3=A9?=", b"\xc3\xa9", b":", b"x" * 90, b"%"])
values = st.lists(
    st.tuples(blanks, words, blanks, st.sampled_from([b"", b"\r\n ", b"\r\n\t"])), max_size=4
).map(lambda parts: b"".join(b"".join(part) for part in parts).removesuffix(b"\r\n ").removesuffix(b"\r\n\t"))
headers = st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=8).map(
    lambda rows: b"".join(name + b":" + value + b"\r\n" for name, value in rows)
)
lines = st.lists(
    st.tuples(blanks, st.sampled_from([b"", b"", b"text", b".", b"two  words"]), blanks), max_size=8
)
bodies = lines.map(lambda rows: b"".join(b"".join(row) + b"\r\n" for row in rows))
messages = st.builds(
    lambda before, after, body: before + b"From: Carole <carole@elorac.fr>\r\n" + after + b"\r\n" + body,
    headers,
    headers,
    bodies,
)


class Domain:
    def __init__(self, state: str) -> None:
        self.keys = generate(state, "elorac.fr", "20260729", waits=False)
        self.dns = MemoryResolver({one.key.name: [("TXT", one.key.record())] for one in self.keys})
        self.signer = Signer(KeyRing(state), lambda work: succeed(work()))
        with open(self.keys[0].path, "rb") as file:
            self.pem = file.read()

    def sign(self, message: bytes) -> bytes:
        return bytes(_result(self.signer.sign(Content(message))))

    def verify(self, message: bytes) -> list[str]:
        content = Content(message)
        verifier = Verifier(self.dns, Clock(), lambda work: succeed(work()))
        return [one.result for one in _result(verifier.verify(content, Header(content)))]

    def oracle(self, message: bytes, index: int = 0) -> bool:
        def dns(name: bytes, timeout: int = 5) -> bytes:
            return str(self.dns.rows[name.decode().rstrip(".")][0][1]).encode()

        try:
            return bool(dkim.DKIM(message).verify(idx=index, dnsfunc=dns))
        except dkim.DKIMException:
            return False


def _result(coroutine: Any) -> Any:
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addCallback(results.append)
    return results[0]


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return Domain(str(tmp_path_factory.mktemp("state")))


quiet = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(message=messages)
def test_what_we_sign_dkimpy_believes(domain: Domain, message: bytes) -> None:
    fields = domain.sign(message)
    signed = fields + message
    assert domain.verify(signed) == ["pass", "pass"]
    assert domain.oracle(signed, 0) and domain.oracle(signed, 1)


@quiet
@given(message=messages, forms=st.tuples(*[st.sampled_from([b"simple", b"relaxed"])] * 2))
def test_what_dkimpy_signs_we_believe(domain: Domain, message: bytes, forms: tuple[bytes, bytes]) -> None:
    selector = domain.keys[0].key.selector.encode()
    signed = dkim.sign(message, selector, b"elorac.fr", domain.pem, canonicalize=forms) + message
    assert domain.verify(signed) == ["pass"]


@quiet
@given(
    message=messages,
    place=st.integers(0, 10_000),
    octet=st.sampled_from([b" ", b"x", b"\t", b"\r\n", b"\r\n ", b":", b"."]),
    forms=st.tuples(*[st.sampled_from([b"simple", b"relaxed"])] * 2),
)
def test_after_any_change_both_say_the_same(
    domain: Domain, message: bytes, place: int, octet: bytes, forms: tuple[bytes, bytes]
) -> None:
    selector = domain.keys[0].key.selector.encode()
    field = dkim.sign(message, selector, b"elorac.fr", domain.pem, canonicalize=forms)
    place %= len(message) + 1
    changed = message[:place] + octet + message[place:]
    header = changed.partition(b"\r\n\r\n")[0].split(b"\r\n")
    # What is no header to one of the two is said by neither: a line that is no field, a lone CR or LF.
    if any(line[:1] not in (b" ", b"\t") and not line.partition(b":")[1] for line in header):
        return
    if changed.replace(b"\r\n", b"").count(b"\r") or changed.replace(b"\r\n", b"").count(b"\n"):
        return
    names = [line.partition(b":")[0] for line in header if line[:1] not in (b" ", b"\t")]
    if changed[:1] in (b" ", b"\t") or any(len(name.split()) != 1 or name != name.strip() for name in names):
        return
    if not changed.endswith(b"\r\n"):
        return
    expected = domain.oracle(field + changed)
    assert (domain.verify(field + changed) == ["pass"]) == expected


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"\r", b"\n", b"a", b"  ", b" \r\n"]), max_size=30).map(
        b"".join
    ),
    st.lists(st.integers(0, 60), max_size=6),
)
def test_a_body_cut_anywhere_has_the_same_hash(body: bytes, cuts: list[int]) -> None:
    for form in ("simple", "relaxed"):
        whole = BodyHash(form)  # type: ignore[arg-type]
        whole.update(body)
        pieces = BodyHash(form)  # type: ignore[arg-type]
        edges = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
        for start, end in pairwise(edges):
            pieces.update(body[start:end])
        assert whole.digest() == pieces.digest()
        assert whole.octets == pieces.octets
