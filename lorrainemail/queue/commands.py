"""What the operator may ask of the queue: the handlers behind ``lorrainemail queue``.

:func:`commands` is for the control door of a running server; :class:`Offline` does the same on the files
where none runs (the caller holds the lock of the state directory). Both answer plain values for JSON:

``queue.list``
    ``{"total": N, "items": [ITEM, ...], "next": ID or ""}``, oldest first, in pages; ``choice`` takes the
    words of :class:`~lorrainemail.queue.select.Choice`; a page may be short, or empty, before the end then;
``queue.show``
    one ITEM with everything;
``queue.retry``, ``queue.hold``, ``queue.release``, ``queue.drop``, ``queue.bounce``
    ``{"done": [ID, ...], "kept": [ID, ...]}``, for ids or for all;
``queue.history.flush``
    writes down what :func:`~lorrainemail.queue.history.records` should find; ``{}``.

An ITEM is ``{"id", "queued_at", "age", "size", "sender", "account", "door", "recipients": [{"address",
"original", "courier", "state", "attempts", "last_reply", "next_try"}]}``; ``age`` and ``next_try`` are in
seconds, the latter from now and None where none is planned. An unknown id is a PermanentError.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import attrs
from twisted.internet.defer import Deferred, gatherResults

from lorrainemail.errors import PermanentError, Reply
from lorrainemail.interfaces import QueueRecipient
from lorrainemail.queue.files import Directory
from lorrainemail.queue.format import ID, FormatError, Stored, encode
from lorrainemail.queue.history import append, record_of
from lorrainemail.queue.select import Choice
from lorrainemail.queue.spool import Entry, Spool

#: Items in one page of a list.
MAX_PAGE: Final = 500
#: Items that are looked at for one page of a choice.
MAX_LOOKED_AT: Final = 4000
#: Items that are read, or changed, at the same time.
AT_ONCE: Final = 100

Standing = dict[int, tuple[str, float]]


class Runs(Protocol):
    """What is asked of the runner."""

    def retry(self, entry: Entry) -> None: ...

    async def bounce(self, entry: Entry) -> bool: ...

    def standing(self, entry: Entry) -> Standing: ...


def commands(spool: Spool, runner: Runs) -> dict[str, Callable[..., Any]]:
    """The handlers by their names; each answers a Deferred."""
    live = _Live(spool, runner)

    def listing(
        limit: int = MAX_PAGE, after: str = "", choice: Mapping[str, Any] | None = None
    ) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(live.list(limit, after, Choice.of(choice or {})))

    def show(id: str) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(live.show(id))

    def each(action: Callable[[Entry], Any]) -> Callable[..., Deferred[dict[str, list[str]]]]:
        def handler(ids: Sequence[str] = (), all: bool = False) -> Deferred[dict[str, list[str]]]:
            return Deferred.fromCoroutine(live.each(ids, all, action))

        return handler

    return {
        "queue.list": listing,
        "queue.show": show,
        "queue.retry": each(live.retry),
        "queue.hold": each(spool.hold),
        "queue.release": each(spool.release),
        "queue.drop": each(live.drop),
        "queue.bounce": each(runner.bounce),
        "queue.history.flush": lambda: spool.history.flush().addCallback(lambda _: {}),
    }


class _Live:
    def __init__(self, spool: Spool, runner: Runs) -> None:
        self._spool = spool
        self._runner = runner

    async def list(self, limit: int, after: str, choice: Choice) -> dict[str, Any]:
        identities = self._spool.identities()
        limit = max(1, min(limit, MAX_PAGE))
        items: list[dict[str, Any]] = []
        start, looked, last = bisect_right(identities, after), 0, after
        while len(items) < limit and looked < MAX_LOOKED_AT and start + looked < len(identities):
            size = AT_ONCE if not choice.everything else min(AT_ONCE, limit - len(items))
            part = identities[start + looked : start + looked + size]
            known = [entry for one in part if (entry := self._spool.find(one)) is not None]
            found = dict(await self._spool.read_many(known))
            for identity in part:
                looked, last = looked + 1, identity
                entry = self._spool.find(identity)
                stored = None if entry is None else found.get(entry)
                if entry is None or stored is None or not choice.means(stored, self._spool.age(entry)):
                    continue
                items.append(describe(stored, self._spool.now(), self._runner.standing(entry)))
                if len(items) == limit:
                    break
        more = start + looked < len(identities)
        return {"total": self._spool.count, "items": items, "next": last if more else ""}

    async def show(self, identity: str) -> dict[str, Any]:
        item = await self._describe(self._entry(identity))
        if item is None:
            raise _unknown(identity)
        return item

    async def each(
        self, identities: Sequence[str], everything: bool, action: Callable[[Entry], Any]
    ) -> dict[str, Any]:
        entries = [self._entry(one) for one in (self._spool.identities() if everything else identities)]
        done: list[str] = []
        kept: list[str] = []
        for start in range(0, len(entries), AT_ONCE):  # together, so that they share the disk's syncs
            part = entries[start : start + AT_ONCE]
            answers = await gatherResults([Deferred.fromCoroutine(action(entry)) for entry in part])
            for entry, answer in zip(part, answers, strict=True):
                (done if answer else kept).append(entry.id)
        return {"done": done, "kept": kept}

    async def retry(self, entry: Entry) -> bool:
        stored = await self._spool.read(entry)
        if stored is None or all(one.state != "waiting" for one in stored.item.recipients):
            return False  # held
        self._runner.retry(entry)
        return True

    async def drop(self, entry: Entry) -> bool:
        await self._spool.drop(entry)
        return not self._spool.alive(entry)

    def _entry(self, identity: str) -> Entry:
        entry = self._spool.find(identity)
        if entry is None:
            raise _unknown(identity)
        return entry

    async def _describe(self, entry: Entry) -> dict[str, Any] | None:
        stored = await self._spool.read(entry)
        if stored is None:
            return None
        return describe(stored, self._spool.now(), self._runner.standing(entry))


def describe(stored: Stored, now: float, standing: Standing) -> dict[str, Any]:
    """One ITEM."""
    item = stored.item
    return {
        "id": item.envelope.id,
        "queued_at": item.queued_at,
        "age": max(0.0, round(now - item.queued_at, 1)),
        "size": item.size,
        "sender": "" if item.envelope.sender is None else str(item.envelope.sender),
        "account": item.account,
        "door": item.door,
        "recipients": [
            _recipient(one, now, standing.get(index)) for index, one in enumerate(item.recipients)
        ],
    }


def _recipient(one: QueueRecipient, now: float, standing: tuple[str, float] | None) -> dict[str, Any]:
    state: str = one.state
    next_try: float | None = None
    last_reply = one.last_reply
    if state == "waiting":
        next_try = max(0.0, round(one.next_try - now, 1))
        if standing is not None:
            state, next_try = standing[0], round(standing[1], 1)
    return {
        "address": str(one.recipient.address),
        "original": one.recipient.original,
        "courier": one.courier,
        "state": state,
        "attempts": one.attempts,
        "last_reply": last_reply,
        "next_try": next_try,
    }


def _unknown(identity: str) -> PermanentError:
    words = f"no message {identity} in the queue"
    return PermanentError(Reply(550, "5.1.0", words), words)


class Offline:
    """The same without a server, on its files.

    :param directory: of the queue; where it does not exist the queue is empty.
    :param now: wall-clock seconds.
    """

    def __init__(self, directory: Directory, now: float) -> None:
        self._directory = directory
        self._now = now

    def call(self, command: str, **arguments: Any) -> Any:
        """Answer a command as the server would.

        :raises PermanentError: for an unknown id, and for what only a server can do.
        """
        if command == "queue.list":
            return self._list(**arguments)
        if command == "queue.history.flush":
            return {}
        if command == "queue.show":
            return describe(self._read(arguments["id"]), self._now, {})
        if command == "queue.retry":
            return self._each(self._retry, **arguments)
        if command == "queue.hold":
            return self._each(lambda stored: self._state(stored, "waiting", "held"), **arguments)
        if command == "queue.release":
            return self._each(lambda stored: self._state(stored, "held", "waiting"), **arguments)
        if command == "queue.drop":
            return self._each(self._drop, **arguments)
        words = "a notice to the sender needs the running server; start it first"
        raise PermanentError(Reply(550, "5.3.0", words), words)

    def _identities(self) -> list[str]:
        try:
            names = os.listdir(self._directory.path)
        except FileNotFoundError:
            return []
        stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return sorted(stem for stem in stems if ID.match(stem))

    def _list(
        self, limit: int = MAX_PAGE, after: str = "", choice: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        identities = self._identities()
        chosen = Choice.of(choice or {})
        items: list[dict[str, Any]] = []
        start, last = bisect_right(identities, after), after
        limit = max(1, min(limit, MAX_PAGE))
        while start < len(identities) and len(items) < limit:
            last = identities[start]
            start += 1
            try:
                stored = self._directory.read(last)
            except (FormatError, OSError):
                continue  # the server puts it aside at its start, and says so
            if chosen.means(stored, self._now - stored.item.queued_at):
                items.append(describe(stored, self._now, {}))
        return {"total": len(identities), "items": items, "next": last if start < len(identities) else ""}

    def _read(self, identity: str) -> Stored:
        if not ID.match(identity):
            raise _unknown(identity)
        try:
            return self._directory.read(identity)
        except FileNotFoundError:
            raise _unknown(identity) from None
        except FormatError as error:
            words = f"{self._directory.envelope(identity)} is damaged: {error}"
            raise PermanentError(Reply(550, "5.3.0", words), words) from None

    def _each(
        self, action: Callable[[Stored], bool], ids: Sequence[str] = (), all: bool = False
    ) -> dict[str, list[str]]:
        done: list[str] = []
        kept: list[str] = []
        for stored in [self._read(identity) for identity in (self._identities() if all else ids)]:
            (done if action(stored) else kept).append(stored.item.envelope.id)
        return {"done": done, "kept": kept}

    def _drop(self, stored: Stored) -> bool:
        item = stored.item
        ends = [
            record_of(self._now, "dropped", item, one, self._now - item.queued_at)
            for one in item.recipients
            if one.state != "done"
        ]
        append(self._directory.history, ends, self._now)
        self._directory.remove([item.envelope.id])
        return True

    def _retry(self, stored: Stored) -> bool:
        """Due at once when the server starts."""
        if all(one.state != "waiting" for one in stored.item.recipients):
            return False  # held
        self._replace(stored, [attrs.evolve(one, next_try=0.0) for one in stored.item.recipients])
        return True

    def _state(self, stored: Stored, old: str, new: Literal["waiting", "held"]) -> bool:
        recipients = stored.item.recipients
        if all(one.state != old for one in recipients):
            return False
        changed = [attrs.evolve(one, state=new) if one.state == old else one for one in recipients]
        if new == "waiting":
            changed = [attrs.evolve(one, next_try=0.0) for one in changed]
        self._replace(stored, changed)
        return True

    def _replace(self, stored: Stored, recipients: Sequence[QueueRecipient]) -> None:
        item = attrs.evolve(stored.item, recipients=tuple(recipients))
        self._directory.replace(item.envelope.id, encode(attrs.evolve(stored, item=item)))
