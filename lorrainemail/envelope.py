"""What travels beside a message: session facts, reverse-path, recipients and all their parameters.

Frozen values without behaviour. A door makes them, tables, policy, intake, queue and couriers read them; the
queue writes them to disk (:mod:`lorrainemail.queue.format` owns that form). All MAIL and RCPT parameters are
kept from the start, also those that no extension of ours understands yet.
"""

from __future__ import annotations

from typing import Literal

import attrs

from lorrainemail.addresses import Address

Door = Literal[
    "smtp", "submission", "submissions", "lmtp", "pop3", "pop3s", "imap", "imaps", "managesieve", "local",
]  # fmt: skip


@attrs.frozen(slots=True)
class TlsFacts:
    """What TLS a session runs under.

    :ivar version: "TLSv1.3" and the like.
    :ivar cipher: the suite's name; ``bits`` its strength.
    :ivar server_name: SNI as sent by the client, or "".
    """

    version: str
    cipher: str
    bits: int
    server_name: str = ""


@attrs.frozen(slots=True)
class Session:
    """The facts of one SMTP (LMTP, local) session at the moment of a transaction.

    :ivar id: the session's id, as in the log.
    :ivar door: the listener's role.
    :ivar peer: the client's IP address in canonical text (IPv4-mapped form undone), "" for local hand-over.
    :ivar peer_port: the client's port, 0 where there is none.
    :ivar local: our address that the client reached, "" where there is none.
    :ivar helo: the EHLO/HELO argument as given, "" before it.
    :ivar esmtp: greeted by EHLO (or LHLO).
    :ivar account: the authenticated account's address (normalised key), "" where none.
    :ivar mechanism: the SASL mechanism that proved it.
    :ivar reverse_name: forward-confirmed name of the peer, "" where unknown.
    :ivar origin: what a listed server in front said of the message's own client (XFORWARD), as (attribute,
        value); for people alone.
    """

    id: str
    door: Door
    peer: str = ""
    peer_port: int = 0
    local: str = ""
    helo: str = ""
    esmtp: bool = False
    tls: TlsFacts | None = None
    account: str = ""
    mechanism: str = ""
    reverse_name: str = ""
    origin: tuple[tuple[str, str], ...] = ()

    def client(self) -> tuple[tuple[str, str], ...]:
        """Whom a message of this session came from, in the attributes of XFORWARD; empty where it was handed
        over on this machine."""
        if self.origin or not self.peer:
            return self.origin
        found = [("ADDR", f"IPV6:{self.peer}" if ":" in self.peer else self.peer)]
        if self.reverse_name:
            found.append(("NAME", self.reverse_name))
        if self.peer_port:
            found.append(("PORT", str(self.peer_port)))
        if self.helo:
            found.append(("HELO", self.helo))
        found.append(("PROTO", "ESMTP" if self.esmtp else "SMTP"))
        found.append(("SOURCE", "REMOTE"))
        return tuple(found)


@attrs.frozen(slots=True)
class Parameter:
    """One ESMTP parameter: keyword in upper case, value as given or None (RFC 5321 §4.1.2)."""

    keyword: str
    value: str | None = None


@attrs.frozen(slots=True)
class Recipient:
    """One RCPT.

    :ivar address: whom to reach now.
    :ivar original: the address as the client gave it at RCPT (before expansion).
    :ivar notify: RFC 3461 §4.1 keywords, None when not given.
    :ivar orcpt: RFC 3461 §4.2 value, decoded "type;address", "" when not given.
    :ivar parameters: all parameters as received.
    """

    address: Address
    original: str = ""
    notify: tuple[str, ...] | None = None
    orcpt: str = ""
    parameters: tuple[Parameter, ...] = ()


@attrs.frozen(slots=True)
class Envelope:
    """One message's envelope.

    :ivar id: the message's id, given at the door; in Received, log, queue, trace and DSN.
    :ivar sender: the reverse-path; None is the null reverse-path ``<>``.
    :ivar recipients: in the order of RCPT.
    :ivar size: SIZE as declared, 0 when not (RFC 1870).
    :ivar body: BODY as declared, "7BIT" when not (RFC 6152).
    :ivar smtputf8: SMTPUTF8 was given (RFC 6531 §3.4).
    :ivar ret: RET, "" when not given; ``envid`` decoded ENVID (RFC 3461 §4.3, §4.4).
    :ivar parameters: all MAIL parameters as received.
    :ivar received_at: wall-clock seconds of the MAIL command.
    :ivar hops: how often this server injected along this chain (loops end, see the injector).
    :ivar sender_verified: the reverse-path is our own user's or was authenticated (SPF, DKIM), so that a
        DSN to it is no backscatter.
    """

    id: str
    sender: Address | None
    recipients: tuple[Recipient, ...]
    size: int = 0
    body: str = "7BIT"
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    parameters: tuple[Parameter, ...] = ()
    received_at: float = 0.0
    hops: int = 0
    sender_verified: bool = False

    def asks(self, keyword: str) -> bool:
        """Whether MAIL had that parameter."""
        return any(one.keyword == keyword for one in self.parameters)
