"""Certificates that near their end: alarms while they do, and a word to the postmaster at each step.

Pure but for :func:`remember`, which keeps in a file what was told, so that a restart repeats nothing; called
by :mod:`lorrainemail.certs.store` in a thread. Our self-signed certificate is left out: it is made anew by
itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lorrainemail.certs.files import read_json, write_json
from lorrainemail.certs.sources import Origin
from lorrainemail.errors import Problem
from lorrainemail.net.certificates import Loaded

DAY: Final = 86400.0
#: Days left at which the postmaster is told. Of a short-lived certificate only what is below a quarter of its
#: life counts: it is renewed later than that in the usual way of things.
WARN_DAYS: Final = (21, 14, 7, 3, 1, 0)

_MEND: Final[Mapping[Origin, str]] = {
    "acme": '"lorrainemail certificate list" says why it was not renewed',
    "folder": "see why the program that keeps it does not renew it",
    "configured": "put a new one in its place; it is taken at once",
}


def step_of(certificate: Loaded, now: float) -> int | None:
    """The step of :data:`WARN_DAYS` that a certificate has come to, None while it is far from its end."""
    left = certificate.seconds_left(now)
    life = (certificate.not_after - certificate.not_before).total_seconds()
    if left > min(max(WARN_DAYS) * DAY, life / 4):
        return None
    return min((days for days in WARN_DAYS if left <= days * DAY), default=max(WARN_DAYS))


def ending(certificates: Iterable[tuple[Loaded, Origin]], now: float) -> list[tuple[Loaded, int, Problem]]:
    """Those that near their end: the certificate, its step, and the alarm."""
    found = []
    for one, origin in certificates:
        step = step_of(one, now)
        if origin == "self-signed" or step is None:
            continue
        left = one.seconds_left(now)
        words = "has ended" if left <= 0 else f"ends in {int(left // DAY)} days"
        what = f"the certificate for {' '.join(sorted(one.names)[:3])} {words}"
        found.append((one, step, Problem(one.pair.certificate, 0, what, _MEND[origin])))
    return found


def remember(path: str, steps: Mapping[str, int]) -> list[str]:
    """Note the steps by fingerprint; which of them nobody was told of yet.

    :raises OSError: where that cannot be kept; nothing should be told then, or it would be told for ever.
    """
    told = read_json(path)
    known = {key: value for key, value in told.items() if isinstance(value, int)}
    if steps != known:
        write_json(path, steps)
    return [key for key, step in steps.items() if step < known.get(key, max(WARN_DAYS) + 1)]


def warning(certificate: Loaded, now: float) -> tuple[str, str]:
    """Subject and text of the note."""
    names = sorted(certificate.names)
    until = f"{certificate.not_after:%Y-%m-%d %H:%M} UTC"
    words = f"ended on {until}" if certificate.seconds_left(now) <= 0 else f"ends on {until}"
    text = (
        f"The certificate for {', '.join(names[:10])} {words}, and nothing has renewed it yet.\n\n"
        f"File: {certificate.pair.certificate}\n\n"
        "Without a new one mail programs will refuse to connect, and servers that demand a valid\n"
        'certificate will not deliver here. "lorrainemail certificate list" says how things stand.\n'
    )
    return f"The certificate for {_few(names)} {words}", text


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more" if names else "no name"
