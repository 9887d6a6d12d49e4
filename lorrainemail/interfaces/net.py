"""Names, and connections under TLS (:mod:`lorrainemail.net`; :mod:`lorrainemail.certs` for challenges)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import attrs
from zope.interface import Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from lorrainemail.interfaces.tables import TlsRequirement


class DnsFailure(Exception):
    """A DNS question without a usable answer.

    :ivar kind: "nxdomain" (the name does not exist), "nodata" (no such record), "temporary" (SERVFAIL,
        time-out, lame, loop: ask again later).
    """

    def __init__(
        self, kind: Literal["nxdomain", "nodata", "temporary"], question: str, detail: str = ""
    ) -> None:
        super().__init__(f"{question}: {detail or kind}")
        self.kind = kind
        self.question = question


@attrs.frozen(slots=True)
class MxHost:
    """One MX record: preference and exchange (lower-case A-labels, no trailing dot; "." is the null MX)."""

    preference: int
    host: str


class IResolver(Interface):
    """DNS as mail needs it. Every method fails with :class:`DnsFailure`; time is bounded inside."""

    def mx(domain: str) -> Deferred[list[MxHost]]:
        """MX records, unsorted. "nodata" where the name exists without MX."""

    def addresses(host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        """A and AAAA, canonical text. Fails with "temporary" only where neither family answered."""

    def txt(name: str) -> Deferred[list[bytes]]:
        """TXT records, their strings joined."""

    def ptr(address: str) -> Deferred[list[str]]:
        """Names of an IP address."""


class IServerTls(Interface):
    """Server contexts with SNI; certificates are swapped while connections live on."""

    def context_factory(door: str) -> object:
        """What Twisted's ``startTLS`` and ``TLSMemoryBIOFactory`` take, for that door."""


class IClientTls(Interface):
    """TLS towards next hops."""

    def creator(host: str, requirement: TlsRequirement) -> object:
        """An ``IOpenSSLClientConnectionCreator`` for ``startTLS`` as a client: verifies the name for
        "verified", the certificate for "sha256:...", nothing for "opportunistic"."""

    def checking(host: str, check: Callable[..., None]) -> object:
        """The like, which asks ``check`` about the server's certificates (``net.tls.PeerCheck``)."""

    def watching(host: str) -> object:
        """The like, which goes on whatever the certificate; its ``heard`` tells what was wrong with it."""


class IDnsChallenges(Interface):
    """Puts the answers of ACME's DNS-01 into the DNS (RFC 8555 §8.4). Both fail with any exception whose text
    says why, in words for the operator."""

    def publish(name: str, value: str) -> None | Deferred[None]:
        """Add a TXT record beside those that are there; fires when every authoritative server has it.

        :param name: absolute, ``_acme-challenge.`` in front, without the final dot.
        """

    def withdraw(name: str, value: str) -> None | Deferred[None]:
        """Remove that record; one that is not there is no failure."""
