"""A domain with keys, its DNS, and messages, for the tests of this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from lorrainemail.mailauth.dkim import DkimResult, Verifier
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.keys import KeyRing, StoredKey, generate
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.mailauth.signing import Signer
from lorrainemail.ops.content import Content

NOW = 1_790_000_000.0


def at_once(work: Callable[[], Any]) -> Deferred[Any]:
    """In place of a thread."""
    return succeed(work())


def result_of(coroutine: Any) -> Any:
    """What a coroutine that need not wait comes to."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    (result,) = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result


@attrs.frozen
class SigningDomain:
    """elorac.fr with an RSA and an Ed25519 key."""

    state: str
    keys: tuple[StoredKey, ...]
    dns: MemoryResolver

    def sign(self, message: bytes) -> bytes:
        """The fields that our signer puts above the message, and the message."""
        signer = Signer(KeyRing(self.state), at_once, lambda: NOW)
        signed: bytes = result_of(signer.sign(Content(message)))
        return signed + message

    def verify(self, message: bytes, now: float = NOW, authors: tuple[str, ...] = ()) -> list[DkimResult]:
        content = Content(message)
        verifier = Verifier(self.dns, Clock(), at_once, lambda: now)
        results: list[DkimResult] = result_of(verifier.verify(content, Header(content), authors))
        return results


@pytest.fixture(scope="session")
def elorac(tmp_path_factory: pytest.TempPathFactory) -> SigningDomain:
    state = tmp_path_factory.mktemp("state")
    keys = generate(str(state), "elorac.fr", "20260729", waits=False)
    dns = MemoryResolver({one.key.name: [("TXT", one.key.record())] for one in keys})
    assert Path(keys[0].path).stat().st_mode & 0o777 == 0o600
    return SigningDomain(str(state), tuple(keys), dns)
