"""The key of a zone that we sign, and its change: one key a zone, ECDSA P-256 (RFC 6605), made once.

Keys lie in ``<state>/dns/<zone>/<when>.pem``, mode 0600; ``keys.json`` beside them says of each when the
parent's DS was first seen. A roll makes a second key. From its first moment it stands in the DNSKEY set,
which both sign; once all caches have it, CDS and CDNSKEY (RFC 7344, RFC 8078) ask the parent to take it; it
signs the zone only after the parent's DS for it has been seen, and the old one goes when no cache can need
it any more (RFC 6781 §4.1.2). :func:`plan` says all that from the keys and the time, and is pure. Reading and
making block. Fails with OSError and :class:`ZoneKeyFault`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from typing import Final

import attrs
import dns.dnssec
import dns.dnssectypes
import dns.name
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

#: Seconds for which others keep the DNSKEY set, and any record of the zone at most.
DNSKEY_TTL: Final = 3600
#: Seconds after which every cache has a new DNSKEY set: twice its time, for servers with wrong clocks.
READY: Final = 2 * DNSKEY_TTL
#: Seconds from the sight of the parent's new DS until the old key goes: the longest time for which a parent's
#: DS is kept as a rule, and a day more.
RETIRE: Final = 3 * 86400
#: Octets of a key file, and keys of one zone.
MAX_FILE: Final = 16 * 1024
MAX_KEYS: Final = 10

_FILE = re.compile(r"(\d{1,12})\.pem\Z")
_STATE: Final = "keys.json"


class ZoneKeyFault(ValueError):
    """A key file cannot be used, or a roll cannot begin; the text says why."""


@attrs.frozen(slots=True, eq=False)
class ZoneKey:
    """One key.

    :ivar made: when, in whole seconds of the wall clock; it names the file.
    :ivar seen: when the parent's DS for it was first seen, 0 where it never was.
    """

    private: ec.EllipticCurvePrivateKey = attrs.field(repr=False)
    made: int
    seen: float = 0.0

    @property
    def dnskey(self) -> dns.rdtypes.ANY.DNSKEY.DNSKEY:
        """Its record; zone key and secure entry point in one (RFC 4034 §2.1.1)."""
        return dns.dnssec.make_dnskey(
            self.private.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257
        )

    def ds(self, zone: str) -> str:
        """The DS record for the parent, in the form of a zone file (RFC 4509)."""
        return dns.dnssec.make_ds(dns.name.from_text(f"{zone}."), self.dnskey, "SHA256").to_text()


@attrs.frozen(slots=True)
class Plan:
    """What each key does now.

    :ivar published: in the DNSKEY set, which all of them sign.
    :ivar signs: signs the zone.
    :ivar wanted: the one that CDS and CDNSKEY name.
    :ivar retired: may be deleted.
    """

    published: tuple[ZoneKey, ...]
    signs: ZoneKey
    wanted: ZoneKey
    retired: tuple[ZoneKey, ...] = ()


def plan(keys: Sequence[ZoneKey], now: float) -> Plan:
    """From at least one key."""
    ordered = sorted(keys, key=lambda key: key.made)
    seen = [key for key in ordered if key.seen]
    current = seen[-1] if seen else ordered[0]
    later = [key for key in ordered if key.made > current.made]
    retired = tuple(key for key in ordered if key.made < current.made and now >= current.seen + RETIRE)
    published = tuple(key for key in ordered if key not in retired)
    ready = [key for key in later if now >= key.made + READY]
    return Plan(published, current, ready[-1] if ready else current, retired)


# -- files: all of it blocks -----------------------------------------------------------------------------


def directory_of(state: str, zone: str) -> str:
    return os.path.join(state, "dns", zone)


def load_or_make(directory: str, now: float) -> list[ZoneKey]:
    """The keys of a zone; the first one is made where there is none."""
    keys = load(directory)
    return keys or [make(directory, now)]


def load(directory: str) -> list[ZoneKey]:
    """The keys of a zone, oldest first; none where there is no directory."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    seen = _read_seen(directory)
    found = []
    for name in names:
        match = _FILE.match(name)
        if match is not None:
            made = int(match.group(1))
            found.append(ZoneKey(_read(os.path.join(directory, name)), made, seen.get(str(made), 0.0)))
    return sorted(found, key=lambda key: key.made)[-MAX_KEYS:]


def make(directory: str, now: float) -> ZoneKey:
    """One more key."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    key = ZoneKey(ec.generate_private_key(ec.SECP256R1()), int(now))
    octets = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(os.path.join(directory, f"{key.made}.pem"), octets)
    return key


def begin_roll(directory: str, now: float) -> ZoneKey:
    """A new key beside the one that signs.

    :raises ZoneKeyFault: where a roll is under way already.
    """
    keys = load_or_make(directory, now)
    if len(plan(keys, now).published) > 1:
        raise ZoneKeyFault("a new key is on its way already: the parent's DS decides when it signs")
    return make(directory, max(now, keys[-1].made + 1))


def note_seen(directory: str, key: ZoneKey, now: float) -> ZoneKey:
    """The parent has its DS."""
    rows = _read_seen(directory)
    rows[str(key.made)] = now
    _write(os.path.join(directory, _STATE), json.dumps({"version": 1, "seen": rows}).encode("ascii"))
    return attrs.evolve(key, seen=now)


def remove(directory: str, key: ZoneKey) -> None:
    """Delete a retired key."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, f"{key.made}.pem"))


def _read(path: str) -> ec.EllipticCurvePrivateKey:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        octets = file.read(MAX_FILE)
    try:
        private = load_pem_private_key(octets, None)
    except (ValueError, TypeError):
        raise ZoneKeyFault(f"{path} is no private key in PEM") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise ZoneKeyFault(f"{path} is no key of ECDSA P-256")
    return private


def _read_seen(directory: str) -> dict[str, float]:
    try:
        with open(os.path.join(directory, _STATE), "rb") as file:
            rows = json.loads(file.read(MAX_FILE))["seen"]
        return {str(made): float(when) for made, when in rows.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ZoneKeyFault(f"{os.path.join(directory, _STATE)} cannot be read") from None


def _write(path: str, octets: bytes) -> None:
    temporary = f"{path}.new"
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(octets)
        file.flush()
        os.fsync(descriptor)
    os.rename(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
