"""DMARC records as values (RFC 9989 §4.7, §4.8). Pure; :mod:`lorrainemail.mailauth.dmarc` asks for them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal, cast

import attrs

Policy = Literal["none", "quarantine", "reject"]

#: Octets and tags of one record.
MAX_RECORD: Final = 4096
MAX_TAGS: Final = 50
#: Addresses for reports that are kept.
MAX_URIS: Final = 20

#: The tag's name in any case, its value as it stands (RFC 9989 §4.8).
_VERSION = re.compile(rb"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_MAILTO = re.compile(r"mailto:[^\s@,!]+@[A-Za-z0-9.-]+(?:![0-9]+[kmgt]?)?\Z", re.IGNORECASE)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s,]+\Z")
_POLICIES: Final = ("none", "quarantine", "reject")


@attrs.frozen(slots=True)
class DmarcRecord:
    """One record.

    :ivar policy: p=; None where the record has no usable one and asks for no reports: then it wants nothing.
    :ivar subdomains: sp=, None where not given. ``absent``: np=.
    :ivar strict_dkim: adkim=s. ``strict_spf``: aspf=s.
    :ivar psd: "y", "n" or "u". ``testing``: t=y.
    :ivar reports: rua=, mailto addresses. ``failures``: ruf=. ``failure_options``: fo=.
    """

    policy: Policy | None
    subdomains: Policy | None = None
    absent: Policy | None = None
    strict_dkim: bool = False
    strict_spf: bool = False
    psd: Literal["y", "n", "u"] = "u"
    testing: bool = False
    reports: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    failure_options: str = "0"


def is_dmarc(text: bytes) -> bool:
    """Whether a TXT record claims to be DMARC: others at the name are not looked at."""
    return _VERSION.match(text) is not None


@lru_cache(maxsize=2048)
def parse_dmarc(text: bytes) -> DmarcRecord:
    """A record for which :func:`is_dmarc` holds. What is wrong in it is left out (RFC 9989 §4.7)."""
    tags: dict[str, str] = {}
    for part in text[:MAX_RECORD].split(b";", MAX_TAGS)[:MAX_TAGS]:
        name, equals, value = part.partition(b"=")
        key = name.strip().decode("ascii", "replace").lower()
        if equals and key not in tags:
            tags[key] = value.strip().decode("utf-8", "replace")
    reports = _addresses(tags.get("rua", ""))
    wrong = any(tags[name].lower() not in _POLICIES for name in ("p", "sp", "np") if name in tags)
    policy = _policy(tags, "p")
    if policy is None or wrong:
        # RFC 9989 §4.10.1: who asks for reports gets them; else there is nothing to apply.
        asks = any(_URI.match(uri.strip()) for uri in tags.get("rua", "").split(","))
        policy = "none" if asks else None
    psd = tags.get("psd", "u").lower()
    return DmarcRecord(
        policy,
        None if wrong else _policy(tags, "sp"),
        None if wrong else _policy(tags, "np"),
        tags.get("adkim", "").lower() == "s",
        tags.get("aspf", "").lower() == "s",
        "y" if psd == "y" else "n" if psd == "n" else "u",
        tags.get("t", "").lower() == "y",
        reports,
        _addresses(tags.get("ruf", "")),
        tags.get("fo", "0").lower(),
    )


def _policy(tags: dict[str, str], name: str) -> Policy | None:
    value = tags.get(name, "").lower()
    return cast(Policy, value) if value in _POLICIES else None


def _addresses(uris: str) -> tuple[str, ...]:
    given = [uri.strip() for uri in uris.split(",")[:MAX_URIS]]
    return tuple(uri[len("mailto:") :].partition("!")[0] for uri in given if _MAILTO.match(uri))
