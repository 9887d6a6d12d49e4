"""A crash at any point of the whole way (intake, store, queue): what was answered with 250 is kept, whole.

Messages are taken by the real intake over the real store, spool and committer, whose file operations are
recorded. Every prefix of the record is then a disk after a crash, with what was not synced dropped, kept, or
chosen at random; the recovery code of store and queue looks at it as it would at a start. SQLite is not
recorded: the index is made anew from the files, so a crash may take all of it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.errors import Reply
from lorrainemail.intake import Intake
from lorrainemail.interfaces import (
    Accepted,
    Account,
    Expansion,
    LocalMailbox,
    RemoteMailbox,
    Transaction,
)
from lorrainemail.ops.committer import Committer
from lorrainemail.ops.content import ContentWriter
from lorrainemail.ops.files import SYSTEM, Files
from lorrainemail.ops.ids import new_id
from lorrainemail.ops.recorder import (
    DISK_ERRORS,
    Faults,
    Operation,
    Recorder,
    build,
    crashes,
    needed_syncs,
)
from lorrainemail.queue.files import Directory
from lorrainemail.queue.spool import Spool
from lorrainemail.store.mailstore import MailStore

SEED = int(os.environ.get("LORRAINEMAIL_SEED", "20260729"))
#: Crashed disks that the whole store and queue are started on; the files alone are looked at on every one.
RESTARTS = 12

ACCOUNTS = {name: Account(parse_address(f"{name}@ours.test")) for name in ("bob", "dave", "eve")}


class NoTrace:
    def event(self, message: str, kind: str, **facts: object) -> None:
        """Not durable, not needed."""


class Site:
    """Store, queue and intake over one directory."""

    def __init__(self, root: Path, files: Files) -> None:
        self.root = root
        self.committer = Committer(reactor, str(root), threads=2, files=files)
        self.store = MailStore(reactor, str(root / "mail"), self.committer, "ours.test", files)
        self.queue = Spool(reactor, str(root / "queue"), self.committer, files=files)
        self.intake = Intake(reactor, self.store, self.queue, None, NoTrace(), "ours.test")  # type: ignore[arg-type]
        self.services = (self.committer, self.store, self.queue, self.intake)

    def start(self) -> None:
        self.queue.prepare()
        for service in self.services:
            service.startService()

    async def stop(self) -> None:
        for service in reversed(self.services):
            stopped = service.stopService()
            if isinstance(stopped, Deferred):
                await stopped


@attrs.frozen(slots=True)
class Answered:
    """A message that got its 250."""

    id: str
    text: bytes
    mailboxes: tuple[str, ...]
    remote: bool


def message(id: str, size: int = 300) -> bytes:
    return (
        f"Subject: {id}\r\n\r\n".encode()
        + (id.encode() + b"\r\n") * (size // 19)
        + b"end of "
        + id.encode()
        + b"\r\n"
    )


def transaction(site: Site, id: str, boxes: tuple[str, ...], remote: bool, large: bool) -> Transaction:
    finals: list[Any] = [LocalMailbox(ACCOUNTS[name], "", ACCOUNTS[name].address) for name in boxes]
    if remote:
        finals.append(RemoteMailbox(parse_address("x@far.example")))
    accepted = tuple(Accepted(Recipient(final.address), Expansion(True, (final,))) for final in finals)
    text = message(id, 40_000 if large else 300)
    writer = ContentWriter(str(site.root), memory=10_000)
    writer.write(text)
    envelope = Envelope(id, parse_address("carole@elorac.fr"), tuple(a.recipient for a in accepted))
    session = Session("s", "smtp", peer="192.0.2.1", helo="client.example", esmtp=True)
    return Transaction(session, envelope, accepted, None, writer.finish(), ())  # type: ignore[arg-type]


async def send(
    site: Site, recorder: Recorder | None, boxes: tuple[str, ...], remote: bool, large: bool = False
) -> Reply:
    id = new_id()
    taken = transaction(site, id, boxes, remote, large)
    try:
        reply = await site.intake.take(taken)
    finally:
        taken.content.close()
    if recorder is not None and reply.code == 250:
        recorder.mark(Answered(id, message(id, 40_000 if large else 300), boxes, remote))
    return reply


async def record(root: Path, together: bool) -> tuple[list[Operation], list[str]]:
    """The log of some traffic, and the directories that were there before it.

    :param together: some messages at once, as many clients send them; else one after the other, so that no
        sync does the work of another.
    """
    recorder = Recorder(str(root))
    site = Site(root, recorder)
    site.start()
    await site.committer.run(lambda: None)
    initial = [path for path in below(root) if (root / path).is_dir()]
    recorder.log.clear()
    for boxes, remote in ((("bob",), False), (("bob", "dave"), True), ((), True)):
        assert (await send(site, recorder, boxes, remote)).code == 250
    running = []
    codes: list[int] = []
    for boxes, remote, large in (
        (("eve",), False, False),
        (("bob",), False, True),
        (("dave", "bob"), False, False),
        (("eve", "dave"), True, True),
    ):
        sent = Deferred.fromCoroutine(send(site, recorder, boxes, remote, large))
        running.append(sent.addCallback(lambda reply: codes.append(reply.code)))
        if not together:
            await running[-1]
    await gatherResults(running)
    assert codes == [250] * 4
    await site.stop()
    return recorder.log, initial


def below(root: Path) -> list[str]:
    """Everything under a directory, by relative path."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def on_disk(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n")


