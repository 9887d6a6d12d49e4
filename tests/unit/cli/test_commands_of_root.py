"""What root's commands make in a state directory belongs to the server's user, who must go on with it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorrainemail.addresses import parse_address
from lorrainemail.cli.main import main
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.interfaces import QueueItem, QueueRecipient
from lorrainemail.ops.files import SYSTEM
from lorrainemail.queue.files import Directory
from lorrainemail.queue.format import Stored, encode

SERVER = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what root leaves behind only root can show")


@pytest.fixture
def state() -> Iterator[Path]:
    """The state directory of another user, with a message in its queue and a mailbox."""
    with tempfile.TemporaryDirectory(prefix="lorrainemail-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        state = Path(name) / "state"
        inbox = state / "mail" / "x.test" / "bob" / "Maildir"
        for sub in ("tmp", "new", "cur"):
            (inbox / sub).mkdir(parents=True)
        (inbox / "new" / "1.a,S=12,W=14").write_bytes(b"Subject: a\n\n")
        Directory(str(state / "queue"), SYSTEM).prepare()
        for number in range(3):
            envelope = Envelope(id=f"id{number}", sender=parse_address("carole@elorac.fr"), recipients=())
            one = QueueRecipient("remote", Recipient(parse_address("bob@x.org")))
            item = QueueItem(envelope, (one,), time.time(), 14)
            (state / "queue" / f"id{number}.json").write_bytes(encode(Stored(item)))
            (state / "queue" / f"id{number}.msg").write_bytes(b"Subject: x\r\n\r\n")
        for directory, _, files in os.walk(state):
            for path in (directory, *(os.path.join(directory, file) for file in files)):
                os.chown(path, SERVER, SERVER)
        yield state


def foreign(state: Path) -> list[str]:
    """Files that the server's user could not use."""
    found = [path for path in state.rglob("*") if path.lstat().st_uid != SERVER]
    return sorted(str(path.relative_to(state)) for path in found)


def test_nothing_of_roots_is_left_behind(state: Path) -> None:
    commands = [
        ("queue", "hold", "id0"),
        ("queue", "release", "id0"),
        ("queue", "retry", "id1"),
        ("queue", "drop", "id2"),
        ("mailbox", "rebuild", "bob@x.test"),
        ("mailbox", "check", "bob@x.test"),
        ("mailbox", "stat", "bob@x.test"),
        ("ban", "add", "192.0.2.7"),
        ("trace",),
    ]
    for words in commands:
        main([*words, "--state", str(state)])
        assert os.geteuid() == 0
        assert foreign(state) == [], words
    assert (state / "queue" / "id0.json").stat().st_uid == SERVER
    assert not (state / "queue" / "id2.json").exists()
