"""Addresses under which mail of others is sent on, and which lead back to its sender: sender rewriting (SRS).

A server that passes on mail under its sender's own address fails the next one's SPF check. So the
reverse-path ``ann@example.org`` becomes ``SRS0=hash=day=example.org=ann@ours``, and a bounce to that goes
back to her; one that another server has rewritten already, ``SRS0=...@other``, becomes
``SRS1=hash=other==...@ours`` and leads back to that server, not to each on the way.

Owns that form and the file of keys. The hash is HMAC-SHA-256 with a key of ours, so that nobody else makes
such addresses; it is good for :data:`LIFE` days, for which the key that came before the newest is known too.
:mod:`lorrainemail.tables.expand` asks :meth:`Srs.reverse` at RCPT, the remote courier has
:meth:`Srs.forward` asked when it sends on what is somebody else's. Keys are made at the first need and anew
every :data:`KEY_LIFE` days; an operator may put one on top himself, one a line, the newest first.

Comparisons fold case: servers on the way may change it.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable
from typing import Final

from lorrainemail.addresses import MAX_LOCAL_PART, Address, AddressError, normalise_domain
from lorrainemail.ops.files import SYSTEM, replace_file

#: Days for which an address leads back. A message is tried for five, its bounce as long.
LIFE: Final = 10
#: Days after which a new key is made; the old one must be known for LIFE more.
KEY_LIFE: Final = 90
#: Keys that are known, the newest first.
KEYS: Final = 2
#: Octets of a key; characters of it in hexadecimal in the file, at least.
KEY_OCTETS: Final = 32
LEAST_KEY: Final = 16
#: Octets of the file that are read.
MAX_FILE: Final = 4096
#: Characters of a hash: 40 bits, guessed at the rate at which strangers may ask.
HASH: Final = 8

_DAY: Final = 86400
_DIGITS: Final = "abcdefghijklmnopqrstuvwxyz234567"
_FORM: Final = re.compile(r"SRS[01][=+-]", re.IGNORECASE)


class NotReversed(ValueError):
    """Such an address leads nowhere; the text says why."""


def is_srs(local: str) -> bool:
    """Whether a local part has the form of a rewritten one, whoever made it."""
    return _FORM.match(local) is not None


class Srs:
    """Rewrites, and reverses what it rewrote.

    :param path: the file of keys; mode 0600.
    :param wall: seconds since the epoch.
    """

    def __init__(self, path: str, wall: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall = wall
        self._keys: tuple[bytes, ...] = ()
        self._seen: tuple[int, int] | None = None

    # -- keys ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Have a key that is new enough. Blocks; writes a file, synced, at the first need and every
        :data:`KEY_LIFE` days. Fails with OSError."""
        made = self._look()
        if self._keys and (made is None or self._wall() - made < KEY_LIFE * _DAY):
            return
        keys = (secrets.token_hex(KEY_OCTETS).encode(), *self._keys)[:KEYS]
        replace_file(SYSTEM, self._path, b"".join(key + b"\n" for key in keys))
        self._look()

    @property
    def ready(self) -> bool:
        """Whether :meth:`forward` may be asked without :meth:`prepare`; one small look at the disk."""
        made = self._look()
        return bool(self._keys) and (made is None or self._wall() - made < KEY_LIFE * _DAY)

    def _look(self) -> float | None:
        """Read the file where it changed; when it was written."""
        try:
            facts = os.stat(self._path)
        except OSError:
            self._keys, self._seen = (), None
            return None
        seen = facts.st_mtime_ns, facts.st_ino
        if seen != self._seen:
            with open(self._path, "rb") as file:
                words = file.read(MAX_FILE).split()
            self._keys = tuple(word for word in words if len(word) >= LEAST_KEY)[:KEYS]
            self._seen = seen
        return facts.st_mtime

    # -- addresses -------------------------------------------------------------------------------

    def forward(self, sender: Address, domain: str) -> Address | None:
        """The address under which mail from ``sender`` is sent on.

        :param domain: one of ours, for it.
        :returns: None where it would be longer than a local part may be (RFC 5321 §4.5.3.1.1).
        """
        day = self._today()
        stamp = _DIGITS[day >> 5] + _DIGITS[day & 31]
        key = self._keys[0]
        word, rest = sender.local[:5].upper(), sender.local[5:]
        if word in ("SRS0=", "SRS0+", "SRS0-"):
            # The sign is the other server's business: it stays, where "=" would stand.
            text = f"{sender.domain}={sender.local[4]}{rest}"
        elif word in ("SRS1=", "SRS1+", "SRS1-") and rest.count("=") >= 2:
            text = rest.partition("=")[2]  # whom it leads back to, without the hash of the one in between
        else:
            text = ""
        if text:
            local = f"SRS1={_hash(key, stamp, text).decode()}{stamp}={text}"
        else:
            text = f"{sender.domain}={sender.local}"
            local = f"SRS0={_hash(key, stamp, text).decode()}={stamp}={text}"
        if len(local.encode("utf-8", "surrogatepass")) > MAX_LOCAL_PART:
            return None
        return Address(local, domain)

    def reverse(self, local: str) -> Address:
        """Where a rewritten local part leads back to.

        :raises NotReversed: where it is not ours, too old, or none.
        """
        self._look()
        kind, rest = local[:5].upper(), local[5:]
        if kind[:4] == "SRS0":
            proof, _, rest = rest.partition("=")
            stamp, _, text = rest.partition("=")
            domain, _, target = text.partition("=")
        else:
            proof, _, text = rest.partition("=")
            proof, stamp = proof[:HASH], proof[HASH:]
            domain, _, target = text.partition("=")
            target = f"SRS0{target}"
        if len(proof) != HASH or not domain or not target:
            raise NotReversed("it is no address of that form")
        given = proof.lower().encode("utf-8", "replace")
        if not any(hmac.compare_digest(_hash(key, stamp.lower(), text), given) for key in self._keys):
            raise NotReversed("it was not made here")
        day = _DIGITS.index(stamp[0].lower()) << 5 | _DIGITS.index(stamp[1].lower())
        if (self._today() - day) % 1024 > LIFE:
            raise NotReversed(f"it is older than {LIFE} days")
        try:
            return Address(target, normalise_domain(domain))
        except AddressError as error:
            raise NotReversed(str(error)) from None

    def _today(self) -> int:
        return int(self._wall() // _DAY) % 1024


def _hash(key: bytes, stamp: str, text: str) -> bytes:
    words = f"{stamp}={text.lower()}".encode("utf-8", "surrogatepass")
    return base64.b32encode(hmac.digest(key, words, "sha256"))[:HASH].lower()
