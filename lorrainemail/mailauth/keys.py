"""DKIM's private keys: where they lie, which of them sign, and what the DNS must say of them.

``<state>/dkim/<domain>/<selector>.pem`` signs; ``<selector>.new`` waits for its DNS record to be published
(``lorrainemail dkim activate`` makes a ``.pem`` of it), ``<selector>.old`` has been replaced: its record
stays published for a while, for mail on its way. All are PKCS #8 in PEM, mode 0600.

:class:`KeyRing` is asked for each message that is signed (one ``stat`` where nothing has changed);
:func:`generate`, :func:`activate` and :func:`stored_keys` belong to the command, and block. Fails with
OSError, and with :class:`KeyFault` for a file that is no key of ours.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import stat
import time
from collections import OrderedDict
from typing import Final, Literal

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from twisted.logger import Logger

from lorrainemail.mailauth.dkim_record import PADDING, PREHASHED

DIRECTORY: Final = "dkim"
#: RFC 8301 §3.2.
RSA_BITS: Final = 2048
#: Octets of one key file.
MAX_FILE: Final = 16 * 1024
#: Domains whose keys are held.
MAX_DOMAINS: Final = 1024
#: Files of one domain's directory that are looked at.
MAX_FILES: Final = 100
#: Nanoseconds after a change of a directory from which on its keys are remembered.
SETTLED: Final = 1_000_000_000
#: Characters of one string of a TXT record (RFC 1035 §3.3.14).
TXT_STRING: Final = 255

_DOMAIN = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?\Z")
_FILE = re.compile(r"([a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?)\.(pem|new|old)\Z")

Kind = Literal["rsa", "ed25519"]
State = Literal["signs", "waits", "replaced"]
_STATES: Final[dict[str, State]] = {"pem": "signs", "new": "waits", "old": "replaced"}

_log = Logger("lorrainemail.mailauth")


class KeyFault(ValueError):
    """A file is no key that can sign; the text says why."""


@attrs.frozen(slots=True)
class SigningKey:
    """One private key."""

    domain: str
    selector: str
    private: RSAPrivateKey | Ed25519PrivateKey = attrs.field(repr=False)

    @property
    def kind(self) -> Kind:
        return "rsa" if isinstance(self.private, RSAPrivateKey) else "ed25519"

    def sign(self, digest: bytes) -> bytes:
        """The signature of what has this SHA-256."""
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(digest, PADDING, PREHASHED)
        return self.private.sign(digest)  # RFC 8463 §3

    @property
    def name(self) -> str:
        """Where its record stands in the DNS."""
        return f"{self.selector}._domainkey.{self.domain}"

    def record(self) -> str:
        """The text of that TXT record (RFC 6376 §3.6.1)."""
        public = self.private.public_key()
        if isinstance(self.private, RSAPrivateKey):
            octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        else:
            octets = public.public_bytes(Encoding.Raw, PublicFormat.Raw)  # RFC 8463 §4
        return f"v=DKIM1; k={self.kind}; p={base64.b64encode(octets).decode('ascii')}"

    def zone_line(self) -> str:
        """The record as a line of a zone file."""
        text = self.record()
        strings = [text[start : start + TXT_STRING] for start in range(0, len(text), TXT_STRING)]
        return f"{self.name}. IN TXT ( " + " ".join(f'"{string}"' for string in strings) + " )"


@attrs.frozen(slots=True)
class StoredKey:
    """A key and what is done with it."""

    key: SigningKey
    state: State
    path: str


class KeyRing:
    """The keys that sign, as they lie in the state directory.

    :param state: the state directory.
    """

    def __init__(self, state: str) -> None:
        self._directory = os.path.join(state, DIRECTORY)
        self._known: OrderedDict[str, tuple[int, tuple[SigningKey, ...]]] = OrderedDict()

    @property
    def empty(self) -> bool:
        """Whether no domain has ever had a key: then no message needs to be looked at."""
        return not os.path.isdir(self._directory)

    def keys(self, domain: str) -> tuple[SigningKey, ...]:
        """Those that sign for a domain, RSA first; none where it has none or they cannot be read (logged)."""
        if not _DOMAIN.match(domain):
            return ()
        directory = os.path.join(self._directory, domain)
        try:
            changed = os.stat(directory).st_mtime_ns
        except OSError:
            self._known.pop(domain, None)
            return ()
        known = self._known.get(domain)
        if known is not None and known[0] == changed:
            return known[1]
        keys: tuple[SigningKey, ...] = ()
        try:
            newest = {one.key.kind: one.key for one in _read(directory, domain) if one.state == "signs"}
            keys = tuple(newest[kind] for kind in ("rsa", "ed25519") if kind in newest)
        except (OSError, KeyFault) as error:
            _log.error("Mail from {domain} is not signed: {error}", domain=domain, error=str(error))
        if abs(time.time_ns() - changed) < SETTLED:
            return keys  # another change may bear the same time
        self._known[domain] = (changed, keys)
        self._known.move_to_end(domain)
        if len(self._known) > MAX_DOMAINS:
            self._known.popitem(last=False)
        return keys


def _read(directory: str, domain: str, check: bool = False) -> list[StoredKey]:
    """The keys of a directory in the order of their selectors; other files are left alone."""
    found = []
    for name in sorted(os.listdir(directory))[:MAX_FILES]:
        match = _FILE.match(name)
        if match is None:
            continue
        path = os.path.join(directory, name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise KeyFault(f"{path} is no file")
            octets = file.read(MAX_FILE)
        found.append(
            StoredKey(
                SigningKey(domain, match.group(1), _load(octets, path, check)), _STATES[match.group(2)], path
            )
        )
    return found


def _load(octets: bytes, path: str, check: bool) -> RSAPrivateKey | Ed25519PrivateKey:
    try:
        # To prove the primes takes 30 ms, too long for the reactor; the command does it.
        private = load_pem_private_key(octets, None, unsafe_skip_rsa_key_validation=not check)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFault(f"{path} is no private key in PEM without a password") from None
    if isinstance(private, Ed25519PrivateKey) or (
        isinstance(private, RSAPrivateKey) and 1024 <= private.key_size <= 4096
    ):
        return private
    raise KeyFault(f"{path} is neither Ed25519 nor RSA of 1024 to 4096 bits")


# -- the command's side: all of it blocks ----------------------------------------------------------------


def stored_keys(state: str, domain: str | None = None) -> list[StoredKey]:
    """Every key, or those of a domain."""
    root = os.path.join(state, DIRECTORY)
    domains = [domain] if domain is not None else sorted(os.listdir(root)) if os.path.isdir(root) else []
    found = []
    for one in domains:
        directory = os.path.join(root, one)
        if _DOMAIN.match(one) and os.path.isdir(directory):
            found += _read(directory, one, check=True)
    return found


def key_changes(state: str) -> dict[str, float]:
    """When a key of each domain came, went or changed its state, in seconds since the epoch."""
    root = os.path.join(state, DIRECTORY)
    domains = sorted(os.listdir(root)) if os.path.isdir(root) else []
    return {one: os.stat(os.path.join(root, one)).st_mtime for one in domains if _DOMAIN.match(one)}


def generate(state: str, domain: str, day: str, waits: bool) -> list[StoredKey]:
    """A new RSA and a new Ed25519 key.

    :param day: "20261122": it makes the selectors, a letter more where they are taken.
    :param waits: they do not sign before they are activated.
    """
    directory = os.path.join(state, DIRECTORY, domain)
    for path in (os.path.dirname(directory), directory):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            _sync(os.path.dirname(path))
    taken = {name.partition(".")[0] for name in os.listdir(directory)}
    suffix = next(letter for letter in ("", *"bcdefghijklmnopqrstuvwxyz") if f"r{day}{letter}" not in taken)
    made = []
    privates: tuple[tuple[str, RSAPrivateKey | Ed25519PrivateKey], ...] = (
        ("r", rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)),
        ("e", Ed25519PrivateKey.generate()),
    )
    for letter, private in privates:
        selector = f"{letter}{day}{suffix}"
        path = os.path.join(directory, f"{selector}.{'new' if waits else 'pem'}")
        octets = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(path, octets)
        made.append(StoredKey(SigningKey(domain, selector, private), "waits" if waits else "signs", path))
    _sync(directory)
    return made


def activate(state: str, domain: str) -> list[StoredKey]:
    """What waits signs from now on, in place of what signed of the same kind."""
    directory = os.path.join(state, DIRECTORY, domain)
    keys = stored_keys(state, domain)
    waiting = {one.key.kind: one for one in keys if one.state == "waits"}
    for one in keys:
        if one.state == "signs" and one.key.kind in waiting:
            os.rename(one.path, one.path.removesuffix(".pem") + ".old")
    activated = []
    for one in waiting.values():
        path = one.path.removesuffix(".new") + ".pem"
        os.rename(one.path, path)
        activated.append(attrs.evolve(one, state="signs", path=path))
    if waiting:
        _sync(directory)
    return activated


def _write(path: str, octets: bytes) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(octets)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
