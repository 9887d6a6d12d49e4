"""Sessions, deliveries and foreign programs at the same time: after NOOP every view equals the truth.

The truth is the disk: which messages there are follows from a simple model, their flags from the file names.
Operations of one round run at the same time on different messages; foreign programs act in the middle.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import Account, IMailbox, MailboxChange
from lorrainemail.ops.committer import Committer
from lorrainemail.ops.content import Content
from lorrainemail.store.mailstore import MailStore

BOB = Account(parse_address("bob@bricoleur.test"))
FLAGS = ["\\Seen", "\\Flagged", "\\Answered", "\\Draft", "\\Deleted", "alpha", "beta"]
LETTERS = {"S": "\\Seen", "F": "\\Flagged", "R": "\\Answered", "D": "\\Draft", "T": "\\Deleted"}


class Session:
    """A client's view, from notices alone."""

    def __init__(self, mailbox: IMailbox) -> None:
        self.mailbox = mailbox
        self.view = {uid: mailbox.flags(uid) for uid in mailbox.uids()}
        self.seen = set(self.view)
        self.modseq = mailbox.highest_modseq
        self.end = mailbox.watch(self.heard)

    def heard(self, change: MailboxChange) -> None:
        assert change.modseq > self.modseq, "MODSEQ went back"
        self.modseq = change.modseq
        for uid in change.uids:
            if change.kind == "expunged":
                del self.view[uid]
            else:
                if change.kind == "added":
                    assert uid not in self.seen, "a UID was given twice"
                    assert uid > max(self.seen, default=0), "a UID came out of order"
                    self.seen.add(uid)
                self.view[uid] = self.mailbox.flags(uid)


