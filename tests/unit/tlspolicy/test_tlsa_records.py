"""TLSA records against made certificates: whom mail is given to, and from whom it is kept."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lorrainemail.net.tls import PeerNotVerified
from lorrainemail.tlspolicy.tlsa import DANE_EE, DANE_TA, Tlsa, TlsaCheck, usable

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
HOST = "mx.theirs.test"


class Issuer:
    """A key with a certificate, which signs others."""

    def __init__(
        self,
        name: str,
        signer: Issuer | None = None,
        ca: bool = True,
        names: tuple[str, ...] = (),
        days: tuple[int, int] = (-2, 2),
        key: Any = None,
        path: int | None = None,
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        by = signer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(by.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + days[0] * DAY)
            .not_valid_after(NOW + days[1] * DAY)
            .add_extension(x509.BasicConstraints(ca, path if ca else None), True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), False
            )
        digest = None if isinstance(by.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        self.certificate = builder.sign(by.key, digest)

    def spki(self) -> bytes:
        public: bytes = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return public

    def record(self, usage: int, selector: int, matching: int) -> Tlsa:
        data = self.certificate.public_bytes(Encoding.DER) if selector == 0 else self.spki()
        if matching:
            data = (hashlib.sha256 if matching == 1 else hashlib.sha512)(data).digest()
        return Tlsa(usage, selector, matching, data)


def fault(records: list[Tlsa], *chain: Issuer, names: tuple[str, ...] = (HOST,)) -> str:
    """The fault of a chain under those records, "" for none."""
    try:
        TlsaCheck(usable(records), names)([one.certificate for one in chain])
    except PeerNotVerified as wrong:
        assert str(wrong)
        return wrong.fault
    return ""


@pytest.fixture(scope="module")
def root() -> Issuer:
    return Issuer("root")


@pytest.fixture(scope="module")
def middle(root: Issuer) -> Issuer:
    return Issuer("middle", root)


@pytest.fixture(scope="module")
def leaf(middle: Issuer) -> Issuer:
    return Issuer("leaf", middle, ca=False, names=(HOST,))


EVERY = [(selector, matching) for selector in (0, 1) for matching in (0, 1, 2)]


@pytest.mark.parametrize(("selector", "matching"), EVERY)
def test_the_servers_own_key_or_certificate_is_enough(leaf: Issuer, selector: int, matching: int) -> None:
    assert fault([leaf.record(DANE_EE, selector, matching)], leaf) == ""


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_other_kinds_of_keys_are_recognised(key: Any) -> None:
    own = Issuer("own", ca=False, key=key)
    for selector, matching in EVERY:
        assert fault([own.record(DANE_EE, selector, matching)], own) == ""


def test_under_dane_ee_neither_names_nor_dates_nor_signers_count() -> None:
    odd = Issuer("odd", ca=False, names=("elsewhere.test",), days=(-20, -10))
    assert fault([odd.record(DANE_EE, 1, 1)], odd) == ""


@pytest.mark.parametrize(("selector", "matching"), EVERY)
def test_another_key_is_refused(leaf: Issuer, selector: int, matching: int) -> None:
    stranger = Issuer("stranger", ca=False, names=(HOST,))
    assert fault([leaf.record(DANE_EE, selector, matching)], stranger) == "validation-failure"
    # the named certificate further up the chain proves nothing: anybody can show it there
    assert fault([leaf.record(DANE_EE, selector, matching)], stranger, leaf) == "validation-failure"


def test_the_next_key_may_stand_beside_the_one_in_use(leaf: Issuer) -> None:
    following = Issuer("next", ca=False, names=(HOST,))
    both = [leaf.record(DANE_EE, 1, 1), following.record(DANE_EE, 1, 1)]
    assert fault(both, leaf) == fault(both, following) == ""


@pytest.mark.parametrize(("selector", "matching"), EVERY)
def test_an_authority_vouches_through_what_is_between(
    root: Issuer, middle: Issuer, leaf: Issuer, selector: int, matching: int
) -> None:
    assert fault([root.record(DANE_TA, selector, matching)], leaf, middle, root) == ""
    # an authority in the middle is one, too
    assert fault([middle.record(DANE_TA, selector, matching)], leaf, middle) == ""


def test_an_authority_that_is_whole_in_the_dns_need_not_be_shown(
    root: Issuer, middle: Issuer, leaf: Issuer
) -> None:
    assert fault([root.record(DANE_TA, 0, 0)], leaf, middle) == ""
    assert fault([root.record(DANE_TA, 1, 0)], leaf, middle) == ""
    assert fault([middle.record(DANE_TA, 1, 0)], leaf) == ""
    assert fault([root.record(DANE_TA, 1, 1)], leaf, middle) == "certificate-not-trusted"


def test_an_authority_vouches_only_for_what_it_signed(root: Issuer, middle: Issuer, leaf: Issuer) -> None:
    for name in ("root", "middle"):
        forged = Issuer(name)  # the same name, another key
        impostor = Issuer("leaf", forged, ca=False, names=(HOST,))
        for record in (root.record(DANE_TA, 0, 1), root.record(DANE_TA, 1, 0), root.record(DANE_TA, 0, 0)):
            assert fault([record], impostor, forged, root) == "certificate-not-trusted"
            assert fault([record], impostor, middle, root) == "certificate-not-trusted"


def test_a_certificate_that_is_no_authority_vouches_for_nobody(root: Issuer) -> None:
    ordinary = Issuer("ordinary", root, ca=False, names=("other.test",))
    forged = Issuer("forged", ordinary, ca=False, names=(HOST,))
    assert fault([root.record(DANE_TA, 0, 1)], forged, ordinary, root) == "certificate-not-trusted"


def test_the_length_of_an_authoritys_chain_is_bounded_as_it_says() -> None:
    short = Issuer("short", path=0)
    between = Issuer("between", short)
    end = Issuer("end", between, ca=False, names=(HOST,))
    assert fault([short.record(DANE_TA, 0, 1)], end, between, short) == "certificate-not-trusted"


def test_under_dane_ta_names_and_dates_count(root: Issuer) -> None:
    record = [root.record(DANE_TA, 0, 1)]
    late = Issuer("late", root, ca=False, names=(HOST,), days=(-3, -1))
    assert fault(record, late, root) == "certificate-expired"
    assert fault(record, Issuer("early", root, ca=False, names=(HOST,), days=(1, 3)), root) == (
        "certificate-expired"
    )
    other = Issuer("other", root, ca=False, names=("www.theirs.test",))
    assert fault(record, other, root) == "certificate-host-mismatch"


def test_names_under_dane_ta(root: Issuer) -> None:
    record = [root.record(DANE_TA, 0, 1)]
    wild = Issuer("wild", root, ca=False, names=("*.theirs.test",))
    assert fault(record, wild, root) == ""
    assert fault(record, wild, root, names=("a.b.theirs.test",)) == "certificate-host-mismatch"
    domain = Issuer("domain", root, ca=False, names=("theirs.test",))
    assert fault(record, domain, root, names=(HOST, "theirs.test")) == ""
    common = Issuer(HOST, root, ca=False)
    assert fault(record, common, root) == "", "a common name counts where there is no other"
    hidden = Issuer(HOST, root, ca=False, names=("other.test",))
    assert fault(record, hidden, root) == "certificate-host-mismatch"


def test_no_certificate_at_all_is_refused(leaf: Issuer) -> None:
    with pytest.raises(PeerNotVerified):
        TlsaCheck((leaf.record(DANE_EE, 1, 1),), (HOST,))([])


def test_what_cannot_be_used_is_left_out(leaf: Issuer) -> None:
    good = leaf.record(DANE_EE, 1, 1)
    bad = [
        leaf.record(0, 1, 1),  # usages of the web
        leaf.record(1, 1, 1),
        Tlsa(3, 2, 1, bytes(32)),
        Tlsa(3, 1, 3, bytes(32)),
        Tlsa(3, 1, 1, bytes(31)),
        Tlsa(3, 1, 2, bytes(32)),
        Tlsa(2, 0, 0, b"no certificate"),
        Tlsa(2, 1, 0, b""),
    ]
    assert usable(bad) == ()
    assert usable([*bad, good, good]) == (good,)


def test_of_two_digests_only_the_stronger_counts(leaf: Issuer) -> None:
    """Who can forge the weaker one gains nothing by it (RFC 7671 §9)."""
    stranger = Issuer("stranger", ca=False)
    records = [stranger.record(DANE_EE, 1, 1), leaf.record(DANE_EE, 1, 2)]
    assert fault(records, leaf) == ""
    assert fault(records, stranger) == "validation-failure"
    assert fault([stranger.record(DANE_EE, 0, 1), leaf.record(DANE_EE, 1, 2)], stranger) == ""


def test_a_flood_of_records_is_cut(leaf: Issuer) -> None:
    many = [Tlsa(3, 1, 1, number.to_bytes(32, "big")) for number in range(500)]
    assert len(usable(many)) < 50
