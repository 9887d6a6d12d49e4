"""A changed configuration is taken whole into the running server, or not at all."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer, reactor, threads

from lorrainemail.addresses import parse_address
from lorrainemail.config.load import load, locate
from lorrainemail.errors import ConfigurationError
from lorrainemail.interfaces import later
from lorrainemail.service import Server
from lorrainemail.setup.first_start import prepare
from lorrainemail.setup.ports import bind_all
from lorrainemail.setup.state import Owner, Undo, open_state

TIMEOUT = 20

BASE = """\
hostname = "mail.ours.test"
local_domains = ["ours.test"]
{top}
[listen]
smtp = ['tcp:0:interface=127.0.0.1']
submission = ['tcp:0:interface=127.0.0.1']
submissions = ['tcp:0:interface=127.0.0.1']
pop3 = ['tcp:0:interface=127.0.0.1']
imap = ['tcp:0:interface=127.0.0.1']
{tables}
"""


class Running:
    """A server in this process, whose configuration can be rewritten."""

    def __init__(self, state: Path) -> None:
        self.state = state
        open_state(str(state), Owner(), Undo())
        self.write()
        located = locate(state=str(state))
        settings = load(located)
        ports = bind_all(settings.listen, str(state), Owner(), Undo(), "the.toml")
        prepare(settings, located, Owner(), Undo(), ("127.0.0.1",))
        self.ports = {port.door: port.port for port in ports}
        self.server = Server(settings, located, reactor, ports)
        self.server.startService()

    def write(self, top: str = "", tables: str = "", base: str = BASE) -> None:
        (self.state / "lorrainemail.toml").write_text(base.format(top=top, tables=tables))

    async def reload(self) -> dict[str, Any]:
        return await self.server.reload().addTimeout(TIMEOUT, reactor)

    async def features(self, door: str) -> dict[str, str]:
        """What EHLO announces at a door, in clear."""

        def ask() -> dict[str, str]:
            with smtplib.SMTP("127.0.0.1", self.ports[door], timeout=TIMEOUT) as smtp:
                smtp.ehlo("client.test")
                return dict(smtp.esmtp_features)

        return await threads.deferToThread(ask)

    async def certificate(self) -> bytes:
        return await threads.deferToThread(
            lambda: ssl.get_server_certificate(("127.0.0.1", self.ports["submissions"]), timeout=TIMEOUT)
        )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path / "state")
    yield one
    pytest_twisted.blockon(defer.maybeDeferred(one.server.stopService))


@pytest_twisted.ensureDeferred
async def test_limits_and_plaintext_logins_change_at_the_next_session(running: Running) -> None:
    before = await running.features("submission")
    assert before["size"] == "50000000"
    assert "auth" not in before
    allowed = '[auth]\nplaintext = "loopback"\n[limits]\nmessage_size = "2 MB"\n'
    for tables, auth in ((allowed, True), ("", False), (allowed, True)):
        running.write(tables=tables)
        assert await running.reload() == {"needs_restart": []}
        after = await running.features("submission")
        assert ("auth" in after) is auth
        assert after["size"] == ("2000000" if auth else "50000000")
        assert all(reader.plaintext is auth for reader, _ in running.server.keeper.readers)


@pytest_twisted.ensureDeferred
async def test_relay_rows_and_domains_change_for_the_next_transaction(running: Running) -> None:
    async def hop(address: str) -> tuple[str, tuple[str, ...]]:
        route = await later(running.server.tables.current().route(parse_address(address), None))
        return route.kind, tuple(host.host for host in route.hosts)

    assert await hop("x@free.fr") == ("mx", ())
    running.write('relay_networks = ["192.0.2.0/24"]', '[relay]\n"*.free.fr" = "smtp.free.fr"\n')
    await running.reload()
    assert await hop("x@free.fr") == ("hosts", ("smtp.free.fr",))


@pytest.mark.parametrize(
    ("top", "tables", "words"),
    [
        ("bogus = 1", "", "bogus"),
        ("", '[policy]\nchecks = ["nothing of that name"]', "nothing of that name"),
        ("", '[tls]\ncertificate = "none.pem"\nkey = "none.pem"', "none.pem"),
        ("", '[tls]\ntrust = "lorrainemail.toml"', "trusted authorities"),
        ("", '[dns]\nzones = ["missing.zone"]', "missing.zone"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_configuration_with_an_error_changes_nothing(
    running: Running, top: str, tables: str, words: str
) -> None:
    settings, policy = running.server.settings, running.server.policy
    before = await running.certificate()
    running.write(top, '[limits]\nmessage_size = "2 MB"\n' + tables)
    with pytest.raises(ConfigurationError, match=words):
        await running.reload()
    assert running.server.settings is settings
    assert running.server.policy is policy
    assert (await running.features("smtp"))["size"] == "50000000"
    assert await running.certificate() == before


@pytest_twisted.ensureDeferred
async def test_a_new_certificate_is_served_after_a_reload(running: Running) -> None:
    before = await running.certificate()
    for name in ("self-signed.pem", "self-signed-key.pem"):
        (running.state / "tls" / name).unlink()
    await running.reload()
    assert await running.certificate() != before


@pytest_twisted.ensureDeferred
async def test_what_needs_a_restart_is_said_and_keeps_its_old_value(running: Running) -> None:
    base = BASE.replace("mail.ours.test", "new.ours.test").replace("imap = ['tcp:0", "imap = ['tcp:1")
    running.write('state = "elsewhere"', base=base)
    answer = await running.reload()
    assert set(answer["needs_restart"]) >= {"hostname", "listen"}
    assert running.server.settings.hostname == "mail.ours.test"
    assert running.server.settings.state == str(running.state)


@pytest_twisted.ensureDeferred
async def test_status_tells_what_an_operator_looks_for(running: Running) -> None:
    ask: Callable[[], dict[str, Any]] = running.server.commands["status"]
    facts = ask()
    assert facts["hostname"] == "mail.ours.test"
    assert facts["queued"] == 0
    assert facts["alarms"] == []
    assert set(facts["connections"]) == {"smtp", "submission", "submissions", "pop3", "imap"}
    assert {"reload", "queue.list", "queue.retry"} <= set(running.server.commands)
