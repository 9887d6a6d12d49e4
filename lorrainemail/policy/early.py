"""The check that waits before it greets: real servers wait for a greeting (RFC 5321 §4.3.1), many that
send spam do not.

State: the networks that waited lately, bounded in memory; they are greeted at once. Nothing is waited for on
the submission doors, on loopback, and for peers that may relay.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Final, cast

from twisted.internet.defer import Deferred
from zope.interface import implementer

from lorrainemail.errors import Reply
from lorrainemail.interfaces import Action, Circumstances, IPolicyCheck, PolicyResources, Stage, Verdict
from lorrainemail.net.peers import is_loopback, network_key
from lorrainemail.policy.checks import is_stranger

#: Seconds that a network which we do not know yet waits for our greeting.
DELAY: Final = 2.0
#: Seconds for which a network that waited is greeted at once.
TRUST: Final = 86400.0
#: Networks remembered; the one that waited first is forgotten first.
MAX_REMEMBERED: Final = 20_000

REFUSED: Final = Reply(554, "5.5.1", "You spoke before our greeting")


@implementer(IPolicyCheck)
class EarlyTalker:
    """Refuses strangers that speak before they are greeted."""

    name: ClassVar[str] = "early_talker"

    def __init__(self, resources: PolicyResources) -> None:
        self.stages: frozenset[Stage] = frozenset({"connect"})
        self._clock = resources.clock
        waited: OrderedDict[str, float] = OrderedDict()
        self._waited = cast("OrderedDict[str, float]", resources.memory.setdefault(self.name, waited))

    def judge(self, circumstances: Circumstances) -> Verdict | None | Deferred[Verdict | None]:
        session, spoke = circumstances.session, circumstances.spoke_early
        if spoke is None or circumstances.dry_run:
            return None
        key = network_key(session.peer)
        since = self._waited.get(key)
        if since is not None and self._clock.seconds() - since < TRUST:
            return None
        if is_loopback(session.peer) or not is_stranger(circumstances):
            return None
        greet: Deferred[Verdict | None] = Deferred(lambda _: wait.cancel())

        def decide() -> None:
            if spoke():
                greet.callback(Verdict(Action.REFUSE, self.name, REFUSED.text, REFUSED))
                return
            self._waited.pop(key, None)
            self._waited[key] = self._clock.seconds()
            if len(self._waited) > MAX_REMEMBERED:
                self._waited.popitem(last=False)
            greet.callback(None)

        wait = self._clock.callLater(DELAY, decide)
        return greet
