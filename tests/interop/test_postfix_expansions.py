"""The same aliases and virtual files, the same address: Postfix and we deliver to the same places.

Each row is delivered by a real Postfix (cleanup's virtual aliases, local's aliases) whose mailboxes, remote
hosts and failures end in its log, and expanded by our tables. Where we differ on purpose the row says why.
"""

from __future__ import annotations

import re
import smtplib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorrainemail.addresses import parse_address
from lorrainemail.config.load import load_text
from lorrainemail.interfaces import Expansion, Handed, LocalMailbox
from lorrainemail.tables.files import FileSource
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.snapshot import Snapshot

pytestmark = pytest.mark.interop

USERS = ("bob", "carol", "dave", "root")
ALIASES = """\
# as on any machine
postmaster: root
root: bob
MAILER-DAEMON: postmaster
team: bob, carol,
\tdave@x.test
"quoted name": carol
nested: team, team, bob, q@far.test
self: \\self, q@far.test
bob-and-copy: bob, \\carol
everybody: :include:{members}
list: bob, q@far.test
owner-list: dave
prog: "|/bin/true"
two: "|/bin/true", bob, "|/bin/true"
null: /dev/null
named: "Bob, the first" <bob@x.test>, Carol <carol@x.test> (her too)
loop-a: loop-b
loop-b: loop-a
mixed-loop: mixed-loop, bob
"""
MEMBERS = "# members\nbob\ncarol, q@far.test\n:include:{more}\n"
MORE = "dave\n"
VIRTUAL = """\
virt.test anything
info@virt.test bob@x.test, q@far.test
joe@virt.test bob
chain@virt.test info@virt.test, team@x.test
@virt.test carol@x.test
old.test anything
@old.test @x.test
sales team
plus+work@x.test carol
plus@x.test bob
far@x.test q@far.test
"""
#: What Postfix's deliveries and ours come to: users, remote addresses, |commands, /files, or "none".
ROWS = [
    ("bob@x.test", {"bob"}),
    ("BOB@X.TEST", {"bob"}),
    ("postmaster@x.test", {"bob"}),
    ("mailer-daemon@x.test", {"bob"}),
    ("team@x.test", {"bob", "carol", "dave"}),
    ('"quoted name"@x.test', {"carol"}),
    ("nested@x.test", {"bob", "carol", "dave", "q@far.test"}),
    ("bob-and-copy@x.test", {"bob", "carol"}),
    ("everybody@x.test", {"bob", "carol", "dave", "q@far.test"}),
    ("list@x.test", {"bob", "q@far.test"}),
    ("prog@x.test", {"|/bin/true"}),
    ("two@x.test", {"|/bin/true", "bob"}),
    ("null@x.test", {"/dev/null"}),
    ("named@x.test", {"bob", "carol"}),
    ("mixed-loop@x.test", {"bob"}),
    ("info@virt.test", {"bob", "q@far.test"}),
    ("joe@virt.test", {"bob"}),
    ("joe+tag@virt.test", {"bob"}),
    ("chain@virt.test", {"bob", "carol", "dave", "q@far.test"}),
    ("anybody@virt.test", {"carol"}),
    ("bob@old.test", {"bob"}),
    ("team@old.test", {"bob", "carol", "dave"}),
    ("sales@x.test", {"bob", "carol", "dave"}),
    ("plus+work@x.test", {"carol"}),
    ("plus+other@x.test", {"bob"}),
    ("far+tag@x.test", {"q+tag@far.test"}),
    ("bob+list@x.test", {"bob"}),
    ("team+tag@x.test", {"bob", "carol", "dave"}),
]
_LINE = re.compile(r"postfix/(\w+)\[\d+\]: \w+: to=<([^>]*)>,.*status=(\w+) \((.*)\)$", re.MULTILINE)


@pytest.fixture
def tmp_path(passable: Path) -> Path:
    return passable


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "maps"
    directory.mkdir(mode=0o755)
    for path in (directory, *directory.parents):
        if path.stat().st_mode & 0o011 != 0o011:
            path.chmod(path.stat().st_mode | 0o011)
    (directory / "more").write_text(MORE)
    (directory / "members").write_text(MEMBERS.format(more=directory / "more"))
    (directory / "aliases").write_text(ALIASES.format(members=directory / "members"))
    (directory / "virtual").write_text(VIRTUAL)
    for path in directory.iterdir():
        path.chmod(0o644)
    return directory


