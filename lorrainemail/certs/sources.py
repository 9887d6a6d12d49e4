"""Where certificates are: the operator's files, folders of certbot and its like, our own ACME, self-signed.

:func:`find` answers the pairs of files in the order in which they are shown; called by
:mod:`lorrainemail.certs.store`, at start and at each look, in a thread then. It reads directories and loads
nothing; :func:`load_all` does, for ``check``. :func:`acme_file` says where our own ACME puts what it
was issued. A folder that cannot be read is an OSError.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, Literal

import attrs

from lorrainemail.config.model import Settings
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.net.certificates import CertificatePair, load

#: Pairs that one server shows; a folder with more is a mistake.
MAX_PAIRS: Final = 2000
#: Names of chain and key, as programs leave them in a folder: certbot, plain ones, Kubernetes; ``{}`` is the
#: folder's own name (acme.sh's ends in ``_ecc``; Caddy).
LAYOUTS: Final = (
    ("fullchain.pem", "privkey.pem"),
    ("fullchain.pem", "key.pem"),
    ("fullchain.cer", "{}.key"),
    ("tls.crt", "tls.key"),
    ("{}.crt", "{}.key"),
)

Origin = Literal["configured", "folder", "acme", "self-signed"]


@attrs.frozen(slots=True)
class Sources:
    """The configuration's part of it.

    :ivar state: the state directory; ``loopback``: addresses there that we listen on.
    """

    state: str
    hostname: str
    loopback: tuple[str, ...] = ()
    configured: CertificatePair | None = None
    folders: tuple[str, ...] = ()
    old_peers: bool = False

    @classmethod
    def of(cls, settings: Settings, loopback: tuple[str, ...] = ()) -> Sources:
        tls = settings.tls
        pair = CertificatePair(tls.certificate, tls.key or tls.certificate) if tls.certificate else None
        return cls(settings.state, settings.hostname, loopback, pair, tls.folders, tls.old_peers)


@attrs.frozen(slots=True)
class Source:
    """One pair of files and who keeps it."""

    pair: CertificatePair
    origin: Origin


def find(sources: Sources) -> tuple[Source, ...]:
    """Every pair but the self-signed one, the operator's first.

    :raises OSError: where a folder that is named cannot be read; ``filename`` is set.
    """
    found: list[Source] = []
    if sources.configured is not None:
        found.append(Source(sources.configured, "configured"))
    for folder in sources.folders:
        found += [Source(pair, "folder") for pair in _in_folder(folder)]
    found += [Source(pair, "acme") for pair in _acme(sources)]
    return tuple(found[:MAX_PAIRS])


def load_all(sources: Sources) -> None:
    """Try every pair: for ``check``.

    :raises ConfigurationError: with all that cannot be used.
    """
    problems: list[Problem] = []
    try:
        pairs = find(sources)
    except OSError as error:
        raise ConfigurationError((unreadable(error),)) from None
    for source in pairs:
        try:
            load(source.pair)
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(tuple(problems))


def unreadable(error: OSError) -> Problem:
    """A folder that :func:`find` could not look into."""
    words = f"cannot look for certificates there: {error.strerror or error}"
    return Problem(
        error.filename or "", 0, words, "mend its path or its mode, or take it out of [tls] folders"
    )


def _in_folder(folder: str) -> Iterator[CertificatePair]:
    pair = _layout(folder)
    if pair is not None:
        yield pair
        return
    for name in sorted(os.listdir(folder)):
        inner = os.path.join(folder, name)
        pair = _layout(inner) if os.path.isdir(inner) else None
        if pair is not None:
            yield pair


def _layout(folder: str) -> CertificatePair | None:
    name = os.path.basename(folder).removesuffix("_ecc")
    for layout in LAYOUTS:
        chain, key = (os.path.join(folder, part.format(name)) for part in layout)
        if os.path.isfile(chain) and os.path.isfile(key):
            return CertificatePair(chain, key)
    return None


def acme_directory(state: str) -> str:
    """What our own ACME keeps: accounts, and a folder for each certificate."""
    return os.path.join(state, "tls", "acme")


def acme_file(state: str, name: str, kind: str) -> str:
    """Key and chain of one certificate in one file, so that both are exchanged at once."""
    return os.path.join(acme_directory(state), name, f"{kind}.pem")


def _acme(sources: Sources) -> Iterator[CertificatePair]:
    directory = acme_directory(sources.state)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in sorted(names, key=lambda name: (name != sources.hostname, name)):
        for kind in ("ecdsa", "rsa"):
            path = acme_file(sources.state, name, kind)
            if os.path.isfile(path):
                yield CertificatePair(path, path)
