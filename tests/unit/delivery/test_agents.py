"""Couriers in steps: one outcome a recipient whatever a step says, and LMTP's replies as they are meant."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.threads import deferToThread
from zope.interface import implementer

import lorrainemail.plugins
from lorrainemail.addresses import Address, parse_address
from lorrainemail.delivery.agents import AgentCourier, find_plugins
from lorrainemail.delivery.environment import clean, variables
from lorrainemail.delivery.files import FileAgent
from lorrainemail.delivery.hops import OurEnds, find_hops
from lorrainemail.delivery.lmtp import LmtpAgent, LmtpSessions
from lorrainemail.delivery.sysexits import reply_of
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.errors import ConfigurationError, PermanentError, Reply, TemporaryError
from lorrainemail.interfaces import (
    DeliveryRow,
    IAgent,
    IContent,
    IDelivery,
    Outcome,
    QueueItem,
    QueueRecipient,
    Route,
)
from lorrainemail.ops.commandline import words_of
from lorrainemail.ops.content import Content

MESSAGE = b"Subject: x\r\n\r\n.hello\r\n"
LHLO = "RAW:250-peer\r\n250-8BITMIME\r\n250-SIZE\r\n250 ENHANCEDSTATUSCODES\r\n"


def to(*names: str, argument: str = "", owner: Address | None = None) -> list[QueueRecipient]:
    return [
        QueueRecipient("x", Recipient(parse_address(f"{name}@x.org")), argument=argument, owner=owner)
        for name in names
    ]


def item(recipients: list[QueueRecipient], sender: str = "s@far.org") -> QueueItem:
    envelope = Envelope("id1", parse_address(sender), tuple(one.recipient for one in recipients))
    return QueueItem(envelope, tuple(recipients), 0.0, len(MESSAGE))


@attrs.define
class Rows:
    """A table service with one row of [deliver], or none."""

    row: DeliveryRow | None = None

    def current(self) -> Any:
        return SimpleNamespace(delivery=lambda address: self.row)


# -- steps -----------------------------------------------------------------------------------------------


@implementer(IDelivery)
@attrs.define
class Steps:
    """Fails where it is told to; writes down what it was asked."""

    done: list[str]
    failing: dict[str, Exception]
    replies: list[Reply]

    def step(self, name: str, result: Any = None) -> Deferred[Any]:
        self.done.append(name)
        return fail(self.failing[name]) if name in self.failing else succeed(result)

    def recipient(self, recipient: QueueRecipient, argument: str) -> Deferred[None]:
        return self.step(f"recipient {recipient.recipient.address.local}{argument}")

    def body(self, content: IContent) -> Deferred[None]:
        return self.step("body")

    def commit(self) -> Deferred[list[Reply]]:
        return self.step("commit", self.replies)

    def abort(self) -> Deferred[None]:
        return self.step("abort")


@implementer(IAgent)
class StepAgent:
    name = "steps"

    def __init__(self, *replies: Reply, **failing: Exception) -> None:
        self.done: list[str] = []
        self.senders: list[str] = []
        self.steps = Steps(
            self.done, {name.replace("_", " "): e for name, e in failing.items()}, list(replies)
        )

    def destination(self, recipient: QueueRecipient, argument: str) -> str:
        return argument

    def start(self, item: QueueItem, row: DeliveryRow | None) -> Deferred[IDelivery]:
        self.senders.append(str(item.envelope.sender))
        found: Deferred[IDelivery] = self.steps.step("start", self.steps)
        return found


OK, NO, LATER = Reply(250, "2.0.0", "ok"), Reply(550, "5.1.1", "no"), Reply(451, "4.3.0", "later")


def deliver(agent: Any, recipients: list[QueueRecipient], rows: Rows | None = None) -> list[Outcome]:
    found: list[list[Outcome]] = []
    courier = AgentCourier(agent, rows or Rows())  # type: ignore[arg-type]
    courier.deliver(item(recipients), recipients, Content(MESSAGE)).addCallback(found.append)
    return found[0]


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [outcome.kind for outcome in outcomes]


def test_each_recipient_gets_his_own_answer() -> None:
    agent = StepAgent(OK, NO, **{"recipient_b!": PermanentError(NO)})
    outcomes = deliver(agent, to("a", "b", "c", argument="!"))
    assert kinds(outcomes) == ["delivered", "failed", "failed"]
    assert agent.done == ["start", "recipient a!", "recipient b!", "recipient c!", "body", "commit"]


@pytest.mark.parametrize(
    ("step", "error", "kind", "done"),
    [
        ("start", TemporaryError(LATER), "deferred", ["start"]),
        ("body", PermanentError(NO), "failed", ["start", "recipient a!", "body", "abort"]),
        ("commit", TemporaryError(LATER), "deferred", ["start", "recipient a!", "body", "commit"]),
        ("commit", RuntimeError("x"), "deferred", ["start", "recipient a!", "body", "commit"]),
        ("recipient_a!", TemporaryError(LATER), "deferred", ["start", "recipient a!", "abort"]),
    ],
)
def test_a_step_that_fails_loses_nothing_and_what_was_not_committed_is_aborted(
    step: str, error: Exception, kind: str, done: list[str]
) -> None:
    agent = StepAgent(OK, **{step: error})
    (outcome,) = deliver(agent, to("a", argument="!"))
    assert outcome.kind == kind and agent.done == done
    assert outcome.ours == isinstance(error, RuntimeError)


def test_a_row_that_is_gone_keeps_the_mail_with_an_alarm_and_a_new_one_is_taken() -> None:
    agent = StepAgent(OK)
    (outcome,) = deliver(agent, to("a"))
    assert outcome.kind == "deferred" and outcome.ours and not agent.done
    (outcome,) = deliver(agent, to("a"), Rows(DeliveryRow("*", "other", "!")))
    assert outcome.kind == "deferred" and outcome.ours
    (outcome,) = deliver(agent, to("a"), Rows(DeliveryRow("*", "steps", "!")))
    assert outcome.kind == "delivered" and "recipient a!" in agent.done


def test_a_list_is_sent_by_its_owner() -> None:
    agent = StepAgent(OK)
    deliver(agent, [*to("a", argument="!"), *to("b", argument="!", owner=Address("owner-l", "x.org"))])
    assert agent.senders == ["s@far.org", "owner-l@x.org"]


def test_a_row_that_names_a_courier_of_nobody_is_an_error() -> None:
    for name in ("nobody", "local", "remote"):
        with pytest.raises(ConfigurationError, match="lmtp, pipe"):
            find_plugins([DeliveryRow("*", name)], lorrainemail.plugins)
    assert find_plugins([DeliveryRow("*", "lmtp")], lorrainemail.plugins) == []


# -- LMTP ------------------------------------------------------------------------------------------------


@pytest.fixture
def lmtp(make_peer: Any) -> Iterator[Callable[..., Any]]:
    agents: list[LmtpAgent] = []

    def make(**replies: Any) -> Any:
        peer = make_peer(
            replies={"LHLO": LHLO, **{name.replace("dot", "."): r for name, r in replies.items()}}
        )

        async def find(route: Route) -> Any:
            return await find_hops(route, SimpleNamespace(), OurEnds("us"), 24)  # type: ignore[arg-type]

        sessions = LmtpSessions(reactor, "us.x.org", None, deferToThread)
        agents.append(LmtpAgent(sessions, find))
        courier = AgentCourier(agents[-1], Rows(DeliveryRow("*", "lmtp", f"127.0.0.1:{peer.port}")))  # type: ignore[arg-type]
        return peer.behaviour, courier

    yield make
    for agent in agents:
        pytest_twisted.blockon(agent.close())


async def send(courier: AgentCourier, *names: str, message: bytes = MESSAGE, times: int = 1) -> list[Outcome]:
    recipients = to(*names)
    outcomes: list[Outcome] = []
    for _ in range(times):
        outcomes = await courier.deliver(item(recipients), recipients, Content(message))
    return outcomes


@pytest_twisted.ensureDeferred
async def test_lmtp_has_one_reply_for_each_recipient_that_was_taken(lmtp: Any) -> None:
    behaviour, courier = lmtp(
        RCPT=["250 ok", "550 5.1.1 nobody", "250 ok", "250 ok"],
        dot="RAW:250 2.0.0 a has it\r\n452 4.2.2 c is full\r\n550 5.7.1 d said no\r\n",
    )
    outcomes = await send(courier, "a", "b", "c", "d")
    assert kinds(outcomes) == ["delivered", "failed", "deferred", "failed"]
    assert [outcome.reply.text for outcome in outcomes] == ["a has it", "nobody", "c is full", "d said no"]
    assert behaviour.verbs() == ["LHLO", "MAIL", "RCPT", "RCPT", "RCPT", "RCPT", "DATA"]
    assert behaviour.messages == [MESSAGE]
    assert "BODY=8BITMIME" in behaviour.commands[1] and f"SIZE={len(MESSAGE)}" in behaviour.commands[1]


@pytest_twisted.ensureDeferred
async def test_an_lmtp_session_carries_the_next_message_too(lmtp: Any) -> None:
    behaviour, courier = lmtp()
    assert kinds(await send(courier, "a", times=3)) == ["delivered"]
    assert behaviour.connections == 1 and len(behaviour.messages) == 3


@pytest_twisted.ensureDeferred
async def test_a_session_that_ends_between_replies_defers_those_that_got_none(lmtp: Any) -> None:
    _, courier = lmtp(dot="RAW:250 2.0.0 a has it\r\n421 4.3.2 going down\r\n")
    outcomes = await send(courier, "a", "b", "c")
    assert kinds(outcomes) == ["delivered", "deferred", "deferred"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ({"greeting": "554 no"}, "deferred"),
        ({"greeting": "DROP"}, "deferred"),
        ({"LHLO": "500 what"}, "deferred"),
        ({"MAIL": "550 5.7.1 not you"}, "failed"),
        ({"MAIL": "451 4.3.0 later"}, "deferred"),
        ({"RCPT": "DROP"}, "deferred"),
        ({"DATA": "451 4.3.0 later"}, "deferred"),
        ({"DATA": "554 5.6.0 never"}, "failed"),
        ({"DATA": "250 ok?"}, "deferred"),
        ({"dot": "DROP"}, "deferred"),
        ({"dot": "354 more?"}, "deferred"),
    ],
)
async def test_what_goes_wrong_with_lmtp_loses_no_mail(lmtp: Any, replies: dict[str, str], kind: str) -> None:
    _, courier = lmtp(**replies)
    assert kinds(await send(courier, "a")) == [kind]


@pytest_twisted.ensureDeferred
async def test_eight_bits_for_a_server_without_them_come_back(lmtp: Any) -> None:
    behaviour, courier = lmtp(LHLO="RAW:250 peer\r\n")
    (outcome,) = await send(courier, "a", message=b"Subject: x\r\n\r\n\xe9\r\n")
    assert outcome.kind == "failed" and outcome.reply.enhanced == "5.6.3"
    assert not behaviour.messages


# -- commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "enhanced"),
    [
        (0, 250, "2.1.5"),
        (99, 250, "2.1.5"),
        (67, 550, "5.1.1"),
        (71, 451, "4.3.0"),
        (74, 451, "4.3.0"),
        (75, 451, "4.3.0"),
        (77, 550, "5.7.0"),
        (78, 451, "4.3.5"),
        (100, 554, "5.3.0"),
        (111, 451, "4.3.0"),
        (1, 554, "5.3.0"),
        (-9, 451, "4.3.0"),
    ],
)
def test_the_end_of_a_command_means_what_sysexits_says(status: int, code: int, enhanced: str) -> None:
    reply = reply_of(status, b"line one\n \x1b[1mwords\xff\x00\n\n")
    assert (reply.code, reply.enhanced) == (code, enhanced)
    assert reply.text.isascii() and reply.text.isprintable()


@given(st.text(), st.text(max_size=60), st.text(max_size=60))
def test_nothing_of_an_outsider_reaches_a_command_as_more_than_text(
    value: str, local: str, sender: str
) -> None:
    cleaned = clean(value)
    assert not cleaned.startswith("-") and len(cleaned) <= 320
    envelope = Envelope("id", Address(sender, "far.org"), ())
    found = variables(envelope, Recipient(Address(local, "x.org")), "+-", "id")
    assert set("".join(found.values())) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!@%_=+:,./-"
    )
    assert not any(text.startswith("-") for text in found.values())


@given(st.text())
def test_any_command_line_is_words_or_a_fault_with_its_mend(line: str) -> None:
    try:
        words = words_of(line)
    except ValueError as error:
        assert "; " in str(error)
    else:
        assert words[0].startswith("/") and "\0" not in "".join(words)


def test_a_command_line_is_parted_by_its_quotation_marks() -> None:
    assert words_of("/bin/a -x 'b $c' \"d e\" f=g") == ("/bin/a", "-x", "b $c", "d e", "f=g")


# -- files -----------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> FileAgent:
    listed = tmp_path / "listed"
    listed.mkdir(mode=0o755)
    return FileAgent(SimpleNamespace(), SimpleNamespace(), "us", (str(listed),))  # type: ignore[arg-type]


def test_a_file_is_below_a_listed_directory_or_not_written(agent: FileAgent, tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    assert agent.allowed(f"{listed}/box") == str(listed)
    assert agent.allowed(f"{listed}/new/deep/box/") == str(listed)
    (listed / "link").symlink_to("/etc")
    (listed / "open").mkdir()
    (listed / "open").chmod(0o777)
    (listed / "file").write_text("")
    os.link(listed / "file", listed / "second")
    for path in (
        "/etc/passwd",
        f"{listed}",
        f"{listed}/../box",
        f"{listed}s/box",
        f"{listed}/link/passwd",
        f"{listed}/open/box",
        f"{listed}/file/box",
        f"{listed}/a\nb",
    ):
        with pytest.raises(TemporaryError):
            agent.allowed(path)


@given(st.text(alphabet="ab./\0\n", max_size=30))
def test_no_path_leaves_the_listed_directory(path: str) -> None:
    agent = FileAgent(SimpleNamespace(), SimpleNamespace(), "us", ("/nonexistent/a",))  # type: ignore[arg-type]
    with pytest.raises(TemporaryError):
        agent.allowed("/nonexistent/a/../" + path)
