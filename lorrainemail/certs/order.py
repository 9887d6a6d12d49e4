"""One certificate from order to chain: :func:`obtain`.

Called by :mod:`lorrainemail.certs.renewal`. A name is proved in the first of the ways that both sides have;
where the authority could not see the answer, the whole order is begun anew with the next way. An answer is
taken back when its question was asked, whatever came of it. Fails with
:class:`~lorrainemail.certs.acme.AcmeError` alone; a chain that does not fit what was ordered is such a
failure too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from lorrainemail.certs import jose
from lorrainemail.certs.acme import AcmeClient, AcmeError, Authorization, Challenge, Order
from lorrainemail.certs.challenges import Challenges, Kind
from lorrainemail.net.certificates import Key, names_of

_log = Logger(namespace="lorrainemail.certs")

#: Seconds between two looks at what the authority thinks, the first ones shorter; Retry-After wins.
POLLS: Final = (0.5, 1.0, 2.0, 3.0, 5.0)
#: The longest that one look is put off, and seconds in which it must have come to an end.
MOST_POLL: Final = 30.0
PATIENCE: Final = 300.0


class _NotProved(AcmeError):
    """The authority did not find the answer for one name."""

    def __init__(self, name: str, way: Kind, words: str) -> None:
        super().__init__(f"{name} could not be proved by {way}: {words}", "unauthorized")
        self.name = name
        self.way = way


async def obtain(
    client: AcmeClient,
    challenges: Challenges,
    names: Sequence[str],
    ways: Sequence[Kind],
    key: Key,
    clock: IReactorTime,
    replaces: str = "",
) -> bytes:
    """The chain, PEM, leaf first.

    :param ways: how names can be proved here, the preferred one first.
    :param key: the certificate's private key.
    :param replaces: the id of the certificate that it follows (RFC 9773).
    :raises AcmeError: with the first reason that matters to the operator.
    """
    failed: set[tuple[str, Kind]] = set()
    first: _NotProved | None = None
    for _ in range(len(ways)):
        try:
            return await _attempt(client, challenges, names, ways, failed, key, clock, replaces)
        except _NotProved as error:
            _log.warn("{words}", words=str(error))
            failed.add((error.name, error.way))
            first = first or error
            if all((error.name, way) in failed for way in ways):
                break
        except AcmeError as error:
            if first is None or error.wait is not None:
                raise
            break  # no other way is left, or the authority has enough: the first failure says more
    if first is None:
        raise AcmeError(
            "there is no way to prove a name: open the http or https door, or let us write to the DNS"
        )
    raise first


async def _attempt(
    client: AcmeClient,
    challenges: Challenges,
    names: Sequence[str],
    ways: Sequence[Kind],
    failed: set[tuple[str, Kind]],
    key: Key,
    clock: IReactorTime,
    replaces: str,
) -> bytes:
    order = await client.new_order(names, replaces)
    for url in order.authorizations:
        await _prove(client, challenges, url, ways, failed, clock)
    if order.status != "ready":
        order = await _until(client, order, ("ready",), clock)
    order = await client.finalize(order, certificate_request(names, key))
    if order.status != "valid":
        order = await _until(client, order, ("valid",), clock)
    if not order.certificate:
        raise AcmeError("the authority says that the certificate is made, and not where")
    chain = await client.certificate(order.certificate)
    check(chain, names, key, clock.seconds())
    return chain


async def _prove(
    client: AcmeClient,
    challenges: Challenges,
    url: str,
    ways: Sequence[Kind],
    failed: set[tuple[str, Kind]],
    clock: IReactorTime,
) -> None:
    authorization, _ = await client.authorization(url)
    if authorization.status == "valid":
        return  # proved lately
    way, challenge = _choose(authorization, ways, failed)
    name = authorization.name
    answer = f"{challenge.token}.{jose.thumbprint(client.key)}"
    try:
        await challenges.put(way, name, challenge.token, answer, clock.seconds())
    except Exception as error:
        raise _NotProved(name, way, str(error) or type(error).__name__) from error
    try:
        await client.ready(challenge)
        await _settled(client, url, way, clock)
    finally:
        try:
            await challenges.take(way, name, challenge.token, answer)
        except Exception as error:
            _log.warn("The answer for {name} could not be taken back: {error}", name=name, error=str(error))


def _choose(
    authorization: Authorization, ways: Sequence[Kind], failed: set[tuple[str, Kind]]
) -> tuple[Kind, Challenge]:
    offered = {challenge.kind: challenge for challenge in authorization.challenges}
    for way in ways:
        if way in offered and (authorization.name, way) not in failed:
            return way, offered[way]
    raise AcmeError(f"there is no (further) way to prove {authorization.name} here")


async def _settled(client: AcmeClient, url: str, way: Kind, clock: IReactorTime) -> None:
    """Wait until the authority has made up its mind about a name."""
    end = clock.seconds() + PATIENCE
    for number in range(10_000):
        authorization, wait = await client.authorization(url)
        if authorization.status == "valid":
            return
        if authorization.status != "pending":
            words = authorization.reason or f'its authorization is "{authorization.status[:40]}"'
            raise _NotProved(authorization.name, way, words)
        if clock.seconds() > end:
            raise _NotProved(authorization.name, way, f"no answer in {PATIENCE:.0f} s")
        await _pause(number, wait, clock)


async def _until(client: AcmeClient, order: Order, wanted: Sequence[str], clock: IReactorTime) -> Order:
    end = clock.seconds() + PATIENCE
    number = 0
    while order.status not in wanted:
        if order.status == "invalid":
            raise AcmeError(f"the order failed: {order.reason or 'the authority does not say why'}")
        if clock.seconds() > end:
            raise AcmeError(f"the order was still {order.status[:40]!r} after {PATIENCE:.0f} s")
        await _pause(number, order.wait, clock)
        number += 1
        order = await client.order(order.url)
    return order


async def _pause(number: int, wanted: float | None, clock: IReactorTime) -> None:
    seconds = POLLS[min(number, len(POLLS) - 1)] if wanted is None else min(wanted, MOST_POLL)
    await deferLater(clock, seconds)


def certificate_request(names: Sequence[str], key: Key) -> bytes:
    """The certificate request in DER: the names, in no particular order, and nothing about us."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names_extension = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    request = request.add_extension(names_extension, critical=False)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def check(chain: bytes, names: Sequence[str], key: Key, now: float) -> None:
    """Whether the authority made what was ordered.

    :raises AcmeError: where it is not for our key or our names, or not valid now.
    """
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        ours = leaf.public_key() == key.public_key()
    except (ValueError, IndexError):
        raise AcmeError("the authority sent a chain that cannot be read") from None
    if not ours:
        raise AcmeError("the authority sent a certificate for another key")
    missing = set(names) - names_of(leaf)
    if missing:
        raise AcmeError(f"the authority sent a certificate without {' '.join(sorted(missing))[:200]}")
    if leaf.not_valid_after_utc.timestamp() <= now:
        raise AcmeError("the authority sent a certificate that has ended already")
