"""What one session believes its mailbox to hold: an array of UIDs, whose positions are the sequence numbers.

The mailbox itself is always newer; its notices are gathered here and told to the client only where RFC 3501
§7.4.1 allows it, by :meth:`View.updates`. Until then sequence numbers stay as they are. Owned by one session
each; the mailbox is shared by all.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

from lorrainemail.grammar.imap import flag_list
from lorrainemail.grammar.imap_sets import SequenceSet
from lorrainemail.interfaces import IMailbox, MailboxChange

#: Flag changes, and expunged messages, told in one turn.
MAX_FLAG_UPDATES: Final = 1000
MAX_EXPUNGES: Final = 5000

SYSTEM_FLAGS: Final = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")


class View:
    """One session's picture of one mailbox.

    :param read_only: by EXAMINE; nothing is changed, not even ``\\Recent`` claimed.
    :param notify: called at each notice of the mailbox (a session in IDLE tells its client at once).
    :ivar uids: ascending; the message at position i has the sequence number i + 1.
    :ivar gone: the mailbox itself was deleted.
    :ivar keywords: those that the client was told of by FLAGS.
    """

    __slots__ = (
        "_added", "_changed", "_end_watch", "_expunged", "_notify", "gone", "keywords", "mailbox",
        "read_only", "recent", "uids",
    )  # fmt: skip

    def __init__(self, mailbox: IMailbox, read_only: bool, notify: Callable[[], None]) -> None:
        self.mailbox = mailbox
        self.read_only = read_only
        self.gone = False
        self.keywords: set[str] = set()
        self._notify = notify
        self._added: set[int] = set()
        self._expunged: set[int] = set()
        self._changed: set[int] = set()
        self._end_watch = mailbox.watch(self._noticed)
        self.uids = array("I", mailbox.uids())
        self.recent: set[int] = set() if read_only else set(mailbox.claim_recent(self.uids))

    def close(self) -> None:
        """Let go of the mailbox."""
        self._end_watch()
        self.mailbox.close()

    def _noticed(self, change: MailboxChange) -> None:
        if change.kind == "added":
            self._added.update(change.uids)
        elif change.kind == "expunged":
            self._expunged.update(change.uids)
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
        if not by_uid and messages.highest > len(self.uids) and not (not self.uids and messages.has_star):
            return None
        return messages.indexes(self.uids, by_uid)

    def index_of(self, uid: int) -> int:
        """A message's position, -1 where it is not (yet, any more) in the view."""
        index = bisect_left(self.uids, uid)
        return index if index < len(self.uids) and self.uids[index] == uid else -1

    # -- what has changed --

    def note_expunged(self, uids: Sequence[int]) -> None:
        """Messages that this session itself removed."""
        self._expunged.update(uids)

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
        if not (self._added or self._expunged or self._changed):
            return []
        out: list[bytes] = []
        if expunges and self._expunged:
            self._remove(out)
        if self._added:
            self._append(out)
        if self._changed:
            self._flags(out, with_uid)
        return out

    def _remove(self, out: list[bytes]) -> None:
        expunged = self._expunged
        if len(expunged) > MAX_EXPUNGES:
            expunged = set(sorted(expunged, reverse=True)[:MAX_EXPUNGES])
        self._expunged = self._expunged - expunged
        self._added -= expunged
        self._changed -= expunged
        indexes = sorted((i for uid in expunged if (i := self.index_of(uid)) >= 0), reverse=True)
        # from the highest down, so that no number shifts under another
        out.extend(b"* %d EXPUNGE\r\n" % (index + 1) for index in indexes)
        if len(indexes) > 100:
            self.uids = array("I", (uid for uid in self.uids if uid not in expunged))
        else:
            for index in indexes:
                del self.uids[index]
        self.recent -= expunged

    def _append(self, out: list[bytes]) -> None:
        last = self.uids[-1] if self.uids else 0
        new = sorted(uid for uid in self._added if uid > last and uid not in self._expunged)
        self._added.clear()
        if not new:
            return
        self.uids.extend(new)
        if not self.read_only:
            self.recent |= self.mailbox.claim_recent(new)
        out.append(b"* %d EXISTS\r\n* %d RECENT\r\n" % (len(self.uids), len(self.recent)))

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
            shown = flag_list(flags, uid in self.recent)
            if with_uid:
                lines.append(b"* %d FETCH (UID %d FLAGS %b)\r\n" % (index + 1, uid, shown))
            else:
                lines.append(b"* %d FETCH (FLAGS %b)\r\n" % (index + 1, shown))
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
