"""The queue and its couriers (:mod:`lorrainemail.queue`, :mod:`lorrainemail.delivery`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs
from zope.interface import Attribute, Interface

from lorrainemail.addresses import Address
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.errors import Reply
from lorrainemail.interfaces.ops import IContent
from lorrainemail.interfaces.store import IPlacement
from lorrainemail.interfaces.tables import DeliveryRow, Pace

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


@attrs.frozen(slots=True)
class QueueRecipient:
    """One recipient of a queue item and how far it got.

    :ivar courier: which courier carries it: "remote", "local" (a mailbox that could not be had at once),
        "lmtp", "pipe", "file", or a plugin's.
    :ivar recipient: the final recipient with its DSN parameters.
    :ivar folder: for "local".
    :ivar state: "waiting", "held", "done" (delivered, bounced or dropped: leaves at the next rewrite).
    :ivar attempts: made so far; ``next_try``: wall-clock seconds; ``last_reply``: the remote's or our words.
    :ivar delay_told: the sender has had a notice that it is late.
    :ivar argument: what the courier is told, see :class:`Handed`; ``user`` likewise.
    :ivar owner: the sender for this recipient, where it is another than the envelope's.
    """

    courier: str
    recipient: Recipient
    folder: str = ""
    forwarded: bool = False
    state: Literal["waiting", "held", "done"] = "waiting"
    attempts: int = 0
    next_try: float = 0.0
    last_reply: str = ""
    delay_told: bool = False
    argument: str = ""
    user: str = ""
    owner: Address | None = None


@attrs.frozen(slots=True)
class QueueItem:
    """A queued message: envelope (with the session facts that its DSN needs), recipients, times.

    :ivar trusted: see :class:`Transaction`.
    :ivar client: whom the message came from, see :meth:`lorrainemail.envelope.Session.client`.
    :ivar release_at: wall-clock seconds before which its sender does not want it to go on, 0 for at once.
    """

    envelope: Envelope
    recipients: tuple[QueueRecipient, ...]
    queued_at: float
    size: int
    door: str = ""
    account: str = ""
    trusted: bool = False
    release_at: float = 0.0
    client: tuple[tuple[str, str], ...] = ()


class IQueue(Interface):
    """The spool."""

    def placement(item: QueueItem, prefix: bytes, content: IContent) -> IPlacement:
        """A new item; the runner is woken after publish."""

    def full() -> Reply | None:
        """452 4.3.1 where nothing more may be queued, else None."""


@attrs.frozen(slots=True)
class Outcome:
    """What a courier's attempt came to for one recipient.

    :ivar kind: "delivered", "deferred", "failed".
    :ivar reply: the remote's reply or ours in its stead.
    :ivar ours: the failure is on our side; deferred with an alarm, never final.
    :ivar host: the next hop that said it, "" where none did; ``tls`` "TLSv1.3 ..." of that session.
    :ivar confirms: delivered to a host that keeps the promises of DSN from here on (RFC 3461 §5.2.1).
    :ivar keeps_time: likewise of a time to deliver by (RFC 2852).
    """

    recipient: Recipient
    kind: Literal["delivered", "deferred", "failed"]
    reply: Reply
    ours: bool = False
    host: str = ""
    tls: str = ""
    confirms: bool = False
    keeps_time: bool = False


class ICourier(Interface):
    """Carries one queue item to some of its recipients."""

    name: str = Attribute("the word in QueueRecipient.courier")

    def destination(item: QueueItem, recipient: QueueRecipient) -> str | Deferred[str]:
        """The key under which attempts are grouped and their concurrency counted."""

    def deliver(
        item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> Deferred[list[Outcome]]:
        """One attempt; one outcome for each recipient, in order. Never fails."""


class IDelivery(Interface):
    """One message on its way to a destination, in this order: each recipient, the body, commit; or abort,
    at any moment before commit was called. A failure of any step is a :class:`lorrainemail.errors.MailError`.
    """

    def recipient(recipient: QueueRecipient, argument: str) -> Deferred[None]:
        """Name one more recipient. PermanentError or TemporaryError where he is not to be had; the others
        are served all the same.

        :param argument: of the recipient or of his row of ``[deliver]``.
        """

    def body(content: IContent) -> Deferred[None]:
        """Hand over the message; whatever can be found out is found out now. Its failure is everybody's."""

    def commit() -> Deferred[list[Reply]]:
        """Make it so: one reply for each recipient that was taken, in order. What it answers with 2xx is
        durable there."""

    def abort() -> Deferred[None]:
        """Give it up; nothing of it is delivered. Never fails."""


class IAgent(Interface):
    """What carries messages to where ``[deliver]`` rows and aliases lead, by name. Made by an
    :class:`IAgentPlugin`, or built in."""

    name: str = Attribute("the courier's word in rows and in the queue")

    def destination(recipient: QueueRecipient, argument: str) -> str:
        """The key under which deliveries are grouped and their concurrency counted."""

    def start(item: QueueItem, row: DeliveryRow | None) -> Deferred[IDelivery]:
        """Begin a delivery. TemporaryError where the destination cannot be reached.

        :param row: the row of ``[deliver]`` that leads here; None for an alias.
        """


@attrs.frozen(slots=True)
class AgentResources:
    """What agents are made from.

    :ivar reactor: the reactor. ``hostname``: our name.
    :ivar in_thread: runs blocking file work in a thread of the server.
    """

    reactor: Any
    hostname: str
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]


class IAgentPlugin(Interface):
    """A Twisted plugin (``twisted.plugin``, package ``lorrainemail.plugins``) that makes one agent."""

    name: str = Attribute("the courier's word in rows of [deliver]")

    def make(resources: AgentResources) -> IAgent:
        """The agent."""


class IPaced(Interface):
    """A courier whose destinations may have a pace of their own."""

    def pace(destination: str) -> Pace:
        """How fast a destination, as :meth:`ICourier.destination` named it last, may be served."""
