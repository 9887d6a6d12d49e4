"""The check ``classifier``: what each recipient's own mail so far says of a message. And how it learns.

:class:`Classifier` is asked at the final dot, for strangers' mail: each local recipient's file is asked in a
thread, and the verdict may differ by recipient. It names the words and facts that decided.

:class:`Learning` hears from the store what is moved: into Junk is junk, out of it (or from anywhere into
another folder but Trash, Drafts and Sent) is not. What was only delivered somewhere teaches nothing. As
people move more junk than anything else, some read mail of the INBOX is learned as good beside it. Neither
delays mail: a failure is logged, and says nothing of the message.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.addresses import parse_address
from lorrainemail.errors import Reply
from lorrainemail.filters.classifier_file import ClassifierFile
from lorrainemail.filters.stream import InThread
from lorrainemail.filters.words import MAX_OCTETS, words_of
from lorrainemail.interfaces import (
    Accepted,
    Action,
    Circumstances,
    IMailbox,
    IMailHome,
    IPolicyCheck,
    IStore,
    ITables,
    LocalMailbox,
    MessageFacts,
    Stage,
    Verdict,
    later,
)
from lorrainemail.store.paths import home_path

#: Accounts of one message that are asked.
MAX_ACCOUNTS: Final = 50
#: Messages that one move teaches at most, and good ones that are learned beside junk.
MAX_AT_ONCE: Final = 200
BESIDE: Final = 20
#: Seconds between a move and the look at it, which others may join.
DELAY: Final = 1.0
#: Seconds between delivery and move that tell the two apart where both happened at once.
APART: Final = 2
JUNK: Final = "Junk"
_LEFT_ALONE: Final = frozenset({"Trash", "Drafts", "Sent"})

REFUSED: Final = Reply(550, "5.7.1", "The recipient takes such mail for junk")

_log = Logger("lorrainemail.filters")


@implementer(IPolicyCheck)
class Classifier:
    """See the module.

    :param mail: the directory of all homes.
    """

    name: ClassVar[str] = "classifier"

    def __init__(self, mail: str, in_thread: InThread | None) -> None:
        self.stages: frozenset[Stage] = frozenset({"data"})
        self._mail = mail
        self._in_thread = in_thread

    def judge(self, circumstances: Circumstances) -> Verdict | None | Deferred[Verdict | None]:
        session, content = circumstances.session, circumstances.content
        relay = circumstances.relay
        if content is None or session.account or (relay is not None and relay.allowed):
            return None
        fields = b"".join(verdict.field for verdict in circumstances.earlier)
        octets = fields + content.head(MAX_OCTETS)
        accepted = circumstances.accepted[:MAX_ACCOUNTS]
        if self._in_thread is None:
            return self._judge(octets, accepted)
        answer: Deferred[Verdict | None] = self._in_thread(partial(self._judge, octets, accepted))
        return answer

    def _judge(self, octets: bytes, accepted: tuple[Accepted, ...]) -> Verdict | None:
        words = words_of(octets)
        told: dict[str, str] = {}
        each: list[Action] = []
        for one in accepted:
            action = Action.CONTINUE
            for final in one.expansion.finals:
                if isinstance(final, LocalMailbox):
                    address = final.account.address
                    home = os.path.join(self._mail, home_path(address))
                    judgement = ClassifierFile(home).judge(words)
                    told[address.key] = str(judgement)
                    action = max(action, Action.JUNK if judgement.junk else Action.CONTINUE)
            each.append(action)
        if not told:
            return None
        if len(told) == 1:
            (reason,) = told.values()
        else:
            reason = "; ".join(f"{key}: {words}" for key, words in told.items())
        if len(set(each)) == 1:
            return Verdict(each[0], self.name, reason, REFUSED)
        return Verdict(Action.CONTINUE, self.name, reason, each=tuple(each))


class Learning(Service):
    """See the module.

    :param tables: gives the current tables. ``mail``: the directory of all homes.
    """

    name = "classifier"

    def __init__(
        self,
        store: IStore,
        tables: Callable[[], ITables],
        in_thread: InThread,
        clock: IReactorTime,
        mail: str,
    ) -> None:
        self.active = True
        self._store = store
        self._tables = tables
        self._in_thread = in_thread
        self._clock = clock
        self._mail = mail
        self._waiting: dict[tuple[str, str], set[str]] = {}
        self._call: IDelayedCall | None = None
        self._busy: Deferred[None] | None = None
        store.watch(self._event)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return self._busy

    def _event(self, event: str, account: str, folder: str) -> None:
        if not self.active or folder in _LEFT_ALONE or not self.running:
            return
        if event == "copied" or (event == "delivered" and folder == JUNK):
            self._waiting.setdefault((account, folder), set()).add(event)
            self._soon()

    def _soon(self) -> None:
        if self._call is None and self._busy is None and self.running:
            self._call = self._clock.callLater(DELAY, self._turn)

    def _turn(self) -> None:
        self._call = None
        self._busy = Deferred.fromCoroutine(self.work())

        def done(_: object) -> None:
            self._busy = None
            if self._waiting:
                self._soon()

        self._busy.addCallback(done)

    async def work(self) -> None:
        """Learn what was moved."""
        waiting, self._waiting = self._waiting, {}
        for (key, folder), events in waiting.items():
            try:
                await self._learn(key, folder, events)
            except Exception:
                _log.failure("The classifier of {account} learned nothing", account=key)

    async def _learn(self, key: str, folder: str, events: set[str]) -> None:
        address = parse_address(key)
        account = await later(self._tables().account(address))
        if account is None:
            return
        file = ClassifierFile(os.path.join(self._mail, home_path(address)))
        home, junk = self._store.home(account), folder == JUNK
        mailbox = await home.open(folder)
        try:
            name = f"folder {mailbox.mailbox_id}"
            mark = await self._in_thread(partial(file.mark, name))
            new = [uid for uid in mailbox.uids() if uid > int(mark or 0)]
            if events == {"delivered"} and not mark:
                new = []
            moved = await self._moved(mailbox, new[-MAX_AT_ONCE:], events, bool(mark) or junk)
            learned = [await self._one(mailbox, one, file, junk) for one in moved]
            if mailbox.uids():
                await self._in_thread(partial(file.set_mark, name, str(max(mailbox.uids()))))
        finally:
            mailbox.close()
        if junk and any(learned):
            await self._balance(home, file)

    async def _moved(
        self, mailbox: IMailbox, uids: list[int], events: set[str], known: bool
    ) -> list[MessageFacts]:
        """Those of the messages that somebody put there."""
        if events == {"delivered"}:
            return []
        facts = await mailbox.facts(uids)
        if "delivered" in events:
            return [one for one in facts if one.save_date - one.internal_date > APART]
        if not known:
            # Nobody looked here before: only what came now was moved now.
            now = self._clock.seconds()
            return [one for one in facts if now - one.save_date < 60]
        return facts

    async def _one(self, mailbox: IMailbox, facts: MessageFacts, file: ClassifierFile, junk: bool) -> bool:
        message = await mailbox.message(facts.uid)
        try:
            octets = await message.read(0, MAX_OCTETS)
        finally:
            message.close()

        def learn() -> bool:
            return file.learn(facts.message_id, words_of(octets), junk)

        done: bool = await self._in_thread(learn)
        return done

    async def _balance(self, home: IMailHome, file: ClassifierFile) -> None:
        """Some read mail of the INBOX beside the junk, while there is less good mail than junk."""
        junk, other = await self._in_thread(file.totals)
        if other >= junk:
            return
        mailbox = await home.open("INBOX")
        try:
            read = [uid for uid in mailbox.uids() if "\\Seen" in (mailbox.flags(uid) or ())]
            for facts in await mailbox.facts(read[-BESIDE * 5 :][::-1]):
                if other >= junk:
                    return
                try:
                    other += await self._one(mailbox, facts, file, False)
                except sqlite3.Error:
                    return
        finally:
            mailbox.close()
