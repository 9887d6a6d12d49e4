"""Aliases of every kind on a running server: who gets what, how often, and what commands and files get."""

from __future__ import annotations

import json
import os
import smtplib
import subprocess
import sys
from pathlib import Path
from typing import Any

PATIENCE = 30.0
BOB, EVE, ANN = "bob@ours.test", "eve@ours.test", "ann@ours.test"

COMMAND = """#!/bin/sh
{ env; echo "ARGS $*"; echo ---; cat; } >> %s
exit %d
"""
PLUGIN = """
from twisted.internet.defer import succeed
from twisted.plugin import IPlugin
from zope.interface import implementer

from lorrainemail.errors import PermanentError, Reply
from lorrainemail.interfaces import IAgent, IAgentPlugin, IDelivery


@implementer(IDelivery)
class Delivery:
    def __init__(self, path, log):
        self.path, self.log = path, log

    def note(self, what):
        self.log.append(what)
        with open(self.path, "a") as file:
            file.write(what + "\\n")
        return succeed(None)

    def recipient(self, recipient, argument):
        if recipient.recipient.address.local == "nobody":
            raise PermanentError(Reply(550, "5.1.1", "not in the archive"))
        return self.note(f"recipient {recipient.recipient.address}")

    def body(self, content):
        return self.note("body " + str(b"hello" in b"".join(content.chunks())))

    def commit(self):
        taken = [one for one in self.log if one.startswith("recipient")]
        return self.note("commit").addCallback(lambda _: [Reply(250, "2.0.0", "ok")] * len(taken))

    def abort(self):
        return self.note("abort")


@implementer(IAgent)
class Agent:
    name = "archive"

    def destination(self, recipient, argument):
        return argument

    def start(self, item, row):
        return succeed(Delivery(row.argument, []))


@implementer(IPlugin, IAgentPlugin)
class Plugin:
    name = "archive"

    def make(self, resources):
        return Agent()


plugin = Plugin()
"""


def send(server: Any, *to: str, sender: str = EVE, subject: str = "hello", **options: Any) -> None:
    with smtplib.SMTP(server.address, 2525, timeout=PATIENCE) as client:
        client.sendmail(sender, list(to), f"From: {sender}\r\nSubject: {subject}\r\n\r\nhello\r\n.dot\r\n")


def script(directory: Path, name: str, status: int) -> tuple[Path, Path]:
    """A program that writes down what it is given, and where."""
    program, output = directory / name, directory / f"{name}.out"
    program.write_text(COMMAND % (output, status))
    program.chmod(0o755)
    return program, output


def test_a_thousand_details_without_folders_are_one_copy(make_server: Any) -> None:
    server = make_server(configuration="[limits]\nrecipients = 2000\n")
    with smtplib.SMTP(server.address, 2525, timeout=PATIENCE) as client:
        client.sendmail(
            EVE, [f"bob+{number}@ours.test" for number in range(1000)], "Subject: x\r\n\r\nhi\r\n"
        )
    assert len(server.messages(BOB)) == 1
    (server.maildir(BOB) / ".lists").mkdir()
    for part in ("tmp", "new", "cur"):
        (server.maildir(BOB) / ".lists" / part).mkdir()
    send(server, "bob+lists@ours.test", "bob+none@ours.test", BOB, "bob+lists@ours.test")
    assert len(server.messages(BOB)) == 2
    assert len(list((server.maildir(BOB) / ".lists" / "new").iterdir())) == 1


