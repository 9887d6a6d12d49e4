"""``lorrainemail explain``: what would happen, in words and as an object."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from lorrainemail.addresses import AddressError
from lorrainemail.cli.explain import STRANGER, Explanation, as_json, as_text, ask_what, explain, our_ends
from lorrainemail.config.load import load_text
from lorrainemail.delivery.hops import NextHops, find_hops
from lorrainemail.errors import Reply, TemporaryError
from lorrainemail.interfaces import DnsFailure, MxHost, PolicyResources, Route
from lorrainemail.policy.chain import build_chain
from lorrainemail.tables.accounts import parse_accounts
from lorrainemail.tables.aliases import parse_aliases
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.snapshot import Snapshot

CONFIG = r"""
hostname = "mail.x.org"
local_domains = ["x.org"]
relay_networks = ["10.0.0.0/8"]
[relay]
"*.free.fr" = "smtp.free.fr"
[listen]
smtp = ['tcp:25:interface=\:\:', 'systemd:domain=INET:index=0']
"""
SETTINGS = load_text(CONFIG, "l.toml", "/state")


class Zone:
    """A resolver of a few names."""

    def mx(self, domain: str) -> Deferred[list[MxHost]]:
        if domain == "far.org":
            return succeed([MxHost(20, "b.far.org"), MxHost(10, "a.far.org")])
        return fail(DnsFailure("nxdomain", domain))

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        known = {
            "a.far.org": ["198.51.100.1"],
            "b.far.org": ["198.51.100.2"],
            "smtp.free.fr": ["198.51.100.3"],
        }
        return succeed(known[host]) if host in known else fail(DnsFailure("nxdomain", host))


@pytest.fixture
def tables() -> Snapshot:
    accounts = parse_accounts(
        "bob@x.org:{X}y::::::userdb_quota_rule=*:storage=1M\ncarol@x.org:\n", "accounts"
    )[0]
    aliases = parse_aliases("sales: bob, q@far.org, gone\n", "aliases")[0]
    return Snapshot(
        memory_set(accounts=[row.account for row in accounts], aliases=aliases), Rules.of(SETTINGS)
    )


def now(coroutine: Any) -> Any:
    found: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(found.append)
    if isinstance(getattr(found[0], "value", None), Exception):
        found[0].raiseException()
    return found[0]


def ask(tables: Snapshot, *words: str) -> Explanation:
    arguments = {
        "address": words[0],
        "sender": None,
        "ip": None,
        "account": None,
        "helo": None,
        "message": None,
    }
    arguments |= dict(zip(words[1::2], words[2::2], strict=True))
    question = now(ask_what(argparse.Namespace(**arguments), tables))
    policy = build_chain(SETTINGS.policy.checks, PolicyResources(Clock(), Zone(), "mail.x.org"))  # type: ignore[arg-type]

    async def find(route: Route) -> NextHops:
        return await find_hops(route, Zone(), our_ends(SETTINGS), shuffle=lambda items: None)  # type: ignore[arg-type]

    found: Explanation = now(explain(question, tables, policy, lambda account, octets: None, find))
    return found


def text(found: Explanation) -> str:
    return "\n".join(as_text(found))


def test_a_local_recipient_with_his_mailbox_and_the_lines_that_led_there(tables: Snapshot) -> None:
    shown = text(ask(tables, "Bob+List@x.org"))
    assert f"from {STRANGER} (a stranger)" in shown
    assert "→ bob@x.org, folder List (INBOX where it does not exist), kept as maildir" in shown
    assert "x.org is a local domain  [l.toml:3]" in shown
    assert "account bob@x.org, folder List if it exists  [accounts:1]" in shown
    assert "quota" in shown


def test_an_alias_is_shown_with_all_its_ends(tables: Snapshot) -> None:
    found = ask(tables, "sales@x.org")
    shown = text(found)
    assert "alias sales → bob@x.org  [aliases:1]" in shown
    assert "left out: gone@x.org is nobody here" in shown
    assert "1. MX 10 a.far.org:25 (198.51.100.1)" in shown
    assert "2. MX 20 b.far.org:25 (198.51.100.2)" in shown
    answer = json.loads(json.dumps(as_json(found)))
    assert [final["kind"] for final in answer["finals"]] == ["local", "remote"]
    assert answer["finals"][1]["hops"][0]["addresses"] == ["198.51.100.1"]
    assert answer["finals"][1]["forwarded"] is True
    assert answer["notes"][0]["what"] == "gone@x.org is nobody here"


@pytest.mark.parametrize(
    ("words", "verb", "reply"),
    [
        (("nobody@x.org",), "rcpt", "550 5.1.1 No such user here"),
        (("a@far.org",), "rcpt", "550 5.7.1 Relaying denied"),
        (("bob@x.org", "sender", "a@nowhere.test"), "mail", "550 5.1.8"),
        (("bob@x.org", "account", "bob", "sender", "carol@x.org"), "mail", "553 5.7.1"),
    ],
)
def test_a_refusal_names_its_verb_and_reply(
    tables: Snapshot, words: tuple[str, ...], verb: str, reply: str
) -> None:
    found = ask(tables, *words)
    assert found.refusal is not None and found.refusal.verb == verb
    assert str(found.refusal.reply).startswith(reply)
    assert f"Refused at {verb.upper()}: {reply}" in text(found)
    answer = as_json(found)
    assert answer["accepted"] is False and answer["refused_at"] == verb and answer["finals"] == []


def test_who_sends_decides_whether_it_may_go_elsewhere(tables: Snapshot) -> None:
    assert ask(tables, "a@far.org", "ip", "10.1.2.3").refusal is None
    assert ask(tables, "a@far.org", "account", "bob@x.org").refusal is None
    assert ask(tables, "a@far.org", "ip", "::ffff:10.1.2.3").refusal is None
    assert "10.1.2.3 is in relay_networks 10.0.0.0/8 (l.toml:4)" in text(
        ask(tables, "a@b.c", "ip", "10.1.2.3")
    )


def test_a_relay_row_is_shown_with_file_and_line(tables: Snapshot) -> None:
    shown = text(ask(tables, "a@www.free.fr", "account", "bob"))
    assert 'relay."*.free.fr" (l.toml:6) is the most specific row for a@www.free.fr' in shown
    assert "1. smtp.free.fr:25 (198.51.100.3)" in shown


def test_what_would_come_back_is_said(tables: Snapshot) -> None:
    assert "would come back to the sender: 550 5.1.2" in text(ask(tables, "a@nowhere.test", "account", "bob"))


def test_the_bare_postmaster_is_explained(tables: Snapshot) -> None:
    assert "postmaster without a domain means postmaster@x.org" in text(ask(tables, "<postmaster>"))


@pytest.mark.parametrize("words", [("bob",), ("bob@x.org", "sender", "a"), ("bob@x.org", "ip", "x")])
def test_an_argument_that_is_no_address_is_a_usage_error(tables: Snapshot, words: tuple[str, ...]) -> None:
    with pytest.raises(AddressError):
        ask(tables, *words)


def test_a_table_that_does_not_answer_is_a_refusal_for_now(
    tables: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(address: object) -> object:
        raise TemporaryError(Reply(451, "4.3.0", "Try again later"), "database down")

    monkeypatch.setattr(tables, "expand", broken)
    found = ask(tables, "bob@x.org")
    assert "Refused at RCPT for now: 451 4.3.0" in text(found)


def test_our_own_listeners_are_known_to_the_router() -> None:
    assert our_ends(SETTINGS).listening == (("::", 25),)


def test_the_command_as_an_operator_runs_it(tmp_path: Path) -> None:
    (tmp_path / "lorrainemail.toml").write_text(CONFIG)
    (tmp_path / "accounts").write_text("bob@x.org:\n")
    before = sorted(os.listdir(tmp_path))
    program = [sys.executable, "-m", "lorrainemail.cli.main"]

    def command(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [*program, "explain", *words, "--state", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    status, output = command("bob@x.org", "--json")
    assert status == 0
    assert json.loads(output)["accepted"] is True
    assert command("bob")[0] == 2
    assert command("bob@x.org", "--as", "nobody@x.org")[0] == 1
    assert command("bob@x.org", "--message", str(tmp_path))[0] == 1
    assert command("bob@x.org", "--message", str(tmp_path / "missing"))[0] == 1
    (tmp_path / "accounts").write_text("bob\n")
    assert command("bob@x.org")[0] == 1
    assert sorted(os.listdir(tmp_path)) == before
