"""Several sessions on one mailbox, whatever they do: each client's arithmetic stays right.

A model client knows only what RFC 3501 lets it know: EXISTS adds messages, EXPUNGE takes one away and shifts
the numbers above it, FETCH says what a number is. Whatever the interleaving, its numbers must mean the
messages that the server says, and EXPUNGE must never come where it is forbidden.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

_spec = importlib.util.spec_from_file_location(
    "imap_door_for_models", Path(__file__).parents[1] / "unit" / "imap" / "conftest.py"
)
assert _spec is not None and _spec.loader is not None
harness: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

_FETCH = re.compile(r"\* (\d+) FETCH \((.*)\)\Z")


class Model:
    """What one client believes."""

    def __init__(self, door: Any, qresync: bool = False) -> None:
        self.client = door.selected()
        self.qresync = qresync
        if qresync:
            self.client.say("e ENABLE QRESYNC")
        self.uids: list[int | None] = [None] * len(door.folder().uids())
        self.flags: dict[int, str] = {}
        self.idling = False
        self.run("m FETCH 1:* (UID FLAGS)" if self.uids else "m NOOP")

    def run(self, command: str) -> str:
        """Give a command; the tagged answer, everything untagged taken in."""
        words = command.split(" ")
        if "SILENT" in command:
            self.flags.clear()  # what it changed without being told
        forbidden = words[1] in ("FETCH", "STORE", "SEARCH")
        answer = self.take(self.client.say(command), forbidden)
        if self.qresync and None in self.uids and not command.startswith("u "):
            self.run("u FETCH 1:* (UID)")
        return answer

    def vanish(self, uid: int) -> None:
        """Take away the one message that this can be."""
        if uid in self.uids:
            self.uids.remove(uid)
        else:
            for index, known in enumerate(self.uids):
                before = [one for one in self.uids[:index] if one is not None]
                after = [one for one in self.uids[index:] if one is not None]
                if known is None and all(one < uid for one in before) and all(one > uid for one in after):
                    del self.uids[index]
                    break
            else:
                raise AssertionError("VANISHED names a message that was never there")
        self.flags.pop(uid, None)

    def take(self, lines: list[str], forbidden: bool = False) -> str:
        answer = ""
        text = "\r\n".join(lines)
        while (literal := re.search(r"\{(\d+)\}\r\n", text)) is not None:
            text = text[: literal.start()] + text[literal.end() + int(literal.group(1)) :]
        for line in text.split("\r\n"):
            if line.startswith("* VANISHED "):
                assert self.qresync and not forbidden
                for first, _, last in (part.partition(":") for part in line.split(" ")[2].split(",")):
                    for uid in range(int(first), int(last or first) + 1):
                        self.vanish(uid)
            elif line.endswith(" EXPUNGE"):
                assert not self.qresync
                assert not forbidden, "EXPUNGE while a command uses sequence numbers"
                number = int(line.split()[1])
                assert 1 <= number <= len(self.uids)
                gone = self.uids.pop(number - 1)
                self.flags.pop(gone or 0, None)
            elif line.endswith(" EXISTS"):
                exists = int(line.split()[1])
                assert exists >= len(self.uids), "EXISTS took messages away"
                self.uids += [None] * (exists - len(self.uids))
            elif (match := _FETCH.match(line)) is not None:
                self.fetched(int(match.group(1)), match.group(2))
            elif not line.startswith("* ") and not line.startswith("+"):
                answer = line
        return answer

    def fetched(self, number: int, items: str) -> None:
        assert 1 <= number <= len(self.uids), "a number beyond the mailbox"
        found = re.search(r"UID (\d+)", items)
        if found is not None:
            uid = int(found.group(1))
            assert self.uids[number - 1] in (None, uid), "a number means another message now"
            assert uid not in self.uids or self.uids.index(uid) == number - 1
            self.uids[number - 1] = uid
        flags = re.search(r"FLAGS \(([^)]*)\)", items)
        uid_now = self.uids[number - 1]
        if flags is not None and uid_now is not None:
            self.flags[uid_now] = flags.group(1).replace("\\Recent", "").strip()

    def check(self, door: Any) -> None:
        """Brought up to date, the client knows the mailbox exactly."""
        if self.idling:
            self.idling = False
            self.take(self.client.say("DONE"))
        self.run("z NOOP")
        for uid, known in self.flags.items():
            assert known == " ".join(sorted(door.folder().flags(uid))), "a change was not told"
        if self.uids:
            assert self.run("z UID FETCH 1:* (UID FLAGS)").startswith("z OK")
        folder = door.folder()
        assert self.uids == list(folder.uids())
        for uid in self.uids:
            assert uid is not None
            assert self.flags[uid] == " ".join(sorted(folder.flags(uid)))


STEPS = st.tuples(
    st.integers(0, 2),
    st.sampled_from(
        ["deliver", "idle", "NOOP", "FETCH {n} (UID)", "FETCH 1:* (UID FLAGS)", "UID FETCH {u}:* (FLAGS)",
         "STORE {n} +FLAGS (\\Deleted)", "STORE {n} +FLAGS.SILENT (\\Seen)", "UID STORE {u} FLAGS ($k{u})",
         "UID STORE {u} +FLAGS.SILENT (\\Deleted)", "EXPUNGE", "UID EXPUNGE {u}", "SEARCH {n} DELETED",
         "UID SEARCH UNSEEN", "MOVE {n} Trash", "UID MOVE {u} Trash", "COPY {n} INBOX", "UID COPY {u} INBOX",
         "FETCH {n} BODY[]", "CHECK", "APPEND", "STATUS INBOX (MESSAGES)"]
    ),
    st.integers(1, 6),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 4), st.lists(STEPS, max_size=30))
def test_every_clients_numbers_stay_true(at_first: int, steps: list[tuple[int, str, int]]) -> None:
    door = harness.Door()
    door.put(*(["Subject: x\n\nhello\n"] * at_first))
    models = [Model(door, qresync=number == 2) for number in range(3)]
    for who, what, number in steps:
        model = models[who]
        if what == "deliver":
            door.put("Subject: new\n\nhello\n")
            for other in models:
                if other.idling:
                    other.take(other.client.read())
            continue
        if model.idling:
            model.idling = False
            model.take(model.client.say("DONE"))
        if what == "idle":
            model.idling = True
            model.take(model.client.say("i IDLE"))
        elif what == "APPEND":
            model.take(model.client.say(b"p APPEND INBOX (\\Draft) {3+}\r\nabc\r\n"))
        else:
            sequence = min(number, max(len(model.uids), 1))
            answer = model.run("q " + what.format(n=sequence, u=number))
            assert answer.startswith(("q OK", "q NO [EXPUNGEISSUED]", "q BAD No such message")), answer
    for model in models:
        model.check(door)
