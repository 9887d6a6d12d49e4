"""Sessions of the MX door: verbs, transactions, and what intake is given."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from lorrainemail.addresses import Address
from lorrainemail.envelope import Parameter
from lorrainemail.errors import Reply, TemporaryError
from lorrainemail.interfaces import Action, Verdict


def test_greeting_and_extensions_of_the_mx_door(world: Any) -> None:
    client = world.connect()
    assert client.greeting == "220 mail.ours.test ESMTP lorrainemail\r\n"
    assert client.send("EHLO c\r\n").splitlines() == [
        "250-mail.ours.test",
        "250-PIPELINING",
        "250-SIZE 1000000",
        "250-8BITMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-CHUNKING",
        "250-LIMITS RCPTMAX=1000",
        "250 SMTPUTF8",
    ]
    assert client.send("HELO c\r\n") == "250 mail.ours.test\r\n"


def test_starttls_is_announced_where_there_is_a_context_and_no_tls_yet(world: Any) -> None:
    world.tls = object()
    client = world.connect()
    assert "STARTTLS" in client.send("EHLO c\r\n")
    assert client.say("STARTTLS x", "STARTTLS") == ["501 5.5.4", "220 2.0.0"]
    assert "STARTTLS" not in client.send("EHLO c\r\n")
    assert client.say("STARTTLS") == ["503 5.5.1"]


def test_starttls_without_a_context_is_no_command(world: Any) -> None:
    client = world.connect()
    assert "STARTTLS" not in client.send("EHLO c\r\n")
    assert client.say("STARTTLS") == ["502 5.5.1"]


@pytest.mark.parametrize("greeting", ["EHLO", "HELO", "EHLO a b", "EHLO é", "EHLO " + "x" * 256])
def test_bad_greeting_is_refused_and_does_not_count(world: Any, greeting: str) -> None:
    client = world.connect()
    assert client.say(greeting, "MAIL FROM:<>") == ["501 5.5.4", "503 5.5.1"]


def test_message_reaches_intake_with_everything_that_was_said(world: Any) -> None:
    world.configure(dsn=True)
    client = world.connect("198.51.100.9")
    client.send("EHLO mail.elorac.test\r\n")
    assert client.say(
        "MAIL FROM:<Carole@ELORAC.test> SIZE=30 BODY=8BITMIME RET=HDRS ENVID=a+2Bb",
        "RCPT TO:<Bob@ours.test> NOTIFY=NEVER ORCPT=rfc822;x@y",
        "RCPT TO:<Postmaster>",
        "DATA",
    ) == ["250 2.1.0", "250 2.1.5", "250 2.1.5", "354 End w"]
    assert client.send("Subject: x\r\n\r\n..\r\n.\r\n") == "250 2.0.0 Ok, delivered\r\n"
    (transaction,) = world.intake.taken
    assert world.intake.wires == [b"Subject: x\r\n\r\n.\r\n"]
    session, envelope = transaction.session, transaction.envelope
    assert (session.door, session.peer, session.peer_port, session.local) == (
        "smtp",
        "198.51.100.9",
        4242,
        "192.0.2.1",
    )
    assert (session.helo, session.esmtp, session.tls, session.account) == ("mail.elorac.test", True, None, "")
    assert envelope.sender == Address("Carole", "elorac.test")
    assert (envelope.size, envelope.body, envelope.ret, envelope.envid) == (30, "8BITMIME", "HDRS", "a+b")
    assert envelope.parameters[0] == Parameter("SIZE", "30")
    assert envelope.received_at == 1_700_000_000.0
    assert not envelope.sender_verified
    first, second = envelope.recipients
    assert (first.address, first.original) == (Address("Bob", "ours.test"), "Bob@ours.test")
    assert (first.notify, first.orcpt) == (("NEVER",), "rfc822;x@y")
    assert second.address == Address("Postmaster", "")
    assert [accepted.recipient for accepted in transaction.accepted] == list(envelope.recipients)
    assert transaction.tables is world.snapshot
    assert len(envelope.id) == 17


def test_dsn_is_offered_to_those_whom_its_notices_are_for(world: Any) -> None:
    world.configure(dsn=True)
    stranger, friend = world.connect(), world.connect("10.1.2.3")
    assert "DSN" not in stranger.send("EHLO c\r\n")
    assert "DSN\r\n" in friend.send("EHLO c\r\n")
    world.submission(dsn=True)
    world._door = None
    assert "250-DSN\r\n" in world.connect().send("EHLO c\r\n")


def test_ids_differ_and_each_transaction_starts_clean(world: Any) -> None:
    client = world.connect()
    client.mail()
    client.mail(b"second: x\r\n\r\n")
    one, two = world.intake.taken
    assert one.envelope.id != two.envelope.id
    assert one.session.id == two.session.id
    assert len(two.accepted) == 1


def test_null_reverse_path_is_accepted(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n")
    client.send("x: y\r\n\r\n.\r\n")
    assert world.intake.taken[0].envelope.sender is None


def test_order_of_a_transaction(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\n")
    assert client.say(
        "RCPT TO:<bob@ours.test>",
        "DATA",
        "MAIL FROM:<a@b.test>",
        "MAIL FROM:<a@b.test>",
        "DATA",
        "RCPT TO:<no@ours.test>",
        "DATA",
        "DATA now",
        "RSET now",
        "RSET",
        "RCPT TO:<bob@ours.test>",
        "QUIT now",
    ) == [
        "503 5.5.1",
        "503 5.5.1",
        "250 2.1.0",
        "503 5.5.1",
        "554 5.5.1",
        "550 5.1.1",
        "554 5.5.1",
        "501 5.5.4",
        "501 5.5.4",
        "250 2.0.0",
        "503 5.5.1",
        "501 5.5.4",
    ]
    assert client.send("QUIT\r\n") == "221 2.0.0 Bye\r\n"
    assert client.closing


def test_ehlo_ends_a_transaction(world: Any) -> None:
    client = world.connect()
    client.say("EHLO c", "MAIL FROM:<>", "EHLO c")
    assert client.say("RCPT TO:<bob@ours.test>") == ["503 5.5.1"]


def test_relaying_is_denied_to_strangers_and_granted_to_listed_networks(world: Any) -> None:
    stranger, friend = world.connect(), world.connect("10.1.2.3")
    for client in (stranger, friend):
        client.say("EHLO c", "MAIL FROM:<a@b.test>")
    assert stranger.say("RCPT TO:<x@elsewhere.test>") == ["550 5.7.1"]
    assert stranger.say("RCPT TO:<no@elsewhere.test>") == ["550 5.7.1"]
    assert friend.say("RCPT TO:<x@elsewhere.test>") == ["250 2.1.5"]
    friend.send("DATA\r\n")
    friend.send("x: y\r\n\r\n.\r\n")
    assert world.intake.taken[0].envelope.sender_verified


def test_postmaster_is_always_accepted(world: Any) -> None:
    client = world.connect()
    client.say("EHLO c", "MAIL FROM:<>")
    assert client.say("RCPT TO:<postmaster>", "RCPT TO:<POSTMASTER@ours.test>") == ["250 2.1.5"] * 2


def test_full_mailbox_is_refused_at_rcpt(world: Any) -> None:
    client = world.connect()
    client.say("EHLO c", "MAIL FROM:<>")
    assert client.say("RCPT TO:<full@ours.test>") == ["552 5.2.2"]


def test_failing_table_is_a_451_and_never_an_unknown_user(world: Any) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.snapshot, name)

        def expand(self, address: Address) -> Any:
            return fail(TemporaryError(Reply(451, "4.3.0", "Tables are away"), "secret detail"))

    world.tables.snapshot = Broken()
    client = world.connect()
    client.say("EHLO c", "MAIL FROM:<>")
    assert client.send("RCPT TO:<bob@ours.test>\r\n") == "451 4.3.0 Tables are away\r\n"


def test_unexpected_failure_is_a_451_without_its_words(world: Any) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.snapshot, name)

        def expand(self, address: Address) -> Any:
            raise RuntimeError("secret")

    world.tables.snapshot = Broken()
    client = world.connect()
    client.say("EHLO c", "MAIL FROM:<>")
    assert client.send("RCPT TO:<bob@ours.test>\r\n").startswith("451 4.3.0 Internal error")
    world.tables.snapshot = world.snapshot
    assert client.say("RSET", "MAIL FROM:<>", "RCPT TO:<bob@ours.test>", "DATA")[-1] == "354 End w"

    def broken(_: object) -> Any:
        raise RuntimeError("secret")

    world.intake.answer = broken
    assert client.send("x: y\r\n\r\n.\r\n").startswith("451 4.3.0 Internal error")


def test_transaction_keeps_the_tables_it_began_with(world: Any) -> None:
    client = world.connect()
    client.say("EHLO c", "MAIL FROM:<>")
    before, world.tables.snapshot = world.snapshot, None
    assert client.say("RCPT TO:<bob@ours.test>", "DATA") == ["250 2.1.5", "354 End w"]
    client.send("x: y\r\n\r\n.\r\n")
    assert world.intake.taken[0].tables is before


def test_intake_says_no(world: Any) -> None:
    world.intake.answer = lambda _: Deferred()
    client = world.connect()
    pending: Deferred[Reply] = Deferred()
    world.intake.answer = lambda _: pending
    assert client.mail() == ""
    pending.callback(Reply(452, "4.3.1", "Full"))
    assert client.read() == "452 4.3.1 Full\r\n"
    assert client.say("MAIL FROM:<>") == ["250 2.1.0"]


def test_content_is_closed_when_intake_has_answered(world: Any) -> None:
    closed = []
    pending: Deferred[Reply] = Deferred()

    def take(transaction: Any) -> Deferred[Reply]:
        content = transaction.content
        assert content.in_memory() is None
        original = content._file.close
        content._file.close = lambda: (closed.append(True), original())
        return pending

    world.intake.answer = take
    client = world.connect()
    client.mail(b"Subject: x\r\n\r\n" + (b"x" * 998 + b"\r\n") * 400)
    assert not closed
    client.lose()
    assert not closed
    pending.callback(Reply(250, "2.0.0", "Done"))
    assert closed == [True]


def test_size_is_refused_at_mail_and_after_the_dot(world: Any) -> None:
    world.configure(message_size=1000)
    client = world.connect()
    client.say("EHLO c")
    assert client.say("MAIL FROM:<a@b.test> SIZE=1001", "MAIL FROM:<a@b.test> SIZE=1000") == [
        "552 5.3.4",
        "250 2.1.0",
    ]
    client.say("RCPT TO:<bob@ours.test>", "DATA")
    assert client.send(b"x" * 998 + b"\r\n\r\n.\r\nNOOP\r\n") == (
        "552 5.3.4 Message too large\r\n250 2.0.0 OK\r\n"
    )
    assert world.intake.taken == []


def test_no_room_on_disk_is_a_452_at_mail(world: Any) -> None:
    world.full = Reply(452, "4.3.1", "No room")
    client = world.connect()
    assert client.say("EHLO c", "MAIL FROM:<>")[1] == "452 4.3.1"


def test_bare_line_ends_of_listed_networks_are_mended(world: Any) -> None:
    world.configure(mend_line_ends=("198.51.100.0/24",))
    assert world.connect().mail(b"a: b\n\nc\r\n").startswith("250 ")
    assert world.intake.wires == [b"a: b\r\n\r\nc\r\n"]
    assert world.connect("203.0.113.1").mail(b"a: b\n\nc\r\n").startswith("550 5.6.0")


def test_refusals_are_traced_under_the_messages_id(world: Any) -> None:
    client = world.connect()
    client.say("EHLO c", "MAIL FROM:<a@b.test>", "RCPT TO:<no@ours.test>", "RCPT TO:<bob@ours.test>", "DATA")
    world.intake.answer = lambda _: Deferred()
    client.send("x: y\r\n\r\n.\r\n")
    id = world.intake.taken[0].envelope.id
    ((message, kind, facts),) = world.trace.events
    assert (message, kind, facts["verb"], facts["recipient"]) == (id, "refused", "RCPT", "no@ours.test")
    assert str(facts["reply"]).startswith("550 5.1.1")
    assert facts["sender"] == "a@b.test"


def test_pipelined_commands_are_answered_in_one_write(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\n")
    client.server.dataReceived(b"MAIL FROM:<>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n")
    assert len(client.transport.writes) == 1


def test_session_works_octet_by_octet(world: Any) -> None:
    client = world.connect()
    script = (
        b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n"
        b"Subject: x\r\n\r\n..dot\r\n.\r\nQUIT\r\n"
    )
    for octet in script:
        client.server.dataReceived(bytes([octet]))
    codes = [line[:3] for line in client.read().splitlines() if line[3] == " "]
    assert codes == ["250", "250", "250", "354", "250", "221"]
    assert world.intake.wires == [b"Subject: x\r\n\r\n.dot\r\n"]


def test_whole_session_in_one_packet(world: Any) -> None:
    client = world.connect()
    answer = client.send(
        b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n"
        b"Subject: x\r\n\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n.\r\nQUIT\r\n"
    )
    codes = [line[:3] for line in answer.splitlines() if line[3] == " "]
    assert codes == ["250", "250", "250", "354", "250", "250", "250", "354", "250", "221"]
    assert world.intake.wires == [b"Subject: x\r\n\r\n", b""]


@pytest.mark.parametrize(
    ("stage", "said"),
    [("helo", "EHLO c"), ("mail", "MAIL FROM:<>"), ("rcpt", "RCPT TO:<bob@ours.test>")],
)
def test_policy_refuses_at_its_stage_with_its_reply(world: Any, stage: Any, said: str) -> None:
    world.check.stages = frozenset({stage})
    world.check.answer = lambda: Verdict(Action.REFUSE, "check", "because", Reply(550, "5.7.1", "No"))
    client = world.connect()
    for line in ("EHLO c", "MAIL FROM:<>", "RCPT TO:<bob@ours.test>"):
        if line == said:
            assert client.send(line + "\r\n") == "550 5.7.1 No\r\n"
            break
        client.say(line)
    world.check.answer = lambda: None
    assert client.say(said)[0][:3] == "250"


def test_policy_refuses_a_message_after_the_dot(world: Any) -> None:
    world.check.stages = frozenset({"data"})
    pending: Deferred[Verdict] = Deferred()
    world.check.answer = lambda: pending
    client = world.connect()
    assert client.mail() == ""
    pending.callback(Verdict(Action.DEFER, "check", "because", Reply(451, "4.7.1", "Later")))
    assert client.read() == "451 4.7.1 Later\r\n"
    assert world.intake.taken == []
    (seen,) = world.check.seen
    assert seen.content.size == 20
    assert seen.envelope.recipients[0].address.local == "bob"


def test_verdicts_of_all_stages_travel_with_the_message(world: Any) -> None:
    world.check.stages = frozenset({"connect", "helo", "mail", "rcpt", "data"})
    count = iter(range(100))
    world.check.answer = lambda: Verdict(Action.TAG, "check", str(next(count)))
    client = world.connect()
    assert client.mail().startswith("250")
    (transaction,) = world.intake.taken
    assert [verdict.reason for verdict in transaction.verdicts] == ["0", "1", "2", "4"]
    assert [verdict.reason for verdict in transaction.accepted[0].verdicts] == ["3"]


def test_policy_turns_a_connection_away_instead_of_greeting(world: Any) -> None:
    world.check.stages = frozenset({"connect"})
    pending: Deferred[Verdict] = Deferred()
    world.check.answer = lambda: pending
    client = world.connect()
    assert client.greeting == ""
    assert client.send("EHLO early\r\n") == ""
    pending.callback(Verdict(Action.REFUSE, "check", "because", Reply(550, "5.7.1", "Go away")))
    assert client.read() == "554 5.7.1 Go away\r\n"
    assert client.closing


def test_web_browser_is_sent_away_at_once(world: Any) -> None:
    client = world.connect()
    answer = client.send("POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO c\r\nMAIL FROM:<>\r\n")
    assert answer.startswith("421 4.7.0 ")
    assert answer.count("\r\n") == 1
    assert client.closing
