"""What our ACME keeps on disk: accounts, keys, what is in use and what comes next, how the last try went.

In ``tls/acme`` of the state directory, modes 0700 and 0600: ``account-HASH.json`` for each directory; for
each certificate a folder with ``ecdsa.pem`` and ``rsa.pem`` (key and chain in one file, exchanged at once),
the next key of each (``ecdsa-next.key``) and ``status.json``.

The next key is made when the one before it comes into use, and is used by the next renewal, so that others (a
TLSA record, RFC 7671 §8.1) can know it for weeks before. A renewal that comes earlier than :data:`KNOWN`
after it was made keeps the key that is in use. Blocking, small; called in threads. Fails with OSError.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any, Final

import attrs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lorrainemail.certs.files import make_directory, read_json, write, write_json
from lorrainemail.certs.sources import Sources, acme_directory, acme_file, find
from lorrainemail.errors import ConfigurationError
from lorrainemail.net.certificates import CertificatePair, Key, Loaded, load, public_key_digest, read_pem

#: Seconds for which a next key must have been known before it is used: two lives of a record of a day.
KNOWN: Final = 2 * 86400.0
RSA_BITS: Final = 2048


@attrs.frozen(slots=True)
class Status:
    """How one certificate stands.

    :ivar renew_at: wall-clock seconds at which it is renewed, 0 where that is not decided.
    :ivar ask_again: when the authority is asked about that time; ``next_try`` the first moment for a further
        try after a failure.
    :ivar failures: in a row, since ``failing_since``; ``told`` the postmaster knows of them.
    :ivar next_since: when the next key was made.
    """

    renew_at: float = 0.0
    ask_again: float = 0.0
    next_try: float = 0.0
    failures: int = 0
    failing_since: float = 0.0
    told: bool = False
    error: str = ""
    next_since: float = 0.0


class AcmeState:
    """All of it.

    :param state: the state directory.
    """

    def __init__(self, state: str) -> None:
        self._state = state

    # -- accounts --------------------------------------------------------------------------------------

    def account(self, directory: str) -> tuple[ec.EllipticCurvePrivateKey, str]:
        """The account's key, made where there is none, and its address ("" where it is not known)."""
        path = self._account_file(directory)
        kept = read_json(path)
        try:
            key = serialization.load_pem_private_key(str(kept["key"]).encode(), None)
            if isinstance(key, ec.EllipticCurvePrivateKey) and kept.get("directory") == directory:
                return key, str(kept.get("account", ""))
        except (KeyError, ValueError, TypeError):
            pass  # none yet, or none that can be read: a new account costs nothing
        made = ec.generate_private_key(ec.SECP256R1())
        self._write_account(directory, made, "")
        return made, ""

    def keep_account(self, directory: str, key: ec.EllipticCurvePrivateKey, account: str) -> None:
        self._write_account(directory, key, account)

    def _account_file(self, directory: str) -> str:
        name = hashlib.sha256(directory.encode()).hexdigest()[:16]
        return os.path.join(acme_directory(self._state), f"account-{name}.json")

    def _write_account(self, directory: str, key: ec.EllipticCurvePrivateKey, account: str) -> None:
        data = {"directory": directory, "account": account, "key": _pem(key).decode("ascii")}
        write_json(self._account_file(directory), data)

    # -- certificates ----------------------------------------------------------------------------------

    def current(self, name: str, kind: str) -> Loaded | None:
        """The certificate in use; None where there is none that can be used."""
        path = acme_file(self._state, name, kind)
        try:
            return load(CertificatePair(path, path))
        except ConfigurationError:
            return None

    def key_for_order(self, name: str, kind: str, now: float) -> Key:
        """The key that the next certificate is for: the next one where it was known for long enough, else the
        one in use, else a new one."""
        current = self.current(name, kind)
        following = self.next_key(name, kind)
        if current is None:
            return following or make_key(kind)
        if following is not None and now - self.status(name, kind).next_since >= KNOWN:
            return following
        return current.private_key

    def keep(self, name: str, kind: str, key: Key, chain: bytes, now: float) -> None:
        """A new certificate comes into use; a next key is made where its own was the next one."""
        path = acme_file(self._state, name, kind)
        make_directory(os.path.dirname(path))
        write(path, _pem(key) + chain, 0o600)
        following = self.next_key(name, kind)
        since = self.status(name, kind).next_since
        if following is None or public_key_digest(following) == public_key_digest(key):
            # After the certificate: a start in between finds the next key in use already, and makes another.
            write(self._next_file(name, kind), _pem(make_key(kind)), 0o600)
            since = now
        self.note(name, kind, Status(next_since=since))

    def next_key(self, name: str, kind: str) -> Key | None:
        try:
            return serialization.load_pem_private_key(read_pem(self._next_file(name, kind)), None)
        except (OSError, ValueError, TypeError):
            return None

    def _next_file(self, name: str, kind: str) -> str:
        return acme_file(self._state, name, kind).removesuffix(".pem") + "-next.key"

    # -- how it stands ---------------------------------------------------------------------------------

    def status(self, name: str, kind: str) -> Status:
        row = read_json(self._status_file(name)).get(kind)
        if not isinstance(row, dict):
            return Status()
        known: dict[str, Any] = {}
        for field in attrs.fields(Status):
            value = row.get(field.name, field.default)
            known[field.name] = value if isinstance(value, type(field.default) | int) else field.default
        return Status(**known)

    def note(self, name: str, kind: str, status: Status) -> None:
        rows = read_json(self._status_file(name))
        rows[kind] = attrs.asdict(status)
        write_json(self._status_file(name), rows)

    def _status_file(self, name: str) -> str:
        return os.path.join(acme_directory(self._state), name, "status.json")


def make_key(kind: str) -> Key:
    if kind == "rsa":
        return rsa.generate_private_key(65537, RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def _pem(key: Key) -> bytes:
    content: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return content


def key_digests(sources: Sources) -> Iterator[str]:
    """SHA-256 of every public key that the smtp door shows or will show next under our own name: what TLSA
    records 3 1 1 must hold (RFC 7671 §8.1). Files that cannot be used are left out.

    :raises OSError: where a folder that is named cannot be read.
    """
    shown = []
    for source in find(sources):
        try:
            loaded = load(source.pair)
        except ConfigurationError:
            continue
        if source.origin == "configured" or loaded.covers(sources.hostname):
            shown.append(loaded.public_key)
    if not shown:
        path = os.path.join(sources.state, "tls", "self-signed")
        try:
            shown.append(load(CertificatePair(f"{path}.pem", f"{path}-key.pem")).public_key)
        except ConfigurationError:
            pass  # before the first start
    state = AcmeState(sources.state)
    following = (state.next_key(sources.hostname, kind) for kind in ("ecdsa", "rsa"))
    yield from dict.fromkeys([*shown, *(public_key_digest(key) for key in following if key is not None)])
