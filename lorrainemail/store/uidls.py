"""Unique ids of POP3 (RFC 1939 §7) that another server gave, kept so that nobody downloads his mail again.

When the INBOX of a tree is seen for the first time, what Dovecot and Courier left beside the mail says how
its messages were called; that goes into one small file, :data:`FILE`, which outlives the index. A message
that came later has a unique id of ours. Works on the folder's directory, in the strand's jobs. Never fails:
what cannot be read is taken as not there.

The file: ``1 <UIDVALIDITY> <next UID then> <dovecot, or ->``, then ``<uid> <unique id>`` lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

FILE: Final = "lorrainemail-uidls"
#: Courier's own list; octets of it that are read.
COURIER_SIZES: Final = "courierpop3dsizelist"
MAX_FILE: Final = 64 << 20
#: RFC 1939 §7.
MAX_UNIQUE_ID: Final = 70


@attrs.frozen(slots=True)
class GivenUidls:
    """What the messages of a folder were called.

    :ivar dovecot: those below ``uid_next`` have the name that Dovecot makes of the UID by default.
    :ivar given: single ones, by UID.
    """

    uid_validity: int = 0
    uid_next: int = 0
    dovecot: bool = False
    given: Mapping[int, str] = attrs.field(factory=dict)

    def of(self, uid: int, uid_validity: int) -> str:
        """A message's, "" where nobody gave it one."""
        if uid_validity != self.uid_validity or uid >= self.uid_next:
            return ""
        given = self.given.get(uid)
        if given is not None:
            return given
        return f"{uid:08x}{uid_validity:08x}" if self.dovecot else ""

    def printed(self) -> bytes:
        """The file."""
        rule = "dovecot" if self.dovecot else "-"
        lines = [f"1 {self.uid_validity} {self.uid_next} {rule}\n"]
        lines += [f"{uid} {unique}\n" for uid, unique in sorted(self.given.items())]
        return "".join(lines).encode("ascii")

    @classmethod
    def parse(cls, text: str) -> GivenUidls | None:
        """The file's, None where it cannot be read."""
        header, _, body = text.partition("\n")
        words = header.split(" ")
        try:
            if len(words) != 4 or words[0] != "1":
                return None
            pairs = (line.split(" ", 1) for line in body.split("\n") if line)
            given = {int(uid): unique for uid, unique in pairs if fit(unique)}
            return cls(int(words[1]), int(words[2]), words[3] == "dovecot", given)
        except ValueError:
            return None


def fit(unique: str) -> bool:
    """Whether something may be a unique id (RFC 1939 §7)."""
    return 0 < len(unique) <= MAX_UNIQUE_ID and all("!" <= c <= "~" for c in unique)


def parse_dovecot(text: str) -> dict[str, str]:
    """Unique ids by base name that a Dovecot kept one by one (field P of its uidlist, version 3)."""
    found: dict[str, str] = {}
    if not text.startswith("3 ") or " P" not in text:
        return found
    for line in text.split("\n")[1:]:
        head, colon, name = line.partition(" :")
        if not colon:
            continue
        for word in head.split(" ")[1:]:
            if word[:1] == "P" and fit(word[1:]):
                found[name.partition(":")[0]] = word[1:]
    return found


def parse_courier(text: str) -> dict[str, str]:
    """Unique ids by base name that Courier gave: those of its list's second form (``/2 ...``), then ``<file>
    <octets> <number>:<validity>``; a message without a number was called by its file."""
    found: dict[str, str] = {}
    header, _, body = text.partition("\n")
    if not header.startswith("/2"):
        return found
    for line in body.split("\n"):
        words = line.rsplit(" ", 2)
        if len(words) != 3:
            continue
        base = words[0].rpartition("/")[2].partition(":")[0]
        number, colon, validity = words[2].partition(":")
        if not colon or not number.isdigit() or not validity.isdigit():
            continue
        unique = f"UID{int(number)}-{int(validity)}" if int(number) else base
        if fit(unique):
            found[base] = unique
    return found
