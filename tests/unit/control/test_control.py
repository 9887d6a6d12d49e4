"""The operator's commands reach the running server, and nobody else's do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer, reactor, threads
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection

from lorrainemail.control import client, words
from lorrainemail.control import server as control
from lorrainemail.errors import ConfigurationError, Problem

TIMEOUT = 10


def connect(commands: dict[str, Any], clock: Clock, allowed: bool = True) -> Any:
    factory = control.ControlFactory(commands, clock)
    factory.allowed = frozenset((None,)) if allowed else frozenset((0,))  # type: ignore[arg-type]
    protocol = factory.buildProtocol(None)
    transport = StringTransportWithDisconnection()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return protocol


def answers(protocol: Any) -> list[Any]:
    lines = protocol.transport.value().splitlines()
    protocol.transport.clear()
    return [words._object(line) for line in lines]


def test_commands_get_their_arguments_and_answer_in_order() -> None:
    later: defer.Deferred[str] = defer.Deferred()
    protocol = connect({"slow": lambda: later, "add": lambda a, b: a + b}, Clock())
    protocol.dataReceived(words.encode_question("slow", {}) + words.encode_question("add", {"a": 1, "b": 2}))
    assert answers(protocol) == []
    later.callback("done")
    assert answers(protocol) == [{"ok": True, "result": "done"}, {"ok": True, "result": 3}]


def test_a_command_says_no_in_the_operators_words() -> None:
    def broken() -> None:
        raise ConfigurationError((Problem("/etc/x.toml", 3, "is wrong", "mend it"),))

    def refused() -> None:
        raise words.Refused("there is no such message")

    protocol = connect({"broken": broken, "refused": refused}, Clock())
    for name in ("broken", "refused", "unknown"):
        protocol.dataReceived(words.encode_question(name, {}))
    assert [answer["error"] for answer in answers(protocol)] == [
        "/etc/x.toml:3: is wrong (mend it)",
        "there is no such message",
        'the server knows no command "unknown"',
    ]


def test_an_internal_error_shows_no_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[object] = []
    monkeypatch.setattr(control, "_log", type("Log", (), {"failure": lambda *a, **k: logged.append(k)})())

    def fails() -> None:
        raise RuntimeError("secret inside")

    protocol = connect({"fails": fails, "wrong arguments": lambda: 1}, Clock())
    protocol.dataReceived(words.encode_question("fails", {}))
    protocol.dataReceived(words.encode_question("wrong arguments", {"x": 1}))
    assert [answer["error"] for answer in answers(protocol)] == [
        "internal error; the server's log says more"
    ] * 2
    assert len(logged) == 2


@pytest.mark.parametrize(
    "line", [b"nothing", b"[1]", b"{}", b'{"command": 1}', b'{"command":"a","arguments":[]}']
)
def test_a_line_that_is_no_question_is_told_so(line: bytes) -> None:
    protocol = connect({"a": lambda: 1}, Clock())
    protocol.dataReceived(line + b"\n" + words.encode_question("a", {}))
    wrong, right = answers(protocol)
    assert (wrong["ok"], right) == (False, {"ok": True, "result": 1})


def test_another_users_process_is_turned_away_before_it_can_ask() -> None:
    asked: list[int] = []
    protocol = connect({"a": lambda: asked.append(1)}, Clock(), allowed=False)
    assert not protocol.transport.connected
    protocol.dataReceived(words.encode_question("a", {}))
    assert answers(protocol) == []


def test_an_idle_or_endless_peer_does_not_stay() -> None:
    clock = Clock()
    idle = connect({}, clock)
    clock.advance(control.IDLE + 1)
    assert not idle.transport.connected
    endless = connect({}, clock)
    endless.dataReceived(b"x" * (words.MAX_QUESTION + 2))
    assert not endless.transport.connected


def test_a_command_that_hangs_is_answered_and_the_next_one_served() -> None:
    clock = Clock()
    protocol = connect({"hang": defer.Deferred, "a": lambda: 1}, clock)
    protocol.dataReceived(words.encode_question("hang", {}) + words.encode_question("a", {}))
    clock.advance(words.MAX_SECONDS + 1)
    first, second = answers(protocol)
    assert "took too long" in first["error"]
    assert second == {"ok": True, "result": 1}


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest_twisted.ensureDeferred
async def test_the_client_reaches_a_real_socket_whose_path_may_be_long(short: Path) -> None:
    deep = short / ("d" * 100)
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY)
    factory = control.ControlFactory({"echo": lambda **given: given}, reactor)
    port = reactor.listenUNIX(f"/proc/self/fd/{here}/{words.SOCKET_NAME}", factory)
    given = {"text": "é\n", "number": 3}
    try:
        asked = threads.deferToThread(client.call, str(deep), "echo", **given)
        assert await asked.addTimeout(TIMEOUT, reactor) == given
        refused = threads.deferToThread(client.call, str(deep), "nothing")
        with pytest.raises(words.Refused):
            await refused.addTimeout(TIMEOUT, reactor)
    finally:
        await defer.maybeDeferred(port.stopListening)
        os.close(here)
    with pytest.raises(client.NotRunning):
        client.call(str(short), "echo")