def wrong_files(tree: dict[str, bytes | None], marks: list[Answered]) -> list[str]:
    """What is lost or torn, by the files alone."""
    wrong = []
    for mark in marks:
        for name in mark.mailboxes:
            folder = f"mail/ours.test/{name}/Maildir/new/"
            if not any(
                p.startswith(folder) and (c or b"").endswith(on_disk(mark.text)) for p, c in tree.items()
            ):
                wrong.append(f"{mark.id} is not in the mailbox of {name}")
            maildir = f"mail/ours.test/{name}/Maildir"
            if not {f"{maildir}/tmp", f"{maildir}/new", f"{maildir}/cur"} <= set(tree):
                wrong.append(f"the mailbox of {name} is not one that other programs could read")
        if mark.remote:
            text = tree.get(f"queue/{mark.id}.msg") or b""
            if not text.endswith(mark.text) or not tree.get(f"queue/{mark.id}.json"):
                wrong.append(f"{mark.id} is not in the queue")
    for path, content in tree.items():
        if "/Maildir/new/" in path and content is not None:
            last = content.rpartition(b"\nend of ")[2].strip()
            whole = content.startswith(b"Return-Path: <carole@elorac.fr>\n") and on_disk(
                message(last.decode("ascii", "replace"), 40_000 if len(content) > 20_000 else 300)
            )
            if not whole or not content.endswith(whole):
                wrong.append(f"{path} is visible and not whole")
    return wrong


async def wrong_after_restart(root: Path, tree: dict[str, bytes | None], marks: list[Answered]) -> list[str]:
    """What store and queue themselves say after a start on such a disk."""
    os.mkdir(root)
    build(tree, str(root))
    site = Site(root, SYSTEM)
    site.start()
    wrong = []
    try:
        for name, account in ACCOUNTS.items():
            box = await site.store.home(account).open("INBOX")
            texts = []
            for facts in await box.facts(box.uids()):
                opened = await box.message(facts.uid)
                texts.append(await opened.read())
                opened.close()
            box.close()
            for mark in marks:
                count = sum(text.endswith(mark.text) for text in texts)
                if name in mark.mailboxes and count != 1:
                    wrong.append(f"{mark.id} is {count} times in the mailbox of {name}")
            wrong += [
                f"{name} sees a torn message"
                for text in texts
                if not text.endswith(b"\r\n") or b"end of" not in text
            ]
        queued = set(site.queue.identities())
        await site.committer.run(lambda: None)
        queued |= set(Directory(str(root / "queue"), SYSTEM).scan()[0])
        for mark in marks:
            if mark.remote:
                stored = Directory(str(root / "queue"), SYSTEM).read(mark.id) if mark.id in queued else None
                if stored is None or "x@far.example" not in {
                    str(r.recipient.address) for r in stored.item.recipients
                }:
                    wrong.append(f"{mark.id} is not in the queue after a restart")
    finally:
        await site.stop()
    return wrong


@pytest_twisted.ensureDeferred
async def test_what_was_answered_survives_a_crash_at_any_point(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    log, initial = await record(tmp_path / "live", together=True)
    every = list(crashes(log, initial, SEED, rounds=3))
    for index, outcome, tree, marks in every:
        assert wrong_files(tree, marks) == [], f"seed {SEED}, after operation {index}, outcome {outcome}"
    chosen = [*random.Random(SEED).sample(every, RESTARTS), every[-1]]
    for number, (index, outcome, tree, marks) in enumerate(chosen):
        wrong = await wrong_after_restart(tmp_path / f"crashed{number}", tree, marks)
        assert wrong == [], f"seed {SEED}, after operation {index}, outcome {outcome}"


@pytest_twisted.ensureDeferred
async def test_without_any_single_sync_mail_would_be_lost(tmp_path: Path) -> None:
    log, initial = await record(tmp_path, together=False)
    needed = needed_syncs(log, initial)
    assert len(needed) >= 15
    for ignored in needed:
        lost = any(wrong_files(tree, marks) for _, _, tree, marks in crashes(log, initial, SEED, 0, ignored))
        assert lost, f"{log[ignored]} is not needed, or the check is blind"


@pytest.mark.parametrize("method", ["open", "write", "fsync", "rename", "mkdir", "fsync_directory"])
@pytest.mark.parametrize("number", DISK_ERRORS)
@pytest_twisted.ensureDeferred
async def test_a_failing_disk_is_a_4xx_and_leaves_nothing_behind(
    tmp_path: Path, method: str, number: int
) -> None:
    failing = False
    site = Site(tmp_path, Faults(lambda m, path: number if failing and m == method else 0))
    site.start()
    try:
        if method != "mkdir":  # the mailboxes are there
            assert (await send(site, None, ("bob", "dave", "eve"), False)).code == 250
        before = {path for path in below(tmp_path) if (tmp_path / path).is_file() and "sqlite" not in path}
        failing = True
        cases = [(("bob",), False), (("bob", "dave"), False)]
        cases += [] if method == "mkdir" else [(("eve",), True), ((), True)]
        for boxes, remote in cases:
            reply = await send(site, None, boxes, remote)
            assert 400 <= reply.code <= 499, (boxes, remote, reply)
        after = {path for path in below(tmp_path) if (tmp_path / path).is_file() and "sqlite" not in path}
        assert after == before
    finally:
        failing = False
        await site.stop()
