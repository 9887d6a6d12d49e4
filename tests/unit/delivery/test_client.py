"""The client against servers that refuse, stall, lie and vanish at every stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread

from lorrainemail.addresses import parse_address
from lorrainemail.delivery import client
from lorrainemail.delivery.client import ClientSession, Sent, Unusable
from lorrainemail.delivery.wire import CHUNK, SessionLost, Wire
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.ops.content import Content

MESSAGE = b"Subject: x\r\n\r\n.\r\n..two\r\nend\r\n"
BOB = Recipient(parse_address("bob@bricoleur.com"))
ANNE = Recipient(parse_address("anne@bricoleur.com"))
ZOE = Recipient(parse_address("zoé@bricoleur.com"))


def envelope(**more: Any) -> Envelope:
    facts: dict[str, Any] = {"id": "id1", "sender": parse_address("carole@elorac.fr"), "recipients": (BOB,)}
    return Envelope(**{**facts, **more})


async def connected(peer: Any) -> ClientSession:
    wire = Wire(reactor)  # type: ignore[arg-type]
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", peer.port)
    await endpoint.connect(Factory.forProtocol(lambda: wire))
    return ClientSession(wire, "mail.elorac.fr", deferToThread)


async def ready(peer: Any) -> ClientSession:
    session = await connected(peer)
    await session.greet()
    return session


async def sent(peer: Any, *recipients: Recipient, content: Any = None, **more: Any) -> list[Sent]:
    session = await ready(peer)
    found = await session.send(envelope(**more), recipients or (BOB,), content or Content(MESSAGE))
    await session.quit()
    return found


def codes(found: list[Sent]) -> list[int]:
    return [one.reply.code for one in found]


PIPELINED = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8")
PLAIN = ("SIZE 1000000", "8BITMIME", "SMTPUTF8")
both = pytest.mark.parametrize("extensions", [PIPELINED, PLAIN], ids=["pipelined", "plain"])


@both
@pytest_twisted.ensureDeferred
async def test_a_message_arrives_octet_for_octet(make_peer: Any, extensions: Any) -> None:
    peer = make_peer(extensions=extensions)
    found = await sent(peer, BOB, ANNE)
    assert codes(found) == [250, 250] and all(one.remote for one in found)
    assert peer.behaviour.messages == [MESSAGE]
    assert peer.behaviour.commands == [
        "EHLO mail.elorac.fr",
        f"MAIL FROM:<carole@elorac.fr> SIZE={len(MESSAGE)}",
        "RCPT TO:<bob@bricoleur.com>",
        "RCPT TO:<anne@bricoleur.com>",
        "DATA",
        "QUIT",
    ]


@pytest_twisted.ensureDeferred
async def test_a_large_message_arrives_whole(make_peer: Any) -> None:
    large = b"Subject: x\r\n\r\n" + b"".join(b".%d " % n + b"y" * (n % 900) + b"\r\n" for n in range(6000))
    assert len(large) > 30 * CHUNK

    class FromFile(Content):
        def in_memory(self) -> None:  # type: ignore[override]
            return None

    peer = make_peer(extensions=("PIPELINING",))
    assert codes(await sent(peer, content=FromFile(large))) == [250]
    assert peer.behaviour.messages == [large]


@pytest_twisted.ensureDeferred
async def test_a_server_that_only_knows_helo_gets_its_mail(make_peer: Any) -> None:
    peer = make_peer(replies={"EHLO": "502 5.5.1 what?"})
    assert codes(await sent(peer)) == [250]
    assert peer.behaviour.commands[:3] == [
        "EHLO mail.elorac.fr",
        "HELO mail.elorac.fr",
        "MAIL FROM:<carole@elorac.fr>",
    ]


@both
@pytest_twisted.ensureDeferred
async def test_each_recipient_has_its_own_outcome(make_peer: Any, extensions: Any) -> None:
    peer = make_peer(
        extensions=extensions,
        replies={"RCPT": ["550 5.1.1 unknown", "451 4.2.1 later", "250 ok", "552 too many"]},
    )
    found = await sent(peer, BOB, ANNE, BOB, ANNE)
    assert codes(found) == [550, 451, 250, 452]
    assert found[0].reply.enhanced == "5.1.1" and found[3].reply.temporary
    assert peer.behaviour.messages == [MESSAGE]


@both
@pytest.mark.parametrize(("reply", "code"), [("451 4.7.1 greylisted", 451), ("550 5.7.1 go away", 550)])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
@pytest_twisted.ensureDeferred
async def test_a_refusal_at_each_verb_is_the_outcome(
    make_peer: Any, extensions: Any, verb: str, reply: str, code: int
) -> None:
    peer = make_peer(extensions=extensions, replies={verb: reply})
    session = await ready(peer)
    found = await session.send(envelope(), (BOB, ANNE), Content(MESSAGE))
    assert codes(found) == [code, code] and all(one.remote and not one.uncertain for one in found)
    peer.behaviour.replies.clear()
    peer.behaviour.messages.clear()
    if session.usable:  # the next message on the same session is not hurt by this one
        assert codes(await session.send(envelope(), (BOB,), Content(MESSAGE))) == [250]
        assert peer.behaviour.messages == [MESSAGE]
    await session.quit()


@both
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("reply", ["DROP", "421 4.3.2 closing", "RAW:hello\r\n", "RAW:250-a\r\n550 b\r\n"])
@pytest_twisted.ensureDeferred
async def test_a_connection_that_breaks_at_any_stage_defers(
    make_peer: Any, extensions: Any, verb: str, reply: str
) -> None:
    peer = make_peer(extensions=extensions, replies={verb: reply})
    session = await ready(peer)
    found = await session.send(envelope(), (BOB, ANNE), Content(MESSAGE))
    assert all(one.reply.temporary for one in found)
    assert [one.uncertain for one in found] == [verb == "."] * 2
    assert not session.usable


@both
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
@pytest_twisted.ensureDeferred
async def test_a_reply_out_of_place_is_never_taken_for_success_or_refusal(
    make_peer: Any, extensions: Any, verb: str
) -> None:
    wrong = "250 2.0.0 ok" if verb == "DATA" else "354 go on"
    peer = make_peer(extensions=extensions, replies={verb: wrong})
    session = await ready(peer)
    found = await session.send(envelope(), (BOB,), Content(MESSAGE))
    assert all(one.reply.temporary for one in found)
    session.wire.end(SessionLost(found[0].reply))


@pytest_twisted.ensureDeferred
async def test_data_offered_although_nobody_was_accepted_sends_no_mail(make_peer: Any) -> None:
    peer = make_peer(replies={"RCPT": "550 5.1.1 unknown", ".": "554 5.5.1 no recipients"})
    session = await ready(peer)
    assert codes(await session.send(envelope(), (BOB,), Content(MESSAGE))) == [550]
    assert peer.behaviour.messages == [b""]
    assert session.usable
    await session.quit()


@pytest.mark.parametrize(("reply", "kind"), [(b"552 5.3.4 too big\r\n", 552), (b"451 4.3.1 full\r\n", 451)])
@pytest_twisted.ensureDeferred
async def test_a_reply_in_the_middle_of_a_message_ends_it(make_peer: Any, reply: bytes, kind: int) -> None:
    peer = make_peer(early=(1000, reply), extensions=("PIPELINING",))
    session = await ready(peer)
    found = await session.send(envelope(), (BOB,), Content(MESSAGE + b"x" * 70 * CHUNK))
    assert codes(found) == [kind]
    session.wire.end(SessionLost(found[0].reply))


@pytest_twisted.ensureDeferred
async def test_success_in_the_middle_of_a_message_is_not_believed() -> None:
    clock, transport = Clock(), StringTransport()
    session, wire = in_memory(clock, transport)
    reading: list[Deferred[Any]] = []

    def slowly(work: Callable[[], Any]) -> Deferred[Any]:
        reading.append(Deferred())
        return reading[-1]

    class FromFile(Content):
        def in_memory(self) -> None:  # type: ignore[override]
            return None

    session._in_thread = slowly
    result = Deferred.fromCoroutine(session.send(envelope(), (BOB,), FromFile(MESSAGE)))
    wire.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 queued\r\n")
    reading[0].callback(MESSAGE)
    found = await result
    assert found[0].reply.temporary and wire.over is not None


@pytest_twisted.ensureDeferred
async def test_a_message_too_large_is_refused_without_sending_it(make_peer: Any) -> None:
    peer = make_peer(extensions=("PIPELINING", "SIZE 10"))
    found = await sent(peer)
    assert (found[0].reply.code, found[0].reply.enhanced, found[0].remote) == (552, "5.3.4", False)
    assert "MAIL" not in peer.behaviour.verbs()


@pytest_twisted.ensureDeferred
async def test_eight_bit_mail_is_declared_or_refused_but_never_mangled(make_peer: Any) -> None:
    eight = Content("Subject: x\r\n\r\nDéjà\r\n".encode())
    peer = make_peer()
    assert codes(await sent(peer, content=eight)) == [250]
    assert peer.behaviour.commands[1].endswith(" BODY=8BITMIME")
    old = make_peer(extensions=("PIPELINING",))
    assert codes(await sent(old, content=eight)) == [250]
    assert "BODY" not in old.behaviour.commands[1]
    assert old.behaviour.messages == [
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\nD=C3=A9j=C3=A0\r\n"
    ]
    header = Content("Subject: Déjà\r\n\r\nDéjà\r\n".encode())
    found = await sent(old, content=header)
    assert (found[0].reply.code, found[0].reply.enhanced, found[0].remote) == (554, "5.6.3", False)
    assert len(old.behaviour.messages) == 1


@pytest_twisted.ensureDeferred
async def test_what_grows_beyond_the_servers_limit_by_its_conversion_is_not_sent(make_peer: Any) -> None:
    eight = Content("Subject: x\r\n\r\nDéjà\r\n".encode())
    old = make_peer(extensions=(f"SIZE {eight.size + 5}",))
    found = await sent(old, content=eight)
    assert (found[0].reply.enhanced, found[0].remote) == ("5.3.4", False)
    assert "MAIL" not in old.behaviour.verbs()


CHUNKED = pytest.mark.parametrize("more", [("PIPELINING",), ()], ids=["pipelined", "plain"])


@CHUNKED
@pytest_twisted.ensureDeferred
async def test_a_server_with_chunking_gets_the_octets_counted_and_unstuffed(
    make_peer: Any, more: Any
) -> None:
    peer = make_peer(extensions=("CHUNKING", *more), replies={"RCPT": ["250 ok", "550 5.1.1 no", "250 ok"]})
    found = await sent(peer, BOB, ANNE, BOB)
    assert codes(found) == [250, 550, 250]
    assert peer.behaviour.messages == [MESSAGE]
    assert peer.behaviour.commands[5:] == [f"BDAT {len(MESSAGE)} LAST", "QUIT"]


@CHUNKED
@pytest_twisted.ensureDeferred
async def test_no_chunk_is_sent_for_nobody(make_peer: Any, more: Any) -> None:
    peer = make_peer(extensions=("CHUNKING", *more), replies={"RCPT": "550 5.1.1 no"})
    assert codes(await sent(peer, BOB, ANNE)) == [550, 550]
    assert peer.behaviour.verbs()[-2:] == ["RSET", "QUIT"] and "BDAT" not in peer.behaviour.verbs()


@CHUNKED
@pytest.mark.parametrize(("reply", "kind"), [("552 5.3.4 full", 5), ("451 4.3.0 later", 4), ("354 what", 4)])
@pytest_twisted.ensureDeferred
async def test_the_answer_to_the_last_chunk_is_everybodys(
    make_peer: Any, more: Any, reply: str, kind: int
) -> None:
    peer = make_peer(extensions=("CHUNKING", *more), replies={".": reply})
    found = await sent(peer, BOB, ANNE)
    assert [code // 100 for code in codes(found)] == [kind, kind]


@pytest_twisted.ensureDeferred
async def test_a_chunk_cut_short_is_not_taken_for_the_message(make_peer: Any) -> None:
    class Short(Content):
        def chunks(self, size: int = CHUNK) -> Any:
            yield MESSAGE[:-1]

    peer = make_peer(extensions=("CHUNKING",))
    found = await sent(peer, content=Short(MESSAGE))
    assert found[0].reply.temporary and not found[0].uncertain
    assert peer.behaviour.messages == [] and "QUIT" not in peer.behaviour.verbs()


def test_an_answer_that_comes_at_once_behind_the_last_octet_is_believed() -> None:
    clock, transport = Clock(), StringTransport()
    session, wire = in_memory(clock, transport)
    session.extensions = {"CHUNKING": ""}
    reading: list[Deferred[Any]] = []

    def slowly(work: Callable[[], Any]) -> Deferred[Any]:
        reading.append(Deferred())
        return reading[-1]

    class FromFile(Content):
        def in_memory(self) -> None:  # type: ignore[override]
            return None

    session._in_thread = slowly
    result = Deferred.fromCoroutine(session.send(envelope(), (BOB,), FromFile(MESSAGE)))
    wire.dataReceived(b"250 ok\r\n")
    wire.dataReceived(b"250 ok\r\n")
    reading[0].callback(MESSAGE)
    wire.dataReceived(b"250 2.0.0 taken\r\n")
    for one in reading[1:]:
        one.callback(None)
    found: list[Sent] = []
    result.addCallback(found.extend)
    assert codes(found) == [250]


@pytest_twisted.ensureDeferred
async def test_a_connection_lost_behind_the_last_chunk_leaves_the_fate_unknown(make_peer: Any) -> None:
    peer = make_peer(extensions=("CHUNKING",), replies={".": "DROP"})
    found = await sent(peer)
    assert found[0].reply.temporary and found[0].uncertain


@pytest_twisted.ensureDeferred
async def test_international_addresses_need_a_server_that_knows_them(make_peer: Any) -> None:
    peer = make_peer()
    assert codes(await sent(peer, ZOE)) == [250]
    assert peer.behaviour.commands[1].endswith(" SMTPUTF8")
    assert peer.behaviour.commands[2] == "RCPT TO:<zoé@bricoleur.com>"
    old = make_peer(extensions=("PIPELINING", "8BITMIME"))
    found = await sent(old, ZOE, BOB)
    assert [(one.reply.code, one.reply.enhanced) for one in found] == [(550, "5.6.7"), (250, "2.0.0")]
    sender = await sent(old, BOB, sender=parse_address("zoé@elorac.fr"))
    assert sender[0].reply.enhanced == "5.6.7"
    header = Content("Subject: Déjà\r\n\r\nx\r\n".encode())
    assert (await sent(old, BOB, content=header, smtputf8=True))[0].reply.enhanced == "5.6.7"
    body = Content("Subject: x\r\n\r\nDéjà\r\n".encode())
    assert codes(await sent(old, BOB, content=body, smtputf8=True)) == [250]


@pytest_twisted.ensureDeferred
async def test_delivery_requests_go_on_to_servers_that_know_them(make_peer: Any) -> None:
    recipient = Recipient(BOB.address, notify=("SUCCESS", "FAILURE"), orcpt="rfc822;a+b@x.org")
    peer = make_peer(extensions=("DSN",))
    await sent(peer, recipient, ret="HDRS", envid="E=1")
    assert peer.behaviour.commands[1] == "MAIL FROM:<carole@elorac.fr> RET=HDRS ENVID=E+3D1"
    assert peer.behaviour.commands[2].endswith(" NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@x.org")
    old = make_peer(extensions=())
    await sent(old, recipient, ret="HDRS", envid="E=1")
    assert old.behaviour.commands[1] == "MAIL FROM:<carole@elorac.fr>"
    beyond = make_peer(extensions=("DSN",))
    await sent(beyond, Recipient(BOB.address, orcpt="utf-8;é+@x.org"), envid="é")
    assert beyond.behaviour.commands[1].endswith(" ENVID=+C3+A9")
    assert beyond.behaviour.commands[2].endswith(r" ORCPT=utf-8;\x{E9}\x{2B}@x.org")


@pytest_twisted.ensureDeferred
async def test_what_a_server_says_of_its_limits_is_kept(make_peer: Any) -> None:
    peer = make_peer(extensions=("PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=4 RCPTMAX=x"))
    session = await ready(peer)
    recipients = [Recipient(parse_address(f"user{number}@x.org")) for number in range(5)]
    found = await session.send(envelope(), recipients, Content(b"a: b\r\n\r\n"))
    assert codes(found) == [250] * 5
    assert peer.behaviour.verbs()[1:] == ["MAIL", "RCPT", "RCPT", "DATA"] * 2 + ["MAIL", "RCPT", "DATA"]
    assert session.usable and not session.full
    await session.send(envelope(), recipients[:1], Content(b"a: b\r\n\r\n"))
    assert session.full
    await session.quit()


@pytest_twisted.ensureDeferred
async def test_a_bounce_leaves_with_the_null_reverse_path(make_peer: Any) -> None:
    peer = make_peer()
    await sent(peer, sender=None)
    assert peer.behaviour.commands[1].startswith("MAIL FROM:<> ")


@pytest.mark.parametrize(
    ("reply", "code"), [("554 5.7.1 not you", 554), ("421 4.3.2 busy", 0), ("450 wait", 450), ("DROP", 0)]
)
@pytest_twisted.ensureDeferred
async def test_a_host_that_does_not_greet_is_unusable(make_peer: Any, reply: str, code: int) -> None:
    session = await connected(make_peer(replies={"greeting": reply}))
    with pytest.raises((Unusable, SessionLost)) as caught:
        await session.greet()
    if code:
        assert caught.value.reply.code == code  # type: ignore[union-attr]


@pytest_twisted.ensureDeferred
async def test_several_messages_share_a_session(make_peer: Any) -> None:
    peer = make_peer()
    session = await ready(peer)
    for _ in range(3):
        assert codes(await session.send(envelope(), (BOB,), Content(MESSAGE))) == [250]
    await session.quit()
    assert peer.behaviour.connections == 1 and len(peer.behaviour.messages) == 3


@pytest.mark.parametrize("offered", ["AUTH PLAIN LOGIN", "AUTH LOGIN", "AUTH=PLAIN"])
@pytest_twisted.ensureDeferred
async def test_login_with_what_the_server_offers(make_peer: Any, offered: str) -> None:
    replies = {"AUTH": "334 VXNlcm5hbWU6" if offered == "AUTH LOGIN" else "235 ok"}
    peer = make_peer(extensions=(offered,), replies={**replies, "auth-line": ["334 UGFzc3dvcmQ6", "235 ok"]})
    session = await ready(peer)
    await session.auth("user", "secret")
    expected = ["AUTH LOGIN", "dXNlcg==", "c2VjcmV0"]
    if "PLAIN" in offered:
        expected = ["AUTH PLAIN AHVzZXIAc2VjcmV0"]
    assert peer.behaviour.commands[1:] == expected
    await session.quit()


@pytest.mark.parametrize("extensions", [("AUTH CRAM-MD5",), (), ("AUTH PLAIN",)])
@pytest_twisted.ensureDeferred
async def test_a_refused_login_is_said(make_peer: Any, extensions: Any) -> None:
    session = await ready(make_peer(extensions=extensions, replies={"AUTH": "535 5.7.8 no"}))
    with pytest.raises(Unusable):
        await session.auth("user", "secret")
    await session.quit()


# -- in memory: time and cuts ---------------------------------------------------------------------------


def in_memory(
    clock: Clock, transport: StringTransport, extensions: bytes = b"250 PIPELINING\r\n"
) -> tuple[ClientSession, Wire]:
    transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
    wire = Wire(clock)
    wire.makeConnection(transport)
    session = ClientSession(wire, "me", lambda work: succeed(work()))
    greeting = Deferred.fromCoroutine(session.greet())
    wire.dataReceived(b"220 hi\r\n")
    wire.dataReceived(b"250-hi\r\n" + extensions)
    assert greeting.called
    transport.clear()
    return session, wire


def outcome(deferred: Deferred[Any]) -> Any:
    assert deferred.called, "still waiting"
    return deferred.result


@pytest.mark.parametrize(
    ("given", "seconds", "what"),
    [
        (b"", client.MAIL_TIME, "MAIL"),
        (b"250 ok\r\n", client.RCPT_TIME, "RCPT"),
        (b"250 ok\r\n250 ok\r\n", client.DATA_TIME, "DATA"),
        (b"250 ok\r\n250 ok\r\n354 go\r\n", client.FINAL_DOT_TIME, "DATA"),
    ],
)
def test_each_stage_waits_as_long_as_the_rfc_says_and_no_longer(
    given: bytes, seconds: int, what: str
) -> None:
    clock, transport = Clock(), StringTransport()
    session, wire = in_memory(clock, transport)
    result = Deferred.fromCoroutine(session.send(envelope(), (BOB,), Content(MESSAGE)))
    wire.dataReceived(given)
    clock.advance(seconds - 1)
    assert not result.called
    wire.dataReceived(b"250")  # a reply that never ends does not buy time
    clock.advance(1)
    (one,) = outcome(result)
    assert one.reply.temporary and f"timed out at {what}" in one.reply.text
    assert transport.disconnecting and clock.getDelayedCalls() == []


def test_a_server_that_never_greets_is_given_up() -> None:
    clock, transport = Clock(), StringTransport()
    transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
    wire = Wire(clock)
    wire.makeConnection(transport)
    result = Deferred.fromCoroutine(ClientSession(wire, "me", lambda work: succeed(work())).greet())
    result.addErrback(lambda failure: failure.value)
    clock.advance(client.GREETING_TIME)
    assert isinstance(outcome(result), SessionLost)


def test_back_pressure_stops_the_reading() -> None:
    clock, transport = Clock(), StringTransport()
    session, wire = in_memory(clock, transport)
    read: list[int] = []

    class FromFile(Content):
        def in_memory(self) -> None:  # type: ignore[override]
            return None

    def read_and_pause(work: Callable[[], Any]) -> Deferred[Any]:
        read.append(1)
        wire.pauseProducing()
        return succeed(work())

    session._in_thread = read_and_pause
    content = FromFile(MESSAGE + b"x" * 5 * CHUNK)
    result = Deferred.fromCoroutine(session.send(envelope(), (BOB,), content))
    wire.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert len(read) == 1
    wire.resumeProducing()
    assert len(read) == 2
    clock.advance(client.BLOCK_TIME)
    assert outcome(result)[0].reply.temporary and not outcome(result)[0].uncertain
    assert len(read) == 2


def test_a_message_that_cannot_be_read_is_never_ended_as_if_it_were_whole() -> None:
    clock, transport = Clock(), StringTransport()
    session, wire = in_memory(clock, transport)

    class Broken(Content):
        def in_memory(self) -> None:  # type: ignore[override]
            return None

        def chunks(self, size: int = 1) -> Any:
            yield MESSAGE
            raise OSError("disk")

    result = Deferred.fromCoroutine(session.send(envelope(), (BOB,), Broken(MESSAGE)))
    wire.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert outcome(result)[0].reply.temporary
    assert not transport.value().endswith(b"\r\n.\r\n") and transport.disconnecting


@pytest.mark.parametrize(
    "octets",
    [
        b"250 ok\r\n" * 9,
        b"220 unsolicited\r\n",
        b"x" * 5000,
        b"250-x\r\n" * 500,
        b"99 too short\r\n",
        b"\xff\xfe\r\n",
        b"250ok\r\n",
        b"600 no\r\n",
    ],
)
def test_garbage_ends_the_session_and_is_bounded(octets: bytes) -> None:
    clock, transport = Clock(), StringTransport()
    _, wire = in_memory(clock, transport)
    wire.dataReceived(octets)
    assert wire.over is not None and transport.disconnecting
    assert len(wire.over.reply.text) < 2000


def test_clear_text_behind_starttls_is_not_taken_for_the_answer_of_the_encrypted_server() -> None:
    clock, transport = Clock(), StringTransport()
    session, wire = in_memory(clock, transport, b"250 STARTTLS\r\n")
    started: list[object] = []
    transport.startTLS = started.append  # type: ignore[attr-defined]
    result = Deferred.fromCoroutine(session.starttls(object()))
    result.addErrback(lambda failure: failure.value)
    wire.dataReceived(b"220 go\r\n250-injected\r\n250 AUTH PLAIN\r\n")
    assert isinstance(outcome(result), SessionLost)


@pytest.mark.parametrize("cut", range(1, 30))
def test_replies_may_come_in_any_pieces(cut: int) -> None:
    clock, transport = Clock(), StringTransport()
    session, wire = in_memory(clock, transport)
    result = Deferred.fromCoroutine(session.send(envelope(), (BOB,), Content(MESSAGE)))
    octets = b"250 ok\r\n250-2.1.5 a\r\n250 2.1.5 b\n354\r\n250 2.0.0 queued\r\n"
    for start in range(0, len(octets), cut):
        wire.dataReceived(octets[start : start + cut])
    (one,) = outcome(result)
    assert str(one.reply) == "250 2.0.0 queued"


@pytest.mark.parametrize("local", ['"a\r\nRSET"', "x\x00y"])
def test_an_address_never_becomes_two_commands(local: str) -> None:
    from lorrainemail.addresses import Address

    clock, transport = Clock(), StringTransport()
    session, _ = in_memory(clock, transport)
    evil = Recipient(Address(local, "x.org"))
    result = Deferred.fromCoroutine(session.send(envelope(), (evil,), Content(MESSAGE)))
    result.addErrback(lambda failure: failure.value)
    assert isinstance(outcome(result), ValueError)
    assert transport.value() == b""
