"""What one session believes its mailbox to hold: an array of UIDs, whose positions are the sequence numbers.

The mailbox itself is always newer; its notices are gathered here and told to the client only where RFC 3501
§7.4.1 allows it, by :meth:`View.updates`. Until then sequence numbers stay as they are. Owned by one session
each; the mailbox is shared by all.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from lorrainemail.grammar.imap import flag_list
from lorrainemail.grammar.imap_sets import SequenceSet, print_set
from lorrainemail.interfaces import IMailbox, MailboxChange

#: Flag changes, and expunged messages, told in one turn.
MAX_FLAG_UPDATES: Final = 1000
MAX_EXPUNGES: Final = 2000

SYSTEM_FLAGS: Final = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")


class View:
    """One session's picture of one mailbox.

    :param read_only: by EXAMINE; nothing is changed, not even ``\\Recent`` claimed.
    :param notify: called at each notice of the mailbox (a session in IDLE tells its client at once).
    :param enabled: what the session's client switched on, as it is at any moment.
    :ivar uids: ascending; the message at position i has the sequence number i + 1.
    :ivar gone: the mailbox itself was deleted.
    :ivar keywords: those that the client was told of by FLAGS.
    :ivar tells_messages: the client is told of changes at all; ``tells_flags`` of flags (RFC 5465).
    :ivar saved: UIDs, ascending, that "$" means (RFC 5182 §2.1).
    """

    __slots__ = (
        "_added",
        "_changed",
        "_end_watch",
        "_expunged",
        "_fresh",
        "_held",
        "_notify",
        "enabled",
        "gone",
        "keywords",
        "mailbox",
        "read_only",
        "recent",
        "saved",
        "tells_flags",
        "tells_messages",
        "uids",
    )  # fmt: skip

    def __init__(
        self, mailbox: IMailbox, read_only: bool, notify: Callable[[], None], enabled: AbstractSet[str]
    ) -> None:
        self.mailbox = mailbox
        self.read_only = read_only
        self.enabled = enabled
        self.gone = False
        self.keywords: set[str] = set()
        self.saved: array[int] = array("I")
        self.tells_messages = True
        self.tells_flags = True
        self._fresh: list[int] = []
        self._notify = notify
        self._added: set[int] = set()
        self._expunged: list[int] = []
        self._held = 0  # the lowest MODSEQ of these
        self._changed: set[int] = set()
        self._end_watch = mailbox.watch(self._noticed)
        self.uids = array("I", mailbox.uids())
        self.recent: set[int] = set(mailbox.claim_recent(self.uids, peek=read_only))

    def close(self) -> None:
        """Let go of the mailbox."""
        self._end_watch()
        self.mailbox.close()

    def _noticed(self, change: MailboxChange) -> None:
        if change.kind == "added":
            self._added.update(change.uids)
        elif change.kind == "expunged":
            if not self._expunged:
                self._held = change.modseq
            self._expunged.extend(change.uids)
            self._added.difference_update(change.uids)
        elif change.kind == "flags":
            self._changed.update(change.uids)
        else:
            self.gone = True
        self._notify()

    # -- which messages --

    def indexes(self, messages: SequenceSet, by_uid: bool) -> list[int] | None:
        """Positions of the messages meant; None where a sequence number is beyond the mailbox.

        UIDs that do not exist are no error (RFC 3501 §6.4.8); sequence numbers are (§9 ``seq-number``). A set
        with "*" in an empty mailbox means nothing rather than an error: clients ask for ``1:*`` blindly.
        """
        if messages.saved:
            return [index for uid in self.saved if (index := self.index_of(uid)) >= 0]
        if not by_uid and messages.highest > len(self.uids) and not (not self.uids and messages.has_star):
            return None
        return messages.indexes(self.uids, by_uid)

    def index_of(self, uid: int) -> int:
        """A message's position, -1 where it is not (yet, any more) in the view."""
        index = bisect_left(self.uids, uid)
        return index if index < len(self.uids) and self.uids[index] == uid else -1

    def line(self, index: int, items: bytes) -> bytes:
        """One FETCH response."""
        return b"%b%b)\r\n" % (self.opening(index), items)

    def opening(self, index: int) -> bytes:
        """The beginning of one, up to its items."""
        if "UIDONLY" in self.enabled:  # RFC 9586 §3.3
            return b"* %d UIDFETCH (" % self.uids[index]
        return b"* %d FETCH (" % (index + 1)

    def shows_uid(self, by_uid: bool) -> bool:
        """Whether FETCH responses carry the UID besides (RFC 3501 §6.4.8, RFC 7162 §3.2.4, RFC 9586 §3.3)."""
        return (by_uid or "QRESYNC" in self.enabled) and "UIDONLY" not in self.enabled

    def is_recent(self, uid: int) -> bool:
        """Whether the client is told that it is recent; RFC 9051 knows no such thing."""
        return uid in self.recent and "IMAP4rev2" not in self.enabled

    def counts(self) -> bytes:
        """EXISTS and RECENT."""
        exists = b"* %d EXISTS\r\n" % len(self.uids)
        if "IMAP4rev2" in self.enabled:
            return exists
        return b"%b* %d RECENT\r\n" % (exists, len(self.recent))

    def flag_items(self, uid: int, flags: frozenset[str], with_uid: bool) -> bytes:
        """What is said of a message whose flags changed.

        RFC 7162 §3.1: with MODSEQ once the client knows CONDSTORE; §3.2.4: with UID once it knows QRESYNC.
        """
        items = b"FLAGS " + flag_list(flags, self.is_recent(uid))
        if "CONDSTORE" in self.enabled:
            items += b" MODSEQ (%d)" % self.mailbox.modseq(uid)
        if self.shows_uid(with_uid):
            items = b"UID %d %b" % (uid, items)
        return items

    # -- what has changed --

    def forget_changes(self, uids: Sequence[int], keep: set[int]) -> None:
        """Flag changes of these were told by the command itself; but for those to ``keep``."""
        self._changed.difference_update(uids)
        self._changed.update(keep)

    def pending_changes(self, uids: Sequence[int]) -> set[int]:
        """Those with a flag change of which the client has not been told."""
        return self._changed.intersection(uids)

    def updates(self, expunges: bool, with_uid: bool) -> list[bytes]:
        """Untagged responses that bring the client up to date, and the view with it; empty when it is.

        Bounded: what is left is answered by the next call, so callers ask until nothing comes.

        :param expunges: whether EXPUNGE may be sent now (RFC 3501 §7.4.1).
        :param with_uid: the command was a UID one, so FETCH responses carry the UID (RFC 3501 §6.4.8).
        """
        if not self.tells_flags:
            self._changed.clear()
        if not self.tells_messages or not (self._added or self._expunged or self._changed):
            return []
        out: list[bytes] = []
        if expunges and self._expunged:
            self._remove(out)
            if self._expunged:
                return out or [b""]  # more of them first
        if self._added:
            self._append(out)
        if self._changed:
            self._flags(out, with_uid)
        return out

    @property
    def behind(self) -> bool:
        """Whether there is more that the client is to know."""
        return self.tells_messages and bool(self._added or self._expunged or self._changed)

    def held_back(self) -> bytes:
        """Expunged messages could not be told now: how far the client's knowledge goes nevertheless.

        RFC 7162 §3.2.7 (and erratum 1810 of RFC 5162): it may have heard of higher MODSEQs.
        """
        if not self._expunged or "QRESYNC" not in self.enabled:
            return b""
        return b"* OK [HIGHESTMODSEQ %d] Not all is told yet\r\n" % max(self._held - 1, 1)

    def _remove(self, out: list[bytes]) -> None:
        """Tell of expunged messages from the highest down, so that no number shifts under another."""
        expunged = self._expunged
        expunged.sort()  # runs that ascend already: quick
        part = expunged[-MAX_EXPUNGES:]
        del expunged[-MAX_EXPUNGES:]
        indexes = sorted({i for uid in part if (i := self.index_of(uid)) >= 0})
        if not indexes:
            return
        if "QRESYNC" in self.enabled or "UIDONLY" in self.enabled:  # RFC 7162 §3.2.10, RFC 9586 §3.5
            out.append(b"* VANISHED %b\r\n" % print_set(self.uids[index] for index in indexes))
        else:
            out.extend(b"* %d EXPUNGE\r\n" % (index + 1) for index in reversed(indexes))
        self.recent.difference_update(part)
        self._changed.difference_update(part)
        first, last = indexes[0], indexes[-1]
        gone = set(indexes)
        kept = [self.uids[index] for index in range(first, last) if index not in gone]
        self.uids[first : last + 1] = array("I", kept)

    def _append(self, out: list[bytes]) -> None:
        last = self.uids[-1] if self.uids else 0
        new = sorted(uid for uid in self._added if uid > last)
        self._added.clear()
        if not new:
            return
        self.uids.extend(new)
        self._fresh = new[-MAX_FLAG_UPDATES:]
        self.recent |= self.mailbox.claim_recent(new, peek=self.read_only)
        out.append(self.counts())

    def take_fresh(self) -> list[int]:
        """UIDs of the messages last told of."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def _flags(self, out: list[bytes], with_uid: bool) -> None:
        told = sorted(self._changed)[:MAX_FLAG_UPDATES]
        self._changed.difference_update(told)
        lines: list[bytes] = []
        fresh: set[str] = set()
        for uid in told:
            index = self.index_of(uid)
            flags = self.mailbox.flags(uid) if index >= 0 else None
            if flags is None:
                continue
            fresh.update(flag for flag in flags if not flag.startswith("\\") and flag not in self.keywords)
            lines.append(self.line(index, self.flag_items(uid, flags, with_uid)))
        if fresh:
            self.keywords |= fresh
            out.append(self.flags_line())
        out.extend(lines)

    def flags_line(self) -> bytes:
        """FLAGS: the system's and the keywords known (RFC 3501 §7.2.6)."""
        words = " ".join((*SYSTEM_FLAGS, *sorted(self.keywords)))
        return b"* FLAGS (%b)\r\n" % words.encode("ascii")

    def learn_keywords(self, found: set[str]) -> bytes:
        """The FLAGS line where some of these are new to the client, else nothing."""
        fresh = {flag for flag in found if not flag.startswith("\\")} - self.keywords
        if not fresh:
            return b""
        self.keywords |= fresh
        return self.flags_line()