class World:
    """The store, two folders, their sessions, and the model of what must be in them."""

    def __init__(self, root: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = root
        self.maildir = root / "mail/bricoleur.test/bob/Maildir"
        self.model: dict[str, set[str]] = {"INBOX": set(), "Other": set()}
        self.number = 0

    async def start(self, clean: bool) -> None:
        self.committer = Committer(reactor, str(self.root))
        self.committer.startService()
        self.store = MailStore(reactor, str(self.root / "mail"), self.committer, "mx")
        self.store.startService()
        if not clean and self.store.inotify is not None:
            self.store.inotify.close()
            self.store.inotify = None
        home = self.store.home(BOB)
        if not (self.maildir / ".Other").exists():
            await home.create("Other")
        self.sessions = {
            name: [Session(await home.open(name)) for _ in range(self.random.randint(1, 3))]
            for name in self.model
        }

    async def stop(self) -> None:
        await self.store.stopService()
        await self.committer.stopService()

    def directory(self, folder: str) -> Path:
        return self.maildir if folder == "INBOX" else self.maildir / f".{folder}"

    def files(self, folder: str) -> Iterator[Path]:
        for sub in ("new", "cur"):
            yield from (self.directory(folder) / sub).iterdir()

    def content(self) -> tuple[str, bytes]:
        self.number += 1
        return f"m{self.number}", f"Subject: m{self.number}\r\n\r\n".encode()

    def by_content(self, folder: str) -> dict[str, Path]:
        found = {p.read_bytes().split(b"\n")[0][9:].decode(): p for p in self.files(folder)}
        return found

    async def uid_of(self, session: Session, file: Path) -> int:
        """Through the index, as the store sees it."""
        live = self.store._homes[BOB.address.key]
        number = session.mailbox.number  # type: ignore[attr-defined]

        def look() -> int:
            row = live.tree.index.by_base(live.tree.known(number), file.name.partition(":")[0])
            return row.uid if row else 0

        return await live.run(look)

    async def round(self) -> None:
        pending: list[Deferred[Any]] = []
        picked: dict[str, list[str]] = {}
        files = {folder: self.by_content(folder) for folder in self.model}
        uids: dict[str, dict[str, int]] = {}
        for folder, found in files.items():
            first = self.sessions[folder][0]
            uids[folder] = {name: await self.uid_of(first, path) for name, path in found.items()}
        for folder in self.model:
            names = sorted(self.model[folder])
            self.random.shuffle(names)
            picked[folder] = names
        taken: set[str] = set()
        foreign: list[Any] = []
        for _ in range(self.random.randint(1, 6)):
            folder = self.random.choice(["INBOX", "Other"])
            other = "Other" if folder == "INBOX" else "INBOX"
            session = self.random.choice(self.sessions[folder])
            box = session.mailbox
            what = self.random.randint(0, 9)
            if what <= 1:
                name, data = self.content()
                self.model[folder].add(name)
                where = "" if folder == "INBOX" else folder
                pending.append(self.store.placement(BOB, where, b"", Content(data), "id").commit())
                continue
            if what == 2:
                name, data = self.content()
                self.model[folder].add(name)
                pending.append(box.append(Content(data), self.random.sample(FLAGS, 2), None))
                continue
            if what == 3:
                name, data = self.content()
                self.model[folder].add(name)
                foreign.append((self.foreign_delivery, folder, name, data))
                continue
            names = [n for n in picked[folder] if n not in taken and n in uids[folder]]
            if not names:
                continue
            name = names[0]
            taken.add(name)
            uid = uids[folder][name]
            if what == 4:
                foreign.append((self.foreign_rename, folder, name))
            elif what == 5:
                self.model[folder].discard(name)
                foreign.append((self.foreign_unlink, folder, name))
            elif not uid:
                continue
            elif what == 6:
                self.model[folder].discard(name)
                pending.append(box.expunge([uid]))
            elif what == 7:
                self.model[folder].discard(name)
                self.model[other].add(name)
                pending.append(box.move_to([uid], self.sessions[other][0].mailbox))
            else:
                operation = self.random.choice(["add", "remove", "set"])
                chosen = self.random.sample(FLAGS, self.random.randint(0, 3))
                pending.append(box.change_flags([uid], operation, chosen))  # type: ignore[arg-type]
                if self.random.random() < 0.3:
                    box.claim_recent(box.uids())
                if self.random.random() < 0.3:  # another program at the same message
                    foreign.append((self.foreign_rename, folder, name))
        for call, *arguments in foreign:
            call(*arguments)
        await gatherResults(pending, consumeErrors=True)

    def foreign_delivery(self, folder: str, name: str, data: bytes) -> None:
        base = f"{1000 + self.number}.foreign.{name}"
        path = self.directory(folder)
        (path / "tmp" / base).write_bytes(data.replace(b"\r\n", b"\n"))
        os.rename(path / "tmp" / base, path / "new" / base)

    def foreign_rename(self, folder: str, name: str) -> None:
        path = self.by_content(folder).get(name)
        if path is None:
            return
        letters = "".join(sorted(self.random.sample("SFRDT", 2)))
        try:
            base = path.name.partition(":")[0]
            os.rename(path, self.directory(folder) / "cur" / f"{base}:2,{letters}")
        except FileNotFoundError:
            pass

    def foreign_unlink(self, folder: str, name: str) -> None:
        path = self.by_content(folder).get(name)
        if path is not None:
            path.unlink()

    async def check(self) -> None:
        for folder, sessions in self.sessions.items():
            for session in sessions:
                await session.mailbox.refresh()
            live = self.store._homes[BOB.address.key]
            await live.settled()
            box = sessions[0].mailbox
            uids = list(box.uids())
            assert uids == sorted(set(uids))
            contents = {}
            for uid in uids:
                message = await box.message(uid)
                contents[(await message.read()).split(b"\r\n")[0][9:].decode()] = uid
            assert set(contents) == self.model[folder] and len(contents) == len(uids)
            keywords = self.directory(folder) / "dovecot-keywords"
            words = (
                [line.split(" ")[1] for line in keywords.read_text().splitlines()]
                if keywords.exists()
                else []
            )
            for name, path in self.by_content(folder).items():
                letters = path.name.partition(":2,")[2]
                truth = {LETTERS[c] for c in letters if c in LETTERS}
                truth |= {words[ord(c) - 97] for c in letters if c.islower() and ord(c) - 97 < len(words)}
                assert box.flags(contents[name]) == truth, (folder, name, path.name)
            for session in sessions:
                assert session.view == {uid: box.flags(uid) for uid in uids}
                assert session.modseq <= box.highest_modseq
            facts = await box.facts(uids)
            assert [f.flags for f in facts] == [box.flags(uid) for uid in uids]
            assert [f.modseq for f in facts] == [box.modseq(uid) for uid in uids]
            status = await self.store.home(BOB).status(folder)
            assert (status.messages, status.uid_next) == (len(uids), box.uid_next)


async def play(root: Path, seed: int, rounds: int) -> None:
    world = World(root, seed)
    await world.start(True)
    try:
        for number in range(rounds):
            await world.round()
            if number % 3 == 0:
                await world.check()
            if number % 10 == 9:
                await world.check()
                validity = {n: s[0].mailbox.uid_validity for n, s in world.sessions.items()}
                highest = {n: s[0].mailbox.uid_next for n, s in world.sessions.items()}
                await world.stop()
                await world.start(seed % 2 == 0)
                for name, sessions in world.sessions.items():
                    assert sessions[0].mailbox.uid_validity == validity[name]
                    assert sessions[0].mailbox.uid_next >= highest[name]
        await world.check()
    finally:
        await world.stop()


@pytest.mark.parametrize("seed", range(8))
@pytest_twisted.ensureDeferred
async def test_every_session_sees_the_truth(tmp_path: Path, seed: int) -> None:
    await play(tmp_path, seed, 20)


@pytest.mark.long
@pytest_twisted.ensureDeferred
async def test_every_session_sees_the_truth_over_many_rounds(tmp_path: Path) -> None:
    for _ in range(40):
        seed = random.SystemRandom().randrange(1 << 30)
        print("seed", seed)
        (tmp_path / str(seed)).mkdir()
        await play(tmp_path / str(seed), seed, 100)