def test_commands_files_and_lists_get_what_aliases_say(make_server: Any, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir(mode=0o755)
    server = make_server(
        accounts=(BOB, EVE, ANN),
        configuration=f"relay_networks = ['127.0.0.0/8']\n[aliases]\nfile_directories = ['{archive}']\n"
        f"local = ['{tmp_path}/aliases']\n[queue]\nretry = ['1h']\n",
        start=False,
    )
    good, taken = script(tmp_path, "good", 0)
    refuse, _ = script(tmp_path, "refuse", 77)
    later, _ = script(tmp_path, "later", 75)
    members = tmp_path / "members"
    members.write_text(f"bob\n{ANN}\n")
    aliases = tmp_path / "aliases"
    aliases.write_text(
        f'command: "|{good} -x \'two words\'"\nrefused: "|{refuse}"\nlater: "|{later}"\nnull: /dev/null\n'
        f"mbox: {archive}/all\nmaildir: {archive}/dir/\nlist: :include:{members}, refused\nowner-list: ann\n"
    )
    aliases.chmod(0o644)
    server.start()

    send(server, "command@ours.test", "null@ours.test", sender="-eve`id`$x@ours.test")
    server.wait(lambda: taken.exists() and b".dot" in taken.read_bytes(), "the command's input")
    text = taken.read_text()
    environment, _, message = text.partition("---\n")
    assert "ARGS -x two words\n" in environment
    assert "SENDER=_eve_id__x@ours.test\n" in environment
    assert "RECIPIENT=command@ours.test\n" in environment
    assert "SHLVL" not in environment.replace("SHLVL=0", "").replace("SHLVL=1", "")
    assert not any(name in environment for name in ("PYTHON", "SUDO", "SSH", "PYTEST"))
    assert message.startswith("From ") and "\nReturn-Path: <" in message and "\nhello\n.dot\n" in message

    send(server, "mbox@ours.test", "maildir@ours.test")
    send(server, "mbox@ours.test", subject="second")
    server.wait(
        lambda: (archive / "all").exists() and (archive / "all").read_text().count("\nFrom ") == 1, "two"
    )
    text = (archive / "all").read_text()
    assert text.startswith("From eve@ours.test ") and "Delivered-To: mbox@ours.test" in text
    server.wait(lambda: list((archive / "dir" / "new").glob("*")), "the Maildir")
    assert sorted(path.name for path in archive.iterdir()) == ["all", "dir"]
    assert (archive / "all").stat().st_mode & 0o777 == 0o600

    send(server, "list@ours.test")
    assert len(server.messages(BOB)) == 1
    assert b"Return-Path: <owner-list@ours.test>" in server.messages(BOB)[0]
    (delivered, notice) = sorted(
        server.wait_for_messages(ANN, 2), key=lambda data: b"Return-Path: <>" in data
    )
    assert b"Return-Path: <owner-list@ours.test>" in delivered
    assert b"5.7.0" in notice and b"Return-Path: <>" in notice
    assert not server.messages(EVE)

    send(server, "later@ours.test")
    server.wait(lambda: "temporary failure" in server.log_text(), "the deferral")

    def waiting() -> list[tuple[str, str, int]]:
        items = [json.loads(path.read_bytes()) for path in server.queued() if path.suffix == ".json"]
        return [
            (one["courier"], one["argument"], one["attempts"]) for item in items for one in item["recipients"]
        ]

    server.wait(lambda: waiting() == [("pipe", str(later), 1)], "the attempt's mark in the queue")

    said = server.command("explain", "--json", "list@ours.test", "--ip", "127.0.0.1")
    finals = {final["address"]: final for final in json.loads(said.stdout)["finals"]}
    assert finals["refused@ours.test"]["courier"] == "pipe"
    places = [(step["file"], step["line"]) for step in finals[ANN]["path"]]
    assert (str(members), 2) in places
    assert finals[ANN]["owner"] == "owner-list@ours.test"


def test_a_plugins_courier_serves_a_domain(make_server: Any, tmp_path: Path) -> None:
    output = tmp_path / "archived"
    plugins = tmp_path / "path" / "lorrainemail" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "archive_plugin.py").write_text(PLUGIN)
    server = make_server(
        domains=("ours.test", "old.test"),
        accounts=(EVE,),
        configuration='[deliver]\n"old.test" = { courier = "archive", accounts = false, argument = '
        f'"{output}" }}\n',
        start=False,
    )
    assert server.command("check").returncode == 1  # without the plugin there is no such courier
    checked = server.command("check").stdout
    assert "archive" in checked and "lmtp" in checked
    server.start({"PYTHONPATH": str(tmp_path / "path")})
    send(server, "any@old.test", "nobody@old.test")
    server.wait(lambda: output.exists() and "commit" in output.read_text(), "the plugin's commit")
    assert output.read_text() == "recipient any@old.test\nbody True\ncommit\n"
    server.wait(lambda: "not in the archive" in server.log_text(), "the refusal")


def test_a_command_that_hangs_or_floods_is_ended(make_server: Any, tmp_path: Path) -> None:
    server = make_server(
        configuration=f"[aliases]\nlocal = ['{tmp_path}/aliases']\n[commands]\ntime = '1s'\n", start=False
    )
    hang, flood = tmp_path / "hang", tmp_path / "flood"
    hang.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n(sleep 1000; :) &\nsleep 1000\n")
    flood.write_text("#!/bin/sh\nyes\n")
    aliases = tmp_path / "aliases"
    aliases.write_text(f'hang: "|{hang}"\nflood: "|{flood}"\nbig: "|{sys.executable} {tmp_path}/big.py"\n')
    (tmp_path / "big.py").write_text("x = bytearray(10**12)\n")
    for path in (hang, flood):
        path.chmod(0o755)
    aliases.chmod(0o644)
    server.start()
    send(server, "hang@ours.test")
    send(server, "flood@ours.test")
    send(server, "big@ours.test")
    for words in ("ran for too long", "wrote too much", "MemoryError"):
        server.wait(lambda words=words: words in server.log_text(), words)
    session = (tmp_path / "pid").read_text().strip()
    listed = subprocess.run(["ps", "-o", "stat=", "-s", session], capture_output=True, text=True, check=False)
    living = [state for state in listed.stdout.split() if not state.startswith("Z")]
    assert not living, "the command left processes behind"


def test_a_program_that_others_may_write_is_not_run(make_server: Any, tmp_path: Path) -> None:
    server = make_server(configuration=f"[aliases]\nlocal = ['{tmp_path}/aliases']\n", start=False)
    program, output = script(tmp_path, "open", 0)
    program.chmod(0o777)
    (tmp_path / "aliases").write_text(f'a: "|{program}"\n')
    os.chmod(tmp_path / "aliases", 0o644)
    server.start()
    send(server, "a@ours.test")
    server.wait(lambda: "can be written by others" in server.log_text(), "the refusal to run it")
    assert not output.exists()
