"""What addresses come to, the ends that an expansion can have: a mailbox, a courier, elsewhere, a refusal.

:class:`Reached` is the foundation of :mod:`lorrainemail.tables.expand`: it gathers final recipients, none
twice, and the reasons for which nothing came of a branch. Nothing here looks an alias up.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from lorrainemail.addresses import Address
from lorrainemail.errors import Reply
from lorrainemail.interfaces import (
    Account,
    DeliveryRow,
    Handed,
    LocalMailbox,
    RemoteMailbox,
    Step,
    later,
)
from lorrainemail.interfaces import (
    Final as FinalRecipient,
)
from lorrainemail.tables.backend import TableSet
from lorrainemail.tables.route import best, patterns_of, rejection
from lorrainemail.tables.rules import RouteRow, Rules
from lorrainemail.tables.srs import NotReversed, is_srs

UNKNOWN_USER: Final = Reply(550, "5.1.1", "No such user here")
NO_ROUTES: Final = Reply(550, "5.7.1", "Source routes are not followed")
#: The tables themselves are at fault: the sender keeps the mail until they are mended (RFC 3463 §3.4).
BAD_TABLES: Final = Reply(451, "4.3.5", "Mail system configuration error, try again later")

#: What a local part has that some server would take for a route.
ROUTING: Final = re.compile(r"[%!@]")


@attrs.frozen(slots=True)
class Visit:
    """An address on the way, with how it was reached.

    :ivar chain: the addresses before it. ``used``: the aliases that led here, none of which is used again.
    :ivar plain: no alias and no user's file is asked any more.
    :ivar owner: of the list that led here.
    """

    address: Address
    path: tuple[Step, ...] = ()
    chain: tuple[str, ...] = ()
    forwarded: bool = False
    plain: bool = False
    folder: str = ""
    used: frozenset[str] = frozenset()
    owner: Address | None = None


class Reached:
    """The ends of one expansion, and what was found on the way to nowhere."""

    def __init__(self, tables: TableSet, rules: Rules) -> None:
        self._tables = tables
        self._rules = rules
        self._finals: dict[tuple[str, str], FinalRecipient] = {}
        self._notes: list[Step] = []
        self._reply: Reply | None = None
        self._refused_path: tuple[Step, ...] = ()
        self._reversed = False

    def _refuse(self, reply: Reply, path: tuple[Step, ...], note: Step) -> None:
        """Nothing comes of this branch. The reply counts where nothing comes of any; a fault of ours (4xx)
        outweighs an unknown user."""
        self._notes.append(note)
        if self._reply is None or (reply.temporary and not self._reply.temporary):
            self._reply = reply
            self._refused_path = (*path, note)

    def _final(self, key: tuple[str, str], final: FinalRecipient) -> None:
        self._finals.setdefault(key, final)

    async def _remote(self, visit: Visit) -> None:
        """An address outside, unless a relay row refuses it."""
        address = visit.address
        patterns = patterns_of(address)
        rows = await later(self._tables.routes.rows("relay", patterns))
        found = best({**rows, **self._rules.relay} if rows else self._rules.relay, patterns)
        if found is not None and found.row.reject:
            self._rejected(visit, found)
        else:
            self._final(("", address.key), RemoteMailbox(address, visit.path, visit.forwarded, visit.owner))

    def _rejected(self, visit: Visit, found: RouteRow) -> None:
        step = Step(f'relay."{found.pattern}" refuses {visit.address}', found.origin)
        self._refuse(rejection(found), visit.path, step)

    async def _elsewhere(self, visit: Visit) -> bool:
        """A relay row for exactly this address overrides the local domain."""
        address = visit.address
        rows = await later(self._tables.routes.rows("relay", (address.key,)))
        found = self._rules.relay.get(address.key) or rows.get(address.key)
        if found is None:
            return False
        if found.row.reject:
            self._rejected(visit, found)
        else:
            step = Step(f'relay."{found.pattern}" sends this one address elsewhere', found.origin)
            remote = RemoteMailbox(address, (*visit.path, step), visit.forwarded, visit.owner)
            self._final(("", address.key), remote)
        return True

    def _leads_back(self, visit: Visit) -> bool:
        """An address that we made for somebody else's mail: bounces to it go back to him."""
        srs, address = self._rules.srs, visit.address
        if srs is None or not is_srs(address.local):
            return False
        try:
            sender = srs.reverse(address.local)
        except NotReversed as error:
            self._notes.append(Step(f"{address} leads nowhere: {error}"))
            return False
        step = Step(f"{address} was made here for mail of {sender} that was sent on")
        self._final(("", sender.key), RemoteMailbox(sender, (*visit.path, step), forwarded=True))
        self._reversed = True
        return True

    def _passed_on(self, visit: Visit) -> bool:
        """A row of ``[unknown_users]``: another host knows the users of the domain that we do not."""
        address = visit.address
        row = best(self._rules.unknown_users, patterns_of(address)[1:])
        if row is None or visit.plain:
            return False
        if ROUTING.search(address.local):
            # That host trusts us, and would see a route in it.
            self._refuse(NO_ROUTES, visit.path, Step(f"{address} looks like a source route", row.origin))
        elif row.row.reject:
            step = Step(f'unknown_users."{row.pattern}" refuses {address}', row.origin)
            self._refuse(rejection(row), visit.path, step)
        else:
            step = Step(f'unknown_users."{row.pattern}" sends unknown users elsewhere', row.origin)
            path = (*visit.path, step)
            self._final(("", address.key), RemoteMailbox(address, path, visit.forwarded))
        return True

    def _mailbox(self, visit: Visit, account: Account, folder: str, why: str = "") -> None:
        deliver = delivery_row(self._rules, account.address)
        if deliver is not None:
            self._handed(visit, deliver, why or f"account {account.address}", account)
            return
        words = why or f"account {account.address}" + (f", folder {folder} if it exists" if folder else "")
        path = (*visit.path, Step(words, account.origin))
        key = account.address.key, folder
        self._final(key, LocalMailbox(account, folder, visit.address, path, visit.owner))

    def _handed(self, visit: Visit, row: DeliveryRow, why: str, account: Account | None = None) -> None:
        """A row of ``[deliver]`` gives the mail to a courier, which asks the row again when it tries."""
        step = Step(f'deliver."{row.pattern}" hands it to {row.courier} {row.argument}'.rstrip(), row.origin)
        path = (*visit.path, *([Step(why, account.origin)] if account is not None else []), step)
        final = Handed(
            row.courier, "", visit.address, path, visit.owner, forwarded=visit.forwarded, account=account
        )
        self._final((f"|{row.courier}", visit.address.key), final)


def delivery_row(rules: Rules, address: Address) -> DeliveryRow | None:
    """The most specific row of ``[deliver]``."""
    if not rules.deliver:
        return None
    return next((rules.deliver[p] for p in patterns_of(address) if p in rules.deliver), None)
