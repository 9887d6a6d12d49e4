"""Whatever an account has, messages, flags, dates, folders: written out and taken in, it is the same."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorrainemail.ops.files import SYSTEM
from lorrainemail.store import taking
from lorrainemail.store.names import UniqueNames
from lorrainemail.store.tree import Tree
from lorrainemail.transfer.exporting import export
from lorrainemail.transfer.homes import HomeSource
from lorrainemail.transfer.importing import import_account, nothing
from lorrainemail.transfer.maildirs import MaildirSource
from lorrainemail.transfer.mboxes import MboxSource
from lorrainemail.transfer.sources import Mark, Message, SourceFolder, as_wire
from lorrainemail.transfer.staging import Stage

#: What a mailbox holds: folder → UID → (flags, date, octets).
Contents = dict[str, dict[int, tuple[frozenset[str], int, bytes]]]

_flags = st.frozensets(
    st.sampled_from(["\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft", "$Junk", "a-word", "B;c"])
    | st.integers(0, 40).map(lambda number: f"k{number}"),
    max_size=6,
)
_lines = st.lists(
    st.sampled_from(
        [b"From me", b">From me", b"", b".", b"plain words", b"\xe9t\xe9", b"Status: x", b"a" * 300]
    ),
    max_size=5,
)


@st.composite
def _octets(draw: Any) -> bytes:
    """A message in wire form, with all that line ends can be."""
    ends = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]))
    body = ends.join(draw(_lines))
    return (
        b"Subject: %d\r\n\r\n" % draw(st.integers(0, 10**9))
        + body
        + draw(st.sampled_from([b"", b"\r\n", b"\r"]))
    )


_message = st.tuples(_flags, st.integers(0, 2**31 - 1), _octets())
_level = st.text(st.sampled_from("abcÉé &~%-.日 "), min_size=1, max_size=5).filter(
    lambda text: text.strip() == text and not text.startswith(".")
)
_name = st.lists(_level, min_size=1, max_size=3).map("/".join).filter(lambda name: name.lower() != "mbox")
_contents = st.tuples(
    st.lists(_message, max_size=4), st.dictionaries(_name, st.lists(_message, max_size=3), max_size=3)
).map(lambda both: {"INBOX": both[0], **both[1]})


class Given:
    """A source made of values."""

    def __init__(self, contents: dict[str, list[tuple[frozenset[str], int, bytes]]]) -> None:
        self.contents = contents

    def folders(self) -> list[SourceFolder]:
        return [SourceFolder(name, name, 777, 1000) for name in self.contents]

    def marks(self, folder: SourceFolder) -> list[Mark]:
        return [
            Mark(f"{folder.name} {at}", str(at), 3 * at + 5) for at in range(len(self.contents[folder.name]))
        ]

    def messages(self, folder: SourceFolder, marks: Any) -> Iterator[Message]:
        for mark in marks:
            flags, date, octets = self.contents[folder.name][int(mark.place)]
            halves = (octets[: len(octets) // 2], octets[len(octets) // 2 :])
            yield Message(mark, tuple(flags), date, 0, mark.uid, True, lambda halves=halves: iter(halves))  # type: ignore[misc]

    def close(self) -> None:
        """Nothing is open."""


def take(home: Path, source: Any) -> None:
    """Import into a home, by the store's own jobs."""
    root = home.parent
    tree = Tree(str(root), str(home), secrets.token_hex(4), SYSTEM, UniqueNames("x"), time.time)

    def run(work: Generator[None, None, Any]) -> Any:
        tree.begin()
        tree.job_begins()
        while True:
            try:
                next(work)
            except StopIteration as end:
                tree.job_ends()
                tree.commit()
                return end.value

    def access(command: str, **given: Any) -> Any:
        name = given["folder"]
        if command == "import.prepare":
            made = run(taking.prepare(tree, name, given["uid_validity"], (), given["subscribed"]))
            return {"keeps": made.keeps}
        if command == "import.place":
            incoming = [
                taking.Incoming(key, f"{stage.path}/{file}", base, tuple(flags), date, size, uid)
                for key, file, base, flags, date, size, uid in given["messages"]
            ]
            return run(taking.place(tree, name, incoming, given["keep"], given["uid_next"]))
        return None

    with Stage(str(root)) as stage:
        tally = import_account(access, stage, source, "x@y.test", lambda name: True, _silent, nothing)
    assert tally.faults == []
    tree.close(True)


def _silent(folder: str, count: int, total: int) -> None:
    """Nobody watches."""


def held(source: Any) -> Contents:
    """What a source holds, its empty folders left out."""
    found: Contents = {}
    for folder in source.folders():
        rows = {
            message.uid: (frozenset(message.flags), message.date, b"".join(as_wire(message)))
            for message in source.messages(folder, source.marks(folder))
        }
        if rows:
            found[folder.name] = rows
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(form=st.sampled_from(("maildir", "mbox")), contents=_contents)
def test_what_is_written_out_comes_back_as_it_was(form: Any, contents: Any) -> None:
    # In memory where there is such a place: hundreds of syncs are not what is tested here.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        top = Path(directory)
        (top / "one").mkdir()
        (top / "two").mkdir()
        take(top / "one" / "home", Given(contents))
        before = held(HomeSource(str(top / "one" / "home")))
        assert before == {name: rows for name, rows in held(Given(contents)).items() if rows}
        export(HomeSource(str(top / "one" / "home")), str(top / "out"), form, lambda name: True, _silent)
        written = MaildirSource(str(top / "out")) if form == "maildir" else MboxSource(str(top / "out"))
        take(top / "two" / "home", written)
        assert held(HomeSource(str(top / "two" / "home"))) == before
        assert not [name for name in os.listdir(top / "one") if name.startswith("import-")]
