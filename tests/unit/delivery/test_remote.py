"""The remote courier with real connections: hosts in turn, TLS as asked for, logins, sessions kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from lorrainemail.addresses import Address, parse_address
from lorrainemail.delivery import sessions as sessions_module
from lorrainemail.delivery.hops import OurEnds
from lorrainemail.delivery.remote import RemoteCourier
from lorrainemail.delivery.sessions import Sessions
from lorrainemail.envelope import Envelope, Parameter, Recipient
from lorrainemail.errors import INTERNAL_ERROR, Reply, TemporaryError
from lorrainemail.interfaces import (
    DnsFailure,
    HopHost,
    IResolver,
    ITables,
    ITableService,
    MxHost,
    Outcome,
    QueueItem,
    QueueRecipient,
    Route,
    later,
)
from lorrainemail.net.tls import ClientTls
from lorrainemail.ops.content import Content

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


@implementer(IResolver)
class Names:
    """mx.x.org is every host, at the addresses that a test gives."""

    def __init__(self) -> None:
        self.found = ["127.0.0.1"]

    def mx(self, domain: str) -> Deferred[list[MxHost]]:
        return succeed([MxHost(10, "mx.x.org")])

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        if not self.found:
            raise DnsFailure("nxdomain", host)
        return succeed(list(self.found))

    def txt(self, name: str) -> Deferred[list[bytes]]:
        raise NotImplementedError

    def ptr(self, address: str) -> Deferred[list[str]]:
        raise NotImplementedError


class Tables:
    """Routes by recipient domain; by default the MX."""

    def __init__(self) -> None:
        self.routes: dict[str, Route | Exception] = {}
        self.secrets = {"partner": ("user", "secret")}

    def current(self) -> Tables:
        return self

    def route(self, recipient: Address, sender: Address | None) -> Route:
        found = self.routes.get(recipient.domain, Route("mx", recipient.domain))
        if isinstance(found, Exception):
            raise found
        return found

    def secret(self, name: str) -> tuple[str, str] | None:
        return self.secrets.get(name)


class FromFile(Content):
    def in_memory(self) -> None:  # type: ignore[override]
        return None


@attrs.define
class Field:
    """A courier and what it stands on."""

    tables: Tables
    names: Names
    courier: RemoteCourier
    make_peer: Callable[..., Any]

    def peer(self, **facts: Any) -> Any:
        """A peer that is the MX of every domain."""
        peer = self.make_peer(**facts)
        self.courier.port = peer.port
        return peer

    async def deliver(self, *addresses: str, **more: Any) -> list[Outcome]:
        recipients = [
            QueueRecipient("remote", Recipient(parse_address(address)))
            for address in addresses or ("bob@x.org",)
        ]
        client = more.pop("client", ())
        envelope = Envelope(id="id1", sender=parse_address("carole@elorac.fr"), recipients=(), **more)
        item = QueueItem(envelope, tuple(recipients), 0.0, len(MESSAGE), client=client)
        return await self.courier.deliver(item, recipients, FromFile(MESSAGE))


@pytest.fixture
def field(make_peer: Any, request: pytest.FixtureRequest) -> Any:
    tables, names = Tables(), Names()
    sessions = Sessions(reactor, "mail.ours.test", ClientTls(), deferToThread)
    tables_service: Any = tables
    courier = RemoteCourier(
        tables_service, names, sessions, OurEnds("mail.ours.test"), shuffle=lambda _: None
    )
    yield Field(tables, names, courier, make_peer)
    pytest_twisted.blockon(courier.close())


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [one.kind for one in outcomes]


def test_the_doubles_offer_what_the_courier_uses() -> None:
    for name in ("route",):
        assert name in ITables
    for name in ("current", "secret"):
        assert name in ITableService


@pytest_twisted.ensureDeferred
async def test_a_message_reaches_its_mx(field: Field) -> None:
    peer = field.peer()
    (one,) = await field.deliver()
    assert (one.kind, one.host) == ("delivered", f"mx.x.org[127.0.0.1]:{peer.port}")
    assert peer.behaviour.messages == [MESSAGE]
    assert peer.behaviour.commands[0] == "EHLO mail.ours.test"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("extensions", [(), ("DSN",)])
async def test_only_a_host_that_knows_dsn_confirms_deliveries(field: Field, extensions: Any) -> None:
    field.peer(extensions=extensions)
    (one,) = await field.deliver()
    assert (one.kind, one.confirms) == ("delivered", bool(extensions))


@pytest_twisted.ensureDeferred
async def test_a_session_that_carried_what_it_may_is_left_politely(field: Field) -> None:
    peer = field.peer(extensions=("LIMITS MAILMAX=2",))
    for _ in range(3):
        assert kinds(await field.deliver()) == ["delivered"]
    assert peer.behaviour.connections == 2
    assert peer.behaviour.verbs().count("QUIT") == 1


@pytest_twisted.ensureDeferred
async def test_the_next_address_is_tried_when_one_does_not_answer(field: Field) -> None:
    peer = field.peer(interface="127.0.0.3")
    field.names.found = ["127.0.0.2", "127.0.0.3"]
    assert kinds(await field.deliver()) == ["delivered"]
    assert len(peer.behaviour.messages) == 1


@pytest.mark.parametrize(
    "replies",
    [
        {"greeting": "554 5.7.1 not you"},
        {"greeting": "421 4.3.2 busy"},
        {"greeting": "DROP"},
        {"EHLO": "550 no", "HELO": "550 no"},
        {"MAIL": "451 4.3.0 later"},
        {"RCPT": "450 4.2.0 greylisted"},
        {"MAIL": "DROP"},
        {".": "451 4.3.0 later"},
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_one_host_cannot_take_now_the_next_one_is_offered(field: Field, replies: Any) -> None:
    first = field.peer(interface="127.0.0.2", replies=replies)
    second = field.make_peer(interface="127.0.0.3", port=first.port)
    field.names.found = ["127.0.0.2", "127.0.0.3"]
    (one,) = await field.deliver()
    assert one.kind == "delivered" and "127.0.0.3" in one.host
    assert len(second.behaviour.messages) == 1


@pytest_twisted.ensureDeferred
async def test_a_final_refusal_is_not_carried_to_the_next_host(field: Field) -> None:
    first = field.peer(interface="127.0.0.2", replies={"RCPT": ["550 5.1.1 unknown", "451 4.2.1 later"]})
    second = field.make_peer(interface="127.0.0.3", port=first.port)
    field.names.found = ["127.0.0.2", "127.0.0.3"]
    found = await field.deliver("bob@x.org", "anne@x.org")
    assert kinds(found) == ["failed", "delivered"]
    assert [line for line in second.behaviour.commands if line.startswith("RCPT")] == ["RCPT TO:<anne@x.org>"]


@pytest_twisted.ensureDeferred
async def test_a_message_whose_fate_is_unknown_is_not_sent_to_another_host_at_once(field: Field) -> None:
    first = field.peer(interface="127.0.0.2", replies={".": "DROP"})
    second = field.make_peer(interface="127.0.0.3", port=first.port)
    field.names.found = ["127.0.0.2", "127.0.0.3"]
    assert kinds(await field.deliver()) == ["deferred"]
    assert second.behaviour.connections == 0


@pytest_twisted.ensureDeferred
async def test_no_host_at_all_is_deferred_as_unreachable(field: Field) -> None:
    peer = field.peer(interface="127.0.0.3")
    field.names.found = ["127.0.0.2"]
    (one,) = await field.deliver()
    assert (one.kind, one.reply.enhanced, one.host, one.ours) == ("deferred", "4.4.1", "", False)
    assert peer.behaviour.connections == 0


@pytest_twisted.ensureDeferred
async def test_a_refusal_at_the_greeting_is_never_final(field: Field) -> None:
    field.peer(replies={"greeting": "554 5.7.1 blocked"})
    (one,) = await field.deliver()
    assert one.kind == "deferred" and one.ours and "blocked" in one.reply.text


@pytest_twisted.ensureDeferred
async def test_many_recipients_go_in_transactions_of_a_hundred(field: Field) -> None:
    peer = field.peer()
    found = await field.deliver(*[f"user{number}@x.org" for number in range(250)])
    assert kinds(found) == ["delivered"] * 250
    assert peer.behaviour.verbs().count("MAIL") == 3 and peer.behaviour.connections == 1


@pytest_twisted.ensureDeferred
async def test_nobody_is_served_twice_when_a_later_part_fails(field: Field) -> None:
    replies = {"MAIL": ["250 ok", "421 4.3.2 enough"], "greeting": ["220 hi", "220 hi", "DROP"]}
    first = field.peer(interface="127.0.0.2", replies=replies)
    second = field.make_peer(interface="127.0.0.3", port=first.port)
    field.names.found = ["127.0.0.2", "127.0.0.3"]
    found = await field.deliver(*[f"user{number}@x.org" for number in range(150)])
    assert kinds(found) == ["delivered"] * 150
    served = [
        line
        for peer in (first, second)
        for line in peer.behaviour.commands
        if line.startswith("RCPT") and len(peer.behaviour.messages)
    ]
    accepted = [line for line in served if served.count(line) > 1]
    assert len(second.behaviour.messages) == 1 and len(first.behaviour.messages) == 1
    assert not set(accepted) & {f"RCPT TO:<user{number}@x.org>" for number in range(100)}


# -- sessions -------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_several_messages_share_a_connection(field: Field) -> None:
    peer = field.peer()
    for _ in range(4):
        assert kinds(await field.deliver()) == ["delivered"]
    assert peer.behaviour.connections == 1 and len(peer.behaviour.messages) == 4


@pytest_twisted.ensureDeferred
async def test_a_kept_connection_that_died_costs_no_delay(field: Field) -> None:
    peer = field.peer(replies={"MAIL": ["250 ok", "421 4.4.2 idle too long", "250 ok"]})
    await field.deliver()
    assert kinds(await field.deliver()) == ["delivered"]
    assert peer.behaviour.connections == 2


@pytest_twisted.ensureDeferred
async def test_a_connection_is_not_kept_for_ever(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "MAX_TRANSACTIONS", 2)
    peer = field.peer()
    for _ in range(4):
        await field.deliver()
    assert peer.behaviour.connections == 2


@pytest_twisted.ensureDeferred
async def test_an_idle_connection_is_ended_politely(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "KEEP_TIME", 0.01)
    peer = field.peer()
    await field.deliver()
    for _ in range(200):
        if "QUIT" in peer.behaviour.verbs():
            break
        await pause(0.01)
    assert peer.behaviour.verbs()[-1] == "QUIT"


def pause(seconds: float) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)  # type: ignore[attr-defined]
    return done


@pytest_twisted.ensureDeferred
async def test_a_stop_ends_what_is_open(field: Field) -> None:
    peer = field.peer(replies={"MAIL": [""]})
    delivering = field.deliver()
    deferred = Deferred.fromCoroutine(delivering)
    for _ in range(200):
        if "MAIL" in peer.behaviour.verbs():
            break
        await pause(0.01)
    await field.courier.close()
    assert kinds(await deferred) == ["deferred"]


# -- routes ---------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_destinations_are_the_servers_not_the_domains(field: Field) -> None:
    row = Route("hosts", hosts=(HopHost("smart.org", 587),))
    safe = Route("hosts", hosts=row.hosts, tls="verified", credentials="p")
    field.tables.routes = {"a.org": row, "b.org": row, "c.org": Route("reject"), "e.org": safe}
    envelope = Envelope(id="id1", sender=None, recipients=())
    keys = []
    for domain in ("a.org", "b.org", "c.org", "d.org", "e.org"):
        one = QueueRecipient("remote", Recipient(parse_address(f"x@{domain}")))
        keys.append(await later(field.courier.destination(QueueItem(envelope, (one,), 0.0, 1), one)))
    # What needs TLS and a login may fail where the rest goes through.
    safe_key = "hosts:smart.org:587 tls verified as p"
    assert keys == ["hosts:smart.org:587", "hosts:smart.org:587", "reject", "mx:d.org", safe_key]


@pytest_twisted.ensureDeferred
async def test_recipients_of_several_routes_all_get_their_outcome(field: Field) -> None:
    field.peer()
    field.tables.routes = {
        "no.org": Route("reject", reply=Reply(550, "5.7.1", "not from here")),
        "broken.org": TemporaryError(INTERNAL_ERROR, "the database is away"),
    }
    found = await field.deliver("a@no.org", "b@x.org", "c@broken.org")
    assert kinds(found) == ["failed", "delivered", "deferred"]
    assert found[2].ours


@pytest_twisted.ensureDeferred
async def test_recipients_that_go_the_same_way_share_a_transaction(field: Field) -> None:
    peer = field.make_peer()
    for domain in ("a.org", "b.org"):
        field.tables.routes[domain] = smarthost(peer.port, domain=domain, reasons=(f"{domain} matches *",))
    assert kinds(await field.deliver("x@a.org", "y@b.org")) == ["delivered"] * 2
    assert peer.behaviour.verbs().count("MAIL") == 1


def smarthost(port: int, **more: Any) -> Route:
    return Route("hosts", hosts=(HopHost("[127.0.0.1]", port),), pattern="*", **more)


@pytest_twisted.ensureDeferred
async def test_a_smarthost_is_logged_in_to(field: Field) -> None:
    peer = field.make_peer(extensions=("AUTH PLAIN",), replies={"AUTH": "235 2.7.0 ok"})
    field.tables.routes["x.org"] = smarthost(peer.port, credentials="partner")
    assert kinds(await field.deliver()) == ["delivered"]
    assert "AUTH" in peer.behaviour.verbs()


@pytest.mark.parametrize("case", ["refused", "unknown"])
@pytest_twisted.ensureDeferred
async def test_a_login_that_fails_is_our_fault_and_never_final(field: Field, case: str) -> None:
    peer = field.make_peer(extensions=("AUTH PLAIN",), replies={"AUTH": "535 5.7.8 wrong"})
    name = "partner" if case == "refused" else "nobody"
    field.tables.routes["x.org"] = smarthost(peer.port, credentials=name)
    (one,) = await field.deliver()
    assert (one.kind, one.ours) == ("deferred", True)
    assert peer.behaviour.messages == []


@pytest_twisted.ensureDeferred
async def test_a_password_never_goes_over_the_net_in_clear_text(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "is_loopback", lambda address: False)
    peer = field.make_peer(extensions=("AUTH PLAIN",), replies={"AUTH": "235 ok"})
    field.tables.routes["x.org"] = smarthost(peer.port, credentials="partner")
    (one,) = await field.deliver()
    assert one.kind == "deferred" and one.ours
    assert "AUTH" not in peer.behaviour.verbs()


# -- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(certificate: trustme.LeafCert) -> Any:
    """What the peer gives to startTLS."""
    pem = certificate.private_key_and_cert_chain_pem.bytes()
    return ssl.PrivateCertificate.loadPEM(pem).options()  # type: ignore[no-untyped-call]


def trusting(field: Field, authority: trustme.CA, directory: Path) -> None:
    path = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    field.courier.sessions.client_tls = ClientTls(str(path))


@pytest_twisted.ensureDeferred
async def test_tls_is_used_where_it_is_offered(field: Field, authority: trustme.CA) -> None:
    peer = field.peer(tls=server_context(authority.issue_cert("elsewhere.org")))
    (one,) = await field.deliver()
    assert one.kind == "delivered" and one.tls.startswith("TLSv1")
    assert peer.behaviour.secured == 1
    assert peer.behaviour.verbs()[:3] == ["EHLO", "STARTTLS", "EHLO"]


@pytest_twisted.ensureDeferred
async def test_tls_that_breaks_does_not_keep_mail_back_when_it_was_not_required(field: Field) -> None:
    peer = field.peer(extensions=("STARTTLS",))  # says yes, and then cannot
    deferred = Deferred.fromCoroutine(field.deliver())
    for _ in range(300):
        if deferred.called:
            break
        await pause(0.01)
        drop_half_open(peer)
    assert kinds(await deferred) == ["delivered"]
    assert peer.behaviour.connections == 2
    assert peer.behaviour.verbs().count("STARTTLS") == 1


def drop_half_open(peer: Any) -> None:
    """The peer takes the handshake for a command that it does not know, and gives up."""
    if peer.behaviour.verbs().count("STARTTLS") and peer.behaviour.connections == 1:
        peer.drop()


@pytest.mark.parametrize("reply", ["454 4.7.0 not now", "501 what?"])
@pytest_twisted.ensureDeferred
async def test_a_refused_starttls_means_clear_text_unless_required(field: Field, reply: str) -> None:
    peer = field.peer(extensions=("STARTTLS",), replies={"STARTTLS": reply})
    assert kinds(await field.deliver()) == ["delivered"]
    assert peer.behaviour.connections == 1


@pytest.mark.parametrize(
    ("names", "offered", "words"),
    [
        (["127.0.0.1"], True, ""),
        (["other.org"], True, "TLS failed: the certificate is not for 127.0.0.1"),
        (["127.0.0.1"], False, "the server does not offer TLS"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_required_tls_is_verified_or_nothing_is_sent(
    field: Field, authority: trustme.CA, tmp_path: Path, names: list[str], offered: bool, words: str
) -> None:
    trusting(field, authority, tmp_path)
    context = server_context(authority.issue_cert(*names)) if offered else None
    peer = field.make_peer(tls=context)
    field.tables.routes["x.org"] = smarthost(peer.port, tls="verified")
    (one,) = await field.deliver()
    if not words:
        assert one.kind == "delivered" and one.tls
    else:
        assert (one.kind, one.ours, one.reply.text) == ("deferred", True, words)
        assert peer.behaviour.messages == [] and "MAIL" not in peer.behaviour.verbs()


@pytest_twisted.ensureDeferred
async def test_a_row_may_switch_tls_off(field: Field, authority: trustme.CA) -> None:
    peer = field.make_peer(tls=server_context(authority.issue_cert("x.org")))
    field.tables.routes["x.org"] = smarthost(peer.port, tls="none")
    assert kinds(await field.deliver()) == ["delivered"]
    assert peer.behaviour.secured == 0


# -- what the sender asks of the way --------------------------------------------------------------------


def wished(*parameters: tuple[str, str | None]) -> dict[str, Any]:
    return {"parameters": tuple(Parameter(*one) for one in parameters), "received_at": reactor.seconds()}  # type: ignore[attr-defined]


@pytest_twisted.ensureDeferred
async def test_requiretls_goes_on_verified_to_a_host_that_knows_it(
    field: Field, authority: trustme.CA, tmp_path: Path
) -> None:
    trusting(field, authority, tmp_path)
    context = server_context(authority.issue_cert("127.0.0.1"))
    peer = field.make_peer(tls=context, extensions=("REQUIRETLS", "DSN"))
    for tls in ("opportunistic", "none"):
        field.tables.routes["x.org"] = smarthost(peer.port, tls=tls)
        (one,) = await field.deliver(**wished(("REQUIRETLS", None)), ret="FULL")
        assert one.kind == "delivered" and one.tls
    assert peer.behaviour.commands[3] == "MAIL FROM:<carole@elorac.fr> REQUIRETLS RET=HDRS"


@pytest_twisted.ensureDeferred
async def test_requiretls_is_returned_where_nobody_knows_it(
    field: Field, authority: trustme.CA, tmp_path: Path
) -> None:
    trusting(field, authority, tmp_path)
    peer = field.make_peer(tls=server_context(authority.issue_cert("127.0.0.1")))
    field.tables.routes["x.org"] = smarthost(peer.port)
    (one,) = await field.deliver(**wished(("REQUIRETLS", None)))
    assert (one.kind, one.ours, one.reply.code, one.reply.enhanced) == ("failed", False, 550, "5.7.30")
    assert "MAIL" not in peer.behaviour.verbs()


@pytest.mark.parametrize("offered", [True, False])
@pytest_twisted.ensureDeferred
async def test_requiretls_never_leaves_in_clear_text_nor_to_an_impostor(
    field: Field, authority: trustme.CA, tmp_path: Path, offered: bool
) -> None:
    trusting(field, authority, tmp_path)
    context = server_context(authority.issue_cert("other.org")) if offered else None
    peer = field.make_peer(tls=context, extensions=("REQUIRETLS",))
    field.tables.routes["x.org"] = smarthost(peer.port)
    (one,) = await field.deliver(**wished(("REQUIRETLS", None)))
    assert (one.kind, one.ours) == ("deferred", False)
    assert peer.behaviour.messages == [] and "MAIL" not in peer.behaviour.verbs()


@pytest_twisted.ensureDeferred
async def test_priority_goes_on_to_hosts_that_know_it(field: Field) -> None:
    peer = field.peer(extensions=("MT-PRIORITY",))
    assert kinds(await field.deliver(**wished(("MT-PRIORITY", "-3")))) == ["delivered"]
    assert peer.behaviour.commands[1].endswith(" MT-PRIORITY=-3")
    old = field.peer(extensions=())
    assert kinds(await field.deliver(**wished(("MT-PRIORITY", "-3")))) == ["delivered"]
    assert old.behaviour.commands[1] == "MAIL FROM:<carole@elorac.fr>"


@pytest_twisted.ensureDeferred
async def test_a_time_to_deliver_by_goes_on_with_what_is_left_of_it(field: Field) -> None:
    peer = field.peer(extensions=("DELIVERBY 60",))
    facts = wished(("BY", "500;RT"))
    facts["received_at"] -= 100
    (one,) = await field.deliver(**facts)
    assert (one.kind, one.keeps_time) == ("delivered", True)
    words = peer.behaviour.commands[1].rpartition(" ")[2]
    assert words.endswith(";RT") and 390 <= int(words[3:-3]) <= 400


@pytest.mark.parametrize(
    ("extensions", "by", "enhanced"),
    [((), "500;R", "5.3.3"), (("DELIVERBY 600",), "500;R", "5.3.3"), (("DELIVERBY",), "5;R", "5.4.7")],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_in_time_is_returned_without_being_sent(
    field: Field, extensions: Any, by: str, enhanced: str
) -> None:
    peer = field.peer(extensions=extensions)
    facts = wished(("BY", by))
    facts["received_at"] -= 10
    (one,) = await field.deliver(**facts)
    assert (one.kind, one.reply.enhanced) == ("failed", enhanced)
    assert "MAIL" not in peer.behaviour.verbs()


@pytest_twisted.ensureDeferred
async def test_a_wish_to_be_told_of_delay_keeps_no_mail_back(field: Field) -> None:
    peer = field.peer(extensions=())
    (one,) = await field.deliver(**wished(("BY", "-5;N")))
    assert (one.kind, one.keeps_time) == ("delivered", False)
    assert peer.behaviour.commands[1] == "MAIL FROM:<carole@elorac.fr>"


@pytest.mark.parametrize("reply", ["250 ok", "550 5.7.0 not you"])
@pytest_twisted.ensureDeferred
async def test_a_row_may_tell_its_host_whom_mail_came_from(field: Field, reply: str) -> None:
    peer = field.make_peer(
        extensions=("PIPELINING", "XFORWARD NAME ADDR HELO IDENT"), replies={"XFORWARD": reply}
    )
    field.tables.routes["x.org"] = smarthost(peer.port, xforward=True)
    assert kinds(await field.deliver(client=(("ADDR", "192.0.2.7"), ("HELO", "a b")))) == ["delivered"]
    assert peer.behaviour.commands[1:3] == [
        "XFORWARD NAME=[UNAVAILABLE] ADDR=192.0.2.7 HELO=a+20b IDENT=id1",
        "MAIL FROM:<carole@elorac.fr>",
    ]
    field.tables.routes["x.org"] = smarthost(peer.port)
    assert kinds(await field.deliver(client=(("ADDR", "192.0.2.7"),))) == ["delivered"]
    assert peer.behaviour.verbs().count("XFORWARD") == 1
