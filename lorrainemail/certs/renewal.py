"""Certificates by ACME: which are wanted, when they are fetched and renewed, and what if that fails.

:class:`Renewals` is composed by :mod:`lorrainemail.service` and looks every :data:`LOOK` seconds at what is
    due: a certificate that is missing, lacks a name, or has come to its time. That time is the authority's
    own word (ARI, RFC 9773), else after two thirds of its life. One order at a time; a failure puts the next
    try off, longer each time, is an alarm from the first on, and from the third the postmaster knows of it,
    weeks before anything ends. Without ``[acme] directory`` nothing is done, and what speaks ACME is not even
    imported.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lorrainemail.certs.acme_state import AcmeState, Status
from lorrainemail.certs.challenges import Challenges
from lorrainemail.certs.sources import acme_file
from lorrainemail.certs.store import CertificateStore
from lorrainemail.certs.wishes import Surroundings, Wanted, Wishes
from lorrainemail.config.model import Acme
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.interfaces import IResolver
from lorrainemail.net.certificates import Loaded
from lorrainemail.net.tls import ClientTls
from lorrainemail.ops.metrics import Counter
from lorrainemail.ops.rounds import Rounds

if TYPE_CHECKING:
    from lorrainemail.certs.acme import AcmeClient

_ORDERS = Counter("lorrainemail_acme_orders_total", "Certificates ordered by ACME", ["result"])

#: Seconds between looks at what is due, and until the first one.
LOOK: Final = 60.0
FIRST: Final = 1.0
#: Seconds until the next try after the first, second, ... failure in a row.
BACK_OFF: Final = (300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0)
#: Failures in a row after which the postmaster is told.
TELL: Final = 3
#: How often the authority is asked when it would have a certificate renewed: bounds of its own wish.
LEAST_ASK: Final = 3600.0
MOST_ASK: Final = 86400.0
#: Age that a certificate must have before it is renewed at the authority's wish: a wish that never ends would
#: be one order after the other.
YOUNG: Final = 86400.0
#: Life below which a certificate is renewed after half of it; longer ones after two thirds.
SHORT: Final = 10 * 86400.0

InThread = Callable[..., Deferred[Any]]


class Renewals(Rounds):
    """Everything that is fetched by ACME.

    :param settings: ``[acme]``; may be exchanged while running.
    :param tell: a note to the postmaster.
    """

    name = "acme"
    _log: ClassVar[Logger] = Logger(namespace="lorrainemail.certs")

    def __init__(
        self,
        settings: Acme,
        state: str,
        surroundings: Surroundings,
        store: CertificateStore,
        challenges: Challenges,
        resolver: IResolver,
        reactor: Any,
        tell: Callable[[str, str], None],
        in_thread: InThread,
    ) -> None:
        super().__init__(reactor, FIRST, LOOK)
        self.settings = settings
        self._state_directory = state
        self._kept = AcmeState(state)
        self._around = surroundings
        self._store = store
        self._challenges = challenges
        self._tell = tell
        self._in_thread = in_thread
        self._status: dict[Wanted, Status] = {}
        self._wishes = Wishes(surroundings, resolver, self._has)
        self._client: tuple[Acme, AcmeClient] | None = None
        self._dice = random.Random()  # spreads renewals; guards nothing

    def forget_wanted(self) -> None:
        """The tables or the configuration have changed: work out anew what is wanted."""
        self._wishes.forget()

    # -- for commands and alarms -----------------------------------------------------------------------

    def alarms(self) -> list[Problem]:
        """What could not be fetched."""
        if not self.settings.directory:
            return []
        return [
            Problem(
                acme_file(self._state_directory, wanted.folder, wanted.kind),
                0,
                f"no {wanted.kind} certificate for {wanted.names[0]} from the authority: {status.error}",
                f"{status.failures} tries so far; mend that, then: lorrainemail certificate renew",
            )
            for wanted, status in self._status.items()
            if status.failures and wanted in self._wishes.known
        ]

    def describe(self) -> dict[str, Any]:
        """For ``certificate list``."""
        rows = []
        for wanted in self._wishes.known:
            status, current = self._status.get(wanted, Status()), self._current(wanted)
            due = self._renew_at(current, status) if current is not None else None
            rows.append(
                {
                    "name": wanted.folder,
                    "names": list(wanted.names),
                    "key": wanted.kind,
                    "have": current is not None,
                    "renew_at": due,
                    "failures": status.failures,
                    "error": status.error,
                    "next_try": status.next_try if status.failures else None,
                }
            )
        return {"directory": self.settings.directory, "busy": self.under_way, "wanted": rows}

    def renew(self, name: str = "", force: bool = False) -> dict[str, Any]:
        """Begin to fetch what is due, put off or not; ``force``: also what is not due. The rest is seen in
        :meth:`describe`.

        :param name: of one certificate, "" for all.
        """
        begun = not self.under_way and bool(self.settings.directory)
        if begun:
            self.forget_wanted()
            self._begin(lambda wanted: not name or name in (wanted.folder, *wanted.names), True, force)
        return {"begun": begun, "directory": self.settings.directory}

    # -- rounds ----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Fetch what is due, unless that is under way."""
        if not self.under_way and self.settings.directory:
            self._begin(lambda wanted: True, False, False)

    def _begin(self, which: Callable[[Wanted], bool], now: bool, force: bool) -> None:
        self.begin(self._go_round(which, now, force), "The certificates could not be looked after")

    async def _go_round(self, which: Callable[[Wanted], bool], now: bool, force: bool) -> None:
        for wanted in await self._wishes.now(self.settings, self._clock.seconds()):
            if not which(wanted) or not self.running:
                continue
            status = await self._known(wanted)
            if self._clock.seconds() < status.next_try and not now:
                continue
            if force or await self._due(wanted, status):
                await self._fetch(wanted)

    async def _known(self, wanted: Wanted) -> Status:
        status = self._status.get(wanted)
        if status is None:
            status = await self._in_thread(self._kept.status, wanted.folder, wanted.kind)
            self._status[wanted] = status
        return status

    async def _note(self, wanted: Wanted, status: Status) -> None:
        self._status[wanted] = status
        try:
            await self._in_thread(self._kept.note, wanted.folder, wanted.kind, status)
        except OSError as error:
            self._log.error(
                "How {name} stands could not be kept: {error}", name=wanted.folder, error=str(error)
            )

    # -- what is due -----------------------------------------------------------------------------------

    def _current(self, wanted: Wanted) -> Loaded | None:
        path = acme_file(self._state_directory, wanted.folder, wanted.kind)
        return next((one for one, _ in self._store.certificates() if one.pair.certificate == path), None)

    def _has(self, name: str) -> bool:
        return any(name in one.names for one, origin in self._store.certificates() if origin == "acme")

    async def _due(self, wanted: Wanted, status: Status) -> bool:
        now, current = self._clock.seconds(), self._current(wanted)
        if current is None or not set(wanted.names) <= current.names or current.seconds_left(now) <= 0:
            return True
        if now >= status.ask_again:
            status = await self._ask(wanted, current, status)
        moment: float = self._renew_at(current, status)
        return bool(now >= moment)

    def _renew_at(self, current: Loaded, status: Status) -> float:
        begin, end = current.not_before.timestamp(), current.not_after.timestamp()
        if status.renew_at:
            return max(status.renew_at, begin + min(YOUNG, (end - begin) / 4))
        life = end - begin
        # Certificates that were made together are not all renewed in one minute.
        share = int(current.fingerprint[:4], 16) / 0x10000
        return begin + life * ((1 / 2 if life <= SHORT else 2 / 3) - share / 50)

    async def _ask(self, wanted: Wanted, current: Loaded, status: Status) -> Status:
        """When the authority would have it renewed: one moment of its window, kept until the window moves
        away from it (RFC 9773 §4.2)."""
        from cryptography import x509

        from lorrainemail.certs.acme import AcmeError

        now = self._clock.seconds()
        try:
            client = await self._account()
            certificate = x509.load_pem_x509_certificate(current.chain)
            suggestion = await client.suggestion(certificate, now)
        except (AcmeError, ConfigurationError, OSError) as error:
            # Our own reckoning holds, and the authority is asked again later.
            self._log.debug("No renewal time for {name}: {error}", name=wanted.folder, error=str(error))
            status = attrs.evolve(status, ask_again=now + LEAST_ASK)
            self._status[wanted] = status
            return status
        if suggestion is None:
            status = attrs.evolve(status, renew_at=0.0, ask_again=now + MOST_ASK)
        else:
            moment = status.renew_at
            if not suggestion.start <= moment <= suggestion.end:
                moment = self._dice.uniform(suggestion.start, suggestion.end)
            if suggestion.end < current.not_after.timestamp() and moment != status.renew_at:
                self._log.info(
                    "The authority would have the {key} certificate of {name} renewed at {when} {why}",
                    key=wanted.kind,
                    name=wanted.folder,
                    when=f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC",
                    why=suggestion.explanation,
                )
            again = now + min(max(suggestion.again, LEAST_ASK), MOST_ASK)
            # Never later than what we would do ourselves when nobody answered.
            last = (
                current.not_after.timestamp() - (current.not_after - current.not_before).total_seconds() / 6
            )
            status = attrs.evolve(status, renew_at=min(moment, last), ask_again=again)
        await self._note(wanted, status)
        return status

    # -- fetching --------------------------------------------------------------------------------------

    async def _account(self) -> AcmeClient:
        """The client, with an account."""
        from lorrainemail.certs.acme import AcmeClient, AcmeError, Credentials
        from lorrainemail.certs.fetch import Fetcher

        settings = self.settings
        if self._client is not None and self._client[0] == settings:
            return self._client[1]
        key, account = await self._in_thread(self._kept.account, settings.directory)
        client = AcmeClient(Fetcher(self._clock, ClientTls(settings.trust)), settings.directory, key, account)
        if not account:
            credentials = None
            if settings.credentials:
                row = self._around.secret(settings.credentials)
                if row is None:
                    raise AcmeError(f'the credentials file has no row "{settings.credentials}"')
                credentials = Credentials(*row)
            account = await client.register(settings.contact, credentials)
            await self._in_thread(self._kept.keep_account, settings.directory, key, account)
        self._client = (settings, client)
        return client

    async def _fetch(self, wanted: Wanted) -> None:
        """One order; its outcome is noted."""
        from lorrainemail.certs.acme import AcmeError

        before = self._status[wanted]
        try:
            await self._order(wanted)
        except AcmeError as error:
            if error.kind == "accountDoesNotExist":
                await self._forget_account()
            await self._failed(wanted, before, str(error), error.wait)
        except (ConfigurationError, OSError) as error:
            await self._failed(wanted, before, str(error), None)
        else:
            _ORDERS.labels("issued").inc()
            self._status[wanted] = await self._in_thread(self._kept.status, wanted.folder, wanted.kind)
            if before.told:
                self._tell(
                    f"The certificate for {wanted.names[0]} is in order again",
                    f"The {wanted.kind} certificate for {', '.join(wanted.names[:10])} was renewed.\n",
                )

    async def _order(self, wanted: Wanted) -> None:
        from cryptography import x509

        from lorrainemail.certs.acme import certificate_id
        from lorrainemail.certs.order import obtain

        client = await self._account()
        current = self._current(wanted)
        replaces = "" if current is None else certificate_id(x509.load_pem_x509_certificate(current.chain))
        now = self._clock.seconds()
        key = await self._in_thread(self._kept.key_for_order, wanted.folder, wanted.kind, now)
        ways = [way for way in self.settings.challenges if way in self._around.ways()]
        chain = await obtain(client, self._challenges, wanted.names, ways, key, self._clock, replaces)
        await self._in_thread(self._kept.keep, wanted.folder, wanted.kind, key, chain, self._clock.seconds())
        await self._store.look()
        self._log.info(
            "The authority issued the {key} certificate for {names}",
            key=wanted.kind,
            names=" ".join(wanted.names[:10]),
        )

    async def _forget_account(self) -> None:
        """The authority does not know us any more: the next try makes another account."""
        self._client = None
        directory = self.settings.directory
        key, _ = await self._in_thread(self._kept.account, directory)
        await self._in_thread(self._kept.keep_account, directory, key, "")

    async def _failed(self, wanted: Wanted, before: Status, words: str, wait: float | None) -> None:
        now = self._clock.seconds()
        failures = before.failures + 1
        pause = BACK_OFF[min(failures, len(BACK_OFF)) - 1] * self._dice.uniform(0.9, 1.1)
        status = attrs.evolve(
            before,
            failures=failures,
            failing_since=before.failing_since or now,
            next_try=now + max(pause, wait or 0.0),
            error=words,
            told=before.told or failures >= TELL,
        )
        _ORDERS.labels("failed").inc()
        self._log.error(
            "No {key} certificate for {name}: {words}; tried again in {minutes} min",
            key=wanted.kind,
            name=wanted.names[0],
            words=words,
            minutes=int((status.next_try - now) / 60),
        )
        await self._note(wanted, status)
        if status.told and not before.told:
            self._tell(
                f"The certificate for {wanted.names[0]} cannot be renewed", self._letter(wanted, status)
            )

    def _letter(self, wanted: Wanted, status: Status) -> str:
        current = self._current(wanted)
        until = "There is none yet: ours is self-signed, and mail programs warn of it."
        if current is not None:
            until = f"The one in use ends on {current.not_after:%Y-%m-%d %H:%M} UTC."
        return (
            f"{status.failures} tries to get a {wanted.kind} certificate for {', '.join(wanted.names[:10])}\n"
            f"from {self.settings.directory} have failed.\n\n"
            f"The last one: {status.error}\n\n{until}\n\n"
            'It is tried again by itself; "lorrainemail certificate renew" does so at once,\n'
            '"lorrainemail certificate list" says how all certificates stand.\n'
        )
