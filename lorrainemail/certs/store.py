"""The certificates of a running server: watched, exchanged while connections live, none ends unseen.

:class:`CertificateStore` is composed by :mod:`lorrainemail.service`. It tells
:class:`~lorrainemail.net.tls.ServerTls` what to show: at start, in the process that still has its privileges;
at a reload of the configuration; whenever a look, every :data:`LOOK` seconds, finds a file changed (by any
program, in any order); and at once where our own ACME has a new one (:meth:`CertificateStore.look`).

Invariants. New files that cannot be read, do not fit together or have ended already leave the certificate in
use as it was; they are an alarm when the next look finds them so still (chain and key are seldom written in
one moment). The self-signed certificate is shown only while no better one covers our own name. Files are read
in a thread. Fails at start, with :class:`~lorrainemail.errors.ConfigurationError`; later raises alarms only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, execute
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from lorrainemail.certs import selfsigned
from lorrainemail.certs.expiry import DAY, ending, remember, warning
from lorrainemail.certs.sources import Origin, Source, Sources, find, unreadable
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.net.certificates import CertificatePair, Loaded, load
from lorrainemail.net.tls import ServerTls
from lorrainemail.ops.metrics import Gauge

#: Seconds between looks at the files: a ``stat`` each.
LOOK: Final = 30.0
#: Looks in a row after which new files that cannot be used are an alarm.
PATIENCE: Final = 2
#: Which warnings were given, in the state directory's ``tls``.
WARNED: Final = "warned.json"

_ENDS = Gauge(
    "lorrainemail_certificate_not_after_timestamp_seconds",
    "When a certificate that is shown ends",
    ["name", "key", "origin"],
)

InThread = Callable[..., Deferred[Any]]
Stamp = tuple[tuple[int, int, int], ...]


@attrs.frozen(slots=True, eq=False)
class Seen:
    """What one look found.

    :ivar pairs: in the order in which they are shown, with the stamp of their files.
    :ivar failed: what cannot be used, by pair; ``folders``: what could not be looked into.
    """

    pairs: dict[CertificatePair, Origin]
    stamps: dict[CertificatePair, Stamp]
    loaded: dict[CertificatePair, Loaded]
    failed: dict[CertificatePair, Problem]
    folders: tuple[Problem, ...] = ()


def stamp(pair: CertificatePair) -> Stamp:
    """What changes when a file is written or a link is set anew; empty where one is missing."""
    try:
        facts = [os.stat(path) for path in (pair.certificate, pair.key)]
    except OSError:
        return ()
    return tuple((fact.st_ino, fact.st_mtime_ns, fact.st_size) for fact in facts)


class CertificateStore(Service):
    """Every certificate that the server shows.

    :param tell: a note to the postmaster: subject and text.
    :param in_thread: runs blocking work; by default in the caller's own thread.
    :raises ConfigurationError: where a file that the configuration names cannot be used.
    """

    name = "certificates"
    _log: ClassVar[Logger] = Logger(namespace="lorrainemail.certs")

    def __init__(
        self,
        tls: ServerTls,
        sources: Sources,
        clock: IReactorTime,
        tell: Callable[[str, str], None] = lambda subject, text: None,
        in_thread: InThread = execute,
    ) -> None:
        self._tls = tls
        self._clock = clock
        self._tell = tell
        self._in_thread = in_thread
        self._lock = DeferredLock()
        self._listeners: list[Callable[[], None]] = []
        self._failures: dict[CertificatePair, int] = {}
        self._alarms: dict[str, Problem] = {}
        self._steps: dict[str, int] = {}
        self._seen = Seen({}, {}, {}, {})
        self.sources = sources
        self._use(self.prepare(sources))
        self._looks = LoopingCall(self.look)
        self._looks.clock = clock

    def startService(self) -> None:
        Service.startService(self)  # type: ignore[no-untyped-call]
        self._looks.start(LOOK, now=False)
        self._expiry()

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)  # type: ignore[no-untyped-call]
        if self._looks.running:
            self._looks.stop()
        return self._lock.run(lambda: None)

    # -- what is shown -------------------------------------------------------------------------------

    def certificates(self) -> list[tuple[Loaded, Origin]]:
        """What is shown and who keeps it, the default first."""
        return [(one, self._seen.pairs[one.pair]) for one in self._tls.certificates()]

    def trusted(self) -> Loaded | None:
        """The certificate of an authority for our own name; None while ours is self-signed, or has ended."""
        now, name = self._clock.seconds(), self.sources.hostname
        good = (
            one
            for one, origin in self.certificates()
            if origin != "self-signed" and one.covers(name) and one.seconds_left(now) > 0
        )
        return next(good, None)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Be told, in the reactor's thread, whenever something else is shown."""
        self._listeners.append(listener)

    def alarms(self) -> list[Problem]:
        return list(self._alarms.values())

    def describe(self) -> list[dict[str, Any]]:
        """For ``status`` and ``certificate list``."""
        now = self._clock.seconds()
        return [
            {
                "names": sorted(one.names),
                "key": one.kind,
                "origin": origin,
                "issuer": one.issuer,
                "not_before": one.not_before.isoformat(),
                "not_after": one.not_after.isoformat(),
                "days_left": round(one.seconds_left(now) / DAY, 1),
                "fingerprint": one.fingerprint,
                "public_key": one.public_key,
                "file": one.pair.certificate,
            }
            for one, origin in self.certificates()
        ]

    # -- the configuration ---------------------------------------------------------------------------

    def prepare(self, sources: Sources) -> Seen:
        """Read everything anew, strictly; nothing changes yet.

        :raises ConfigurationError: for a file or folder that the configuration names.
        :raises OSError: where the self-signed certificate cannot be written.
        """
        seen = self._looked(sources, Seen({}, {}, {}, {}))
        named = [*seen.folders] + [
            problem for pair, problem in seen.failed.items() if seen.pairs[pair] == "configured"
        ]
        if named:
            raise ConfigurationError(tuple(named))
        return seen

    def use(self, sources: Sources, seen: Seen) -> None:
        """Take what :meth:`prepare` read.

        :raises ConfigurationError: where TLS does not take it; nothing has changed.
        """
        self._use(seen, sources)

    # -- looks ---------------------------------------------------------------------------------------

    def look(self) -> Deferred[None]:
        """Look at the files now; fires when what changed is shown. Never fails."""

        def work() -> Deferred[None]:
            sources = self.sources
            done: Deferred[Any] = self._in_thread(self._looked, sources, self._seen)
            return done.addCallback(self._take, sources)

        done: Deferred[None] = self._lock.run(work)
        return done.addErrback(self._not_done)

    def _not_done(self, failure: Any) -> None:
        self._log.failure("The certificates could not be looked at", failure)

    def _looked(self, sources: Sources, before: Seen) -> Seen:
        """In a thread: what there is now; what did not change is not read again."""
        folders: tuple[Problem, ...] = ()
        try:
            found = find(sources)
        except OSError as error:
            folders = (unreadable(error),)
            found = tuple(Source(pair, origin) for pair, origin in before.pairs.items())
        # What was there and is shown stays, though its files may be away for a moment.
        kept = [Source(p, origin) for p, origin in before.pairs.items() if self._stays(p, origin, sources)]
        seen = Seen({}, {}, {}, {}, folders)
        for source in dict.fromkeys((*found, *kept)):
            if source.origin != "self-signed":
                self._read(source, before, seen)
        if sources.configured is None and not any(
            one.covers(sources.hostname) and one.seconds_left(self._clock.seconds()) > 0
            for one in seen.loaded.values()
        ):
            return self._with_self_signed(sources, before, seen)
        return seen

    def _stays(self, pair: CertificatePair, origin: Origin, sources: Sources) -> bool:
        if origin == "configured":
            return pair == sources.configured
        return origin == "acme" or any(
            os.path.dirname(pair.certificate).startswith(folder) for folder in sources.folders
        )

    def _read(self, source: Source, before: Seen, seen: Seen) -> None:
        pair = source.pair
        seen.pairs[pair] = source.origin
        seen.stamps[pair] = stamp(pair)
        old = before.loaded.get(pair)
        if old is not None and seen.stamps[pair] == before.stamps.get(pair) and pair not in before.failed:
            seen.loaded[pair] = old
            return
        try:
            new = load(pair)
            if old is not None and new.seconds_left(self._clock.seconds()) <= 0 < old.seconds_left(
                self._clock.seconds()
            ):
                words = f"the new certificate ended on {new.not_after:%Y-%m-%d}"
                problem = Problem(pair.certificate, 0, words, "put one there that is valid")
                raise ConfigurationError((problem,))
            seen.loaded[pair] = new
        except ConfigurationError as error:
            seen.failed[pair] = error.problems[0]
            if old is not None:
                seen.loaded[pair] = old

    def _with_self_signed(self, sources: Sources, before: Seen, seen: Seen) -> Seen:
        """Ours stands first: it is the only one for our own name."""
        now = datetime.fromtimestamp(self._clock.seconds(), UTC)
        directory = os.path.join(sources.state, "tls")
        made = selfsigned.ensure(directory, sources.hostname, now, sources.loopback)
        source = Source(CertificatePair(made.certificate, made.key), "self-signed")
        first = Seen({}, {}, {}, {})
        self._read(source, before, first)
        return Seen(
            {**first.pairs, **seen.pairs},
            {**first.stamps, **seen.stamps},
            {**first.loaded, **seen.loaded},
            {**first.failed, **seen.failed},
            seen.folders,
        )

    def _take(self, seen: Seen, sources: Sources) -> None:
        if sources is not self.sources:
            return  # a reload of the configuration came in between, with newer eyes
        try:
            self._use(seen)
        except ConfigurationError as error:
            self._raise("tls", error.problems[0])
        self._expiry()

    def _use(self, seen: Seen, sources: Sources | None = None) -> None:
        """Show what was found."""
        used = sources or self.sources
        order = [seen.loaded[pair] for pair in seen.pairs if pair in seen.loaded]
        if not order:
            raise ConfigurationError(tuple(seen.failed.values()))
        before = self._tls.certificates()
        changed = [one.fingerprint for one in order] != [one.fingerprint for one in before]
        if changed or used.old_peers != self.sources.old_peers:
            self._tls.use(order, used.old_peers)
        self._seen, self.sources = seen, used
        self._note_failures(seen)
        if changed:
            self._changed(before)

    def _changed(self, before: tuple[Loaded, ...]) -> None:
        old = {one.fingerprint for one in before}
        _ENDS.clear()
        for one, origin in self.certificates():
            first = min(one.names, default="")
            _ENDS.labels(first, one.kind, origin).set(one.not_after.timestamp())
            if before and one.fingerprint not in old:
                self._log.info(
                    "New connections get the certificate {file} ({key}, for {names}), valid until {until}",
                    file=one.pair.certificate,
                    key=one.kind,
                    names=" ".join(sorted(one.names)[:5]),
                    until=f"{one.not_after:%Y-%m-%d}",
                )
        for listener in self._listeners:
            listener()

    # -- alarms --------------------------------------------------------------------------------------

    def _note_failures(self, seen: Seen) -> None:
        failed = seen.failed
        self._failures = {pair: self._failures.get(pair, 0) + 1 for pair in failed}
        for pair, problem in failed.items():
            if self._failures[pair] >= PATIENCE or pair not in seen.loaded:
                self._raise(f"file {pair.certificate}", problem, "The certificate in use stays as it was")
        for problem in seen.folders:
            self._raise(f"folder {problem.where}", problem, "The certificates in use stay as they were")
        now = {f"file {pair.certificate}" for pair in failed} | {f"folder {p.where}" for p in seen.folders}
        for key in [k for k in self._alarms if k.startswith(("file ", "folder ")) and k not in now]:
            self._log.info("{file} can be used again", file=self._alarms.pop(key).where)
        self._alarms.pop("tls", None)

    def _raise(self, key: str, problem: Problem, consequence: str = "") -> None:
        if self._alarms.get(key) != problem:
            self._alarms[key] = problem
            self._log.error("{problem}", problem=str(problem))
            if consequence:
                text = f"{problem}\n\n{consequence} until this is mended.\n"
                self._tell("A certificate cannot be used", text)

    # -- the end of a certificate --------------------------------------------------------------------

    def _expiry(self) -> None:
        """Alarms for certificates that near their end, and a note at each step."""
        found = ending(self.certificates(), self._clock.seconds())
        for key in [key for key in self._alarms if key.startswith("end ")]:
            del self._alarms[key]
        for one, _, problem in found:
            self._alarms[f"end {one.fingerprint}"] = problem
        steps = {one.fingerprint: step for one, step, _ in found}
        if steps == self._steps:
            return
        self._steps = steps
        path = os.path.join(self.sources.state, "tls", WARNED)
        told = self._in_thread(remember, path, steps)
        told.addCallback(self._warn, {one.fingerprint: one for one, _, _ in found})
        told.addErrback(self._not_done)

    def _warn(self, news: list[str], certificates: dict[str, Loaded]) -> None:
        for fingerprint in news:
            subject, text = warning(certificates[fingerprint], self._clock.seconds())
            self._log.error("{words}", words=subject)
            self._tell(subject, text)
