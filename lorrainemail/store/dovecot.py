"""The files in which Dovecot keeps UIDs and keywords of a Maildir folder: read once, and kept for others.

``dovecot-uidlist`` (version 3: ``3 V<uidvalidity> N<next uid>``, then ``<uid> :<base name>`` lines, sorted;
version 1 is read) and ``dovecot-keywords`` (``<index> <word>``). We read them at first sight of a folder, so
that clients download nothing again, and write them so that the next Dovecot, or our own next index, finds the
UIDs. Pure parsers and printers; who calls them does the reading and writing. Never fails: what is malformed
is taken as not there, and then UIDVALIDITY rises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

#: Octets of a uidlist that are read.
MAX_UIDLIST: Final = 64 << 20
UIDLIST: Final = "dovecot-uidlist"
#: What Courier calls its own, in the form of Dovecot's first version.
COURIER_UIDS: Final = "courierimapuiddb"
COURIER_SUBSCRIPTIONS: Final = "courierimapsubscribed"
KEYWORDS: Final = "dovecot-keywords"


@attrs.frozen(slots=True)
class UidList:
    """What a uidlist says."""

    uid_validity: int
    uid_next: int
    uids: dict[str, int]


def parse_uidlist(text: str) -> UidList | None:
    """The list, None where it cannot be trusted."""
    header, _, body = text.partition("\n")
    words = header.split(" ")
    validity = following = 0
    try:
        if words[0] == "3":
            for word in words[1:]:
                if word[:1] == "V":
                    validity = int(word[1:])
                elif word[:1] == "N":
                    following = int(word[1:])
        elif words[0] == "1" and len(words) >= 3:
            validity, following = int(words[1]), int(words[2])
        else:
            return None
        uids: dict[str, int] = {}
        previous = 0
        for line in body.split("\n"):
            if not line:
                continue
            number, _, rest = line.partition(" ")
            uid = int(number)
            name = rest.partition(":")[2] if words[0] == "3" else rest
            if words[0] == "3" and not rest.startswith(":"):
                # Extension fields stand before the name: "W123 S120 :base".
                name = rest.partition(" :")[2]
            base = name.partition(":")[0]
            if uid <= previous or uid >= 2**32 or not base:
                return None
            uids[base] = uid
            previous = uid
    except ValueError:
        return None
    if not 0 < validity < 2**32 or following >= 2**32:
        return None
    return UidList(validity, max(following, previous + 1), uids)


def parse_courier_subscriptions(text: str) -> list[str]:
    """Folders' directories without their first dot ("" is INBOX): Courier writes ``INBOX.Sent``."""
    found: list[str] = []
    for line in text.split("\n"):
        head, _, rest = line.rstrip("\r").partition(".")
        if head.upper() == "INBOX" and rest not in found:
            found.append(rest)
    return found


def print_uidlist(uid_validity: int, uid_next: int, guid: str, uids: Iterable[tuple[int, str]]) -> bytes:
    """A list of version 3."""
    return f"3 V{uid_validity} N{uid_next} G{guid}\n".encode() + print_lines(uids)


def print_lines(uids: Iterable[tuple[int, str]]) -> bytes:
    """Lines of such a list, also to be appended to one."""
    return "".join(f"{uid} :{base}\n" for uid, base in uids).encode("utf-8", "surrogateescape")


def parse_keywords(text: str) -> list[str]:
    """The keywords by index; holes become words that nobody uses."""
    found: dict[int, str] = {}
    for line in text.split("\n"):
        number, _, word = line.partition(" ")
        if number.isdigit() and len(number) < 3 and word and " " not in word:
            found[int(number)] = word
    if not found:
        return []
    return [found.get(index, f"unused-{index}") for index in range(max(found) + 1)]


def print_keywords(words: Sequence[str]) -> bytes:
    """The file; only the first 26 have a letter."""
    return "".join(f"{index} {word}\n" for index, word in enumerate(words[:26])).encode("utf-8", "replace")
