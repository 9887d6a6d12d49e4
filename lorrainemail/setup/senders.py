"""What concerns senders and their authentication beside the way of a message: seals, reports, keys.

One service, whose parts exist while the configuration wants them: seals on what we send on, DMARC reports
that we send, those that we receive, and DKIM keys replaced on a schedule. Made by
:mod:`lorrainemail.service`, which hands it the new configuration at a reload. What is off costs nothing but
    its settings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lorrainemail.config.default import asks_dns_about_senders
from lorrainemail.config.model import Settings
from lorrainemail.dns.dkim import with_keys
from lorrainemail.dns.responder import Responder
from lorrainemail.dns.zonefile import load_zones
from lorrainemail.dns.zones import Zones
from lorrainemail.interfaces import DnsFailure, Inject, IResolver, IStore, ITables
from lorrainemail.mailauth.keys import KeyFault, KeyRing, SigningKey, key_changes, stored_keys
from lorrainemail.mailauth.sealing import Sealer

if TYPE_CHECKING:
    from lorrainemail.mailauth.reporting import Reporter

_log = Logger("lorrainemail.setup")


@attrs.frozen(slots=True)
class Neighbours:
    """What the parts work with.

    :ivar inject: sends mail of our own. ``tables``: gives the current tables.
    """

    reactor: Any
    resolver: IResolver
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    inject: Inject
    store: IStore
    tables: Callable[[], ITables]
    tell_operator: Callable[[str, str], None]


class Senders(MultiService):
    """See the module."""

    def __init__(self, settings: Settings, neighbours: Neighbours) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._neighbours = neighbours
        self._parts: dict[str, Service] = {}
        self._reporter: Reporter | None = None
        self._responder: Responder | None = None
        self._settings = settings
        asked = neighbours.resolver if asks_dns_about_senders(settings) else None
        keys = KeyRing(settings.state)
        self._sealer = Sealer(keys, asked, neighbours.reactor, neighbours.in_thread, settings.hostname)
        self.use(settings)

    @property
    def seal(self) -> Any:
        """How messages that are sent on are sealed, None where they are not."""
        return self._sealer.seal if self._settings.policy.arc else None

    def note(self, evaluation: Any, header: Any) -> None:
        """One DMARC evaluation (:class:`lorrainemail.mailauth.check.Reports`)."""
        if self._reporter is not None:
            self._reporter.note(evaluation, header)

    def reports(self, settings: Settings) -> Senders | None:
        """Who hears of evaluations under these settings; None: nobody does."""
        wanted = settings.dmarc.send_reports or settings.dmarc.failure_reports
        return self if wanted and asks_dns_about_senders(settings) else None

    def use(self, settings: Settings) -> None:
        """Other settings: parts come and go."""
        self._settings = settings
        self._learn(settings)
        near, dmarc = self._neighbours, settings.dmarc
        wanted = self.reports(settings) is not None
        if wanted and self._reporter is None:
            from lorrainemail.mailauth.reporting import Reporter, Tools

            tools = Tools(
                near.reactor, near.resolver, near.inject, near.in_thread, settings.hostname, settings.state
            )
            self._reporter = Reporter(tools, dmarc.send_reports, dmarc.failure_reports)
            self._reporter.setServiceParent(self)  # type: ignore[no-untyped-call]
        if self._reporter is not None:
            self._reporter.aggregate = wanted and dmarc.send_reports
            self._reporter.failures = wanted and dmarc.failure_reports
        reader: Any = self._parts.get("reader")
        if dmarc.mailbox and reader is None:
            from lorrainemail.mailauth.report_mail import report_reader

            reader = self._parts["reader"] = report_reader(
                dmarc.mailbox,
                near.store,
                near.tables,
                near.in_thread,
                near.reactor,
                settings.state,
                settings.hostname,
                dmarc.keep,
            )
            reader.setServiceParent(self)
        if reader is not None:
            reader.account, reader.keep = dmarc.mailbox, dmarc.keep
        rotation: Any = self._parts.get("rotation")
        if settings.dkim.rotate and rotation is None:
            from lorrainemail.mailauth.rotation import KeyRotation

            rotation = self._parts["rotation"] = KeyRotation(
                settings.state,
                settings.dkim.rotate,
                near.reactor,
                near.resolver,
                near.in_thread,
                near.tell_operator,
                self._serves,
                self._publish,
                self._keys_changed,
            )
            rotation.setServiceParent(self)
        if rotation is not None:
            rotation.age = settings.dkim.rotate

    # -- our own DNS door ------------------------------------------------------------------------

    def zones(self, paths: Iterable[str]) -> Zones:
        """The zones of these files, with the records of our DKIM keys.

        :raises ConfigurationError: where a file cannot be used.
        """
        zones = load_zones(paths)
        try:
            return (
                with_keys(zones, stored_keys(self._settings.state), key_changes(self._settings.state))
                if any(zones)
                else zones
            )
        except (OSError, KeyFault):
            return zones

    def serve_keys_at(self, responder: Responder) -> None:
        """Whose zones get the records of keys that are made while running."""
        self._responder = responder

    def _learn(self, settings: Settings) -> None:
        """The classifier learns while anybody wants it."""
        words = [row.get("classifier", "off") for row in settings.actions.values()]
        wanted = "classifier" in settings.policy.checks and any(word != "off" for word in words)
        learning: Any = self._parts.get("learning")
        if wanted and learning is None:
            from lorrainemail.filters.classifier import Learning

            near = self._neighbours
            mail = os.path.join(settings.state, "mail")
            learning = self._parts["learning"] = Learning(
                near.store, near.tables, near.in_thread, near.reactor, mail
            )
            learning.setServiceParent(self)
        if learning is not None:
            learning.active = wanted

    def _serves(self, domain: str) -> bool:
        import dns.name

        return self._responder is not None and self._responder.serves(dns.name.from_text(domain))

    async def _publish(self, keys: Sequence[SigningKey], wanted: bool) -> bool:
        """Records of DKIM keys, on the name server that takes our updates; False where none did."""
        settings, near = self._settings, self._neighbours
        if not settings.dns_update.server:
            return False
        from lorrainemail.net.update import UpdateError
        from lorrainemail.setup.doctor.authority import Authority
        from lorrainemail.setup.publishing import publish_keys, updater_of

        names = ", ".join(key.name for key in keys)
        try:
            updater = await near.in_thread(lambda: updater_of(near.reactor, settings))
            resolver: Any = near.resolver
            authority = Authority(near.reactor, resolver, settings.dns.port)
            if updater is None or not await publish_keys(authority, updater, settings, keys, wanted):
                return False
        except (UpdateError, DnsFailure, OSError) as error:
            _log.error("DKIM records could not be written ({names}): {error}", names=names, error=error)
            return False
        what = "published" if wanted else "taken away"
        _log.info("DKIM records {what} by update: {names}", what=what, names=names)
        return True

    def _keys_changed(self) -> None:
        responder = self._responder
        if responder is None or not any(responder.zones):
            return

        def take(zones: Zones) -> None:
            responder.zones = zones

        made = self._neighbours.in_thread(lambda: self.zones(self._settings.dns.zones))
        made.addCallback(take)
        made.addErrback(lambda failure: _log.failure("The zones were not made anew", failure))