def ours(files: Path, state: Path) -> Snapshot:
    state.mkdir(mode=0o700, exist_ok=True)
    (state / "accounts").write_text("".join(f"{user}@x.test:\n" for user in USERS))
    text = (
        'local_domains = ["x.test"]\nsubaddress = "+"\n[aliases]\n'
        f"local = ['{files}/aliases']\nvirtual = ['{files}/virtual']\nfile_directories = ['{files}']\n"
    )
    rules = Rules.of(load_text(text, "l.toml", str(state)))
    return Snapshot(FileSource(str(state)).load(rules), rules)


def places(tables: Snapshot, address: str) -> set[str]:
    """Where our copies go."""
    expansion = tables.expand(parse_address(address))
    assert isinstance(expansion, Expansion)
    found = set()
    for final in expansion.finals:
        if isinstance(final, LocalMailbox):
            found.add(final.account.address.local)
        elif isinstance(final, Handed):
            found.add(("|" if final.courier == "pipe" else "") + final.argument)
        else:
            found.add(str(final.address))
    return found


def delivered(log: str) -> set[str]:
    """Where Postfix's copies went."""
    found = set()
    for program, to, status, words in _LINE.findall(log):
        if status != "sent" or words.startswith("forwarded as"):
            continue
        if words.startswith("delivered to command: "):
            found.add("|" + words.removeprefix("delivered to command: "))
        elif words.startswith("delivered to file: "):
            found.add(words.removeprefix("delivered to file: "))
        elif program == "discard":
            local, _, domain = to.partition("@")
            user = local.lower().partition("+")[0]
            if domain.lower() != "x.test":
                found.add(to)
            elif user in USERS:  # here Postfix has a mailbox for every name
                found.add(user)
    return found


@pytest.mark.parametrize(("address", "expected"), ROWS)
def test_our_tables_say_what_the_row_says(
    files: Path, tmp_path: Path, address: str, expected: set[str]
) -> None:
    assert places(ours(files, tmp_path / "state"), address) == expected


def test_postfix_delivers_where_our_tables_say(
    postfix: Callable[[str], Any], files: Path, tmp_path: Path
) -> None:
    theirs = postfix("{ far.test = discard: }")
    for kind, name in (("postalias", "aliases"), ("postmap", "virtual")):
        subprocess.run([kind, "-c", str(theirs.etc), f"hash:{files}/{name}"], check=True, timeout=30)
    with open(theirs.etc / "main.cf", "a") as configuration:
        configuration.write(
            f"mydestination = x.test\nmyorigin = x.test\nlocal_recipient_maps =\nrecipient_delimiter = +\n"
            f"alias_maps = hash:{files}/aliases\nvirtual_alias_maps = hash:{files}/virtual\n"
            "virtual_alias_domains = virt.test old.test\nmailbox_transport = discard:x.test\n"
            "mailbox_size_limit = 0\nallow_mail_to_commands = alias\nallow_mail_to_files = alias\n"
            "virtual_mailbox_domains =\n"
        )
    theirs.run("reload")
    tables = ours(files, tmp_path / "state")
    told: dict[str, tuple[set[str], set[str]]] = {}
    for address, _ in ROWS:
        before = len(theirs.log_text())
        with smtplib.SMTP(theirs.address, theirs.port, timeout=30) as client:
            client.sendmail("s@far.test", [address], "Subject: x\r\n\r\nx\r\n")
        deadline = time.monotonic() + 30
        while not _settled(theirs.log_text()[before:]):
            assert time.monotonic() < deadline, theirs.log_text()[before:]
            time.sleep(0.05)
        mine = places(tables, address)
        found = delivered(theirs.log_text()[before:])
        if mine != found:
            told[address] = mine, found
    assert not told, f"(ours, Postfix's): {told}"


def _settled(log: str) -> bool:
    """Whether every message of these lines has left Postfix's queue."""
    begun = set(re.findall(r"postfix/cleanup\[\d+\]: (\w+): message-id", log))
    return bool(begun) and begun <= set(re.findall(r"postfix/qmgr\[\d+\]: (\w+): removed", log))
