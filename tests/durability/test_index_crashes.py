"""A crash at any point of the index's life: no UID or MODSEQ that somebody may have seen is given again, and
UIDVALIDITY never falls; and without any one of its syncs one would be.

SQLite's files are played back by hand: of the log (WAL) a crash leaves what the last sync saw, or more of it.
It is shorter here than what SQLite writes back into the database by itself, so that never changes.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from lorrainemail.store import index as module
from lorrainemail.store.index import MODSEQ_BLOCK, UID_BLOCK, Folder, Index, Row


@attrs.frozen(slots=True)
class Moment:
    """What a crash at this moment finds.

    :ivar files: the database and the whole log. ``safe``: octets of the log that are synced.
    :ivar shown: folder → UIDVALIDITY, the highest UID and the highest MODSEQ that clients saw.
    """

    database: bytes
    log: bytes
    safe: int
    shown: dict[str, tuple[int, int, int]]


class Life:
    """An index at work; ``ignored`` is the number of a sync that is not done."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, ignored: int = -1) -> None:
        self.path = directory / "index.sqlite"
        self.moments: list[Moment] = []
        self.safe = 0
        self.syncs = 0
        self.shown: dict[str, tuple[int, int, int]] = {}
        self._ignored = ignored
        monkeypatch.setattr(module, "_sync", self._sync)

    def _sync(self, path: str) -> None:
        if path.endswith("-wal"):
            if self.syncs != self._ignored:
                self.safe = len(Path(path).read_bytes())
            self.syncs += 1

    def open(self, run: str) -> Index:
        return Index(str(self.path), run)

    def commit(self, index: Index, shown: Callable[[], dict[str, tuple[int, int, int]]]) -> None:
        """The end of a batch, after which clients see numbers."""
        index.save_folders()
        index.commit()
        self.shown = {**self.shown, **shown()}
        self.note()

    def note(self) -> None:
        log = self.path.with_name("index.sqlite-wal")
        octets = log.read_bytes() if log.exists() else b""
        self.safe = min(self.safe, len(octets))
        self.moments.append(Moment(self.path.read_bytes(), octets, self.safe, self.shown))


def fill(index: Index, folder: Folder, count: int) -> tuple[int, int]:
    first = index.allocate(folder, count)
    modseq = index.next_modseq(folder)
    rows = [Row(uid, f"m{uid}", 0, "", modseq, 0, 1, 1, 1, f"m{uid}") for uid in range(first, first + count)]
    index.add(folder, rows)
    return first + count - 1, modseq


def work(life: Life) -> None:
    for run, counts in enumerate(((1, 3, UID_BLOCK), (2, UID_BLOCK * 2, 5))):
        index = life.open(f"run {run}")
        for number, count in enumerate(counts):
            index.begin()
            folder = index.folders().get("") or index.add_folder("", 1000)
            folder.modseq += MODSEQ_BLOCK - 2 if number == 1 else 0
            uid, modseq = fill(index, folder, count)
            life.commit(index, lambda f=folder, u=uid, m=modseq: {"": (f.uid_validity, u, m)})  # type: ignore[misc]
        index.begin()
        other = index.add_folder(f".Folder{run}", 1000)
        uid, modseq = fill(index, other, 1)
        life.commit(
            index,
            lambda f=other, r=run, u=uid, m=modseq: {f".Folder{r}": (f.uid_validity, u, m)},  # type: ignore[misc]
        )
        if not run:  # the second ends by a crash
            index.give_back()
            life.note()
            index.close()
            life.safe = 0  # the log went into the database


def given_again(moments: list[Moment], directory: Path) -> list[str]:
    """What clients saw and others would see again."""
    wrong = []
    numbers = itertools.count()
    for at, moment in enumerate(moments):
        for length in sorted({moment.safe, (moment.safe + len(moment.log)) // 2, len(moment.log)}):
            place = directory / f"crash{next(numbers)}"
            place.mkdir()
            (place / "index.sqlite").write_bytes(moment.database)
            (place / "index.sqlite-wal").write_bytes(moment.log[:length])
            index = Index(str(place / "index.sqlite"), "after the crash")
            index.begin()
            for name, (validity, uid, modseq) in moment.shown.items():
                folder = index.folders().get(name) or index.add_folder(name, 1)
                if folder.uid_validity > validity:
                    continue  # clients begin anew
                if folder.uid_validity < validity:
                    wrong.append(f"{at}.{length}: UIDVALIDITY of {name!r} fell")
                elif index.allocate(folder, 1) <= uid:
                    wrong.append(f"{at}.{length}: a UID of {name!r} is given again")
                elif index.next_modseq(folder) <= modseq:
                    wrong.append(f"{at}.{length}: a MODSEQ of {name!r} is given again")
            index.rollback()
            index.close()
            shutil.rmtree(place)
    return wrong


def test_no_number_that_was_seen_is_given_again_after_a_crash_but_without_a_sync_it_would_be(
    tmp_path: Path,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "life").mkdir()
        life = Life(tmp_path / "life", patch)
        work(life)
    assert given_again(life.moments, tmp_path) == []
    assert life.syncs >= 5
    blind = []
    for ignored in range(life.syncs):
        with pytest.MonkeyPatch.context() as patch:
            directory = tmp_path / f"life{ignored}"
            directory.mkdir()
            without = Life(directory, patch, ignored)
            work(without)
        if not given_again(without.moments, tmp_path):
            blind.append(ignored)
    assert blind == [], "syncs that are not needed, or the check is blind"
