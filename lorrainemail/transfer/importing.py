"""The import of one account: folder after folder, in small steps, each durable before the next.

Goes by what the store remembers of earlier runs: a message that was taken once is not even read again.
Memory is bounded by one step's messages (:data:`STEP_OCTETS`, or one message, which is streamed) and by the
marks of one folder. Blocking. Failures: SourceError and Refused end the account's import, and what was taken
until then stays; the next run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs

from lorrainemail.control.words import Refused
from lorrainemail.store.taking import Incoming
from lorrainemail.transfer.access import Access
from lorrainemail.transfer.sources import Mark, Source, SourceError, SourceFolder
from lorrainemail.transfer.staging import Stage, all_out

#: Messages that the store is asked about at once.
PAGE: Final = 500
#: Messages, and octets, of one step.
STEP: Final = 100
STEP_OCTETS: Final = 32 << 20

#: Told (folder, messages looked at, messages of the folder).
Progress = Callable[[str, int, int], None]
#: Of messages of a folder, by their keys: which need not be taken.
Known = Callable[[str, list[str]], set[int]]


@attrs.define(slots=True)
class Tally:
    """What came of it.

    :ivar taken: new here; ``known``: were here, or had been; ``gone``: vanished at the source meanwhile, or
        could not be read.
    :ivar kept: folders that have the source's UIDs.
    """

    folders: int = 0
    taken: int = 0
    known: int = 0
    gone: int = 0
    kept: int = 0
    faults: list[str] = attrs.field(factory=list)

    def add(self, other: Tally) -> None:
        """Together with another account's."""
        self.folders += other.folders
        self.taken += other.taken
        self.known += other.known
        self.gone += other.gone
        self.kept += other.kept
        self.faults += other.faults


def import_account(
    access: Access,
    stage: Stage,
    source: Source,
    address: str,
    wanted: Callable[[str], bool],
    progress: Progress,
    known: Known,
) -> Tally:
    """Import one account.

    :param wanted: whether a folder, by its name here, is to be taken.
    :param known: tells what need not be read: :func:`taken_before`, or what else there is to go by.
    """
    tally = Tally()
    for folder in source.folders():
        if not wanted(folder.name):
            continue
        try:
            _import_folder(access, stage, source, address, folder, progress, known, tally)
        except (SourceError, Refused) as error:
            tally.faults.append(f"{address}: {folder.name}: {error}")
        except FileNotFoundError as error:
            tally.faults.append(f"{address}: {folder.name}: {error.filename}: {error.strerror}")
        tally.folders += 1
    return tally


def taken_before(access: Access, address: str) -> Known:
    """What earlier imports took, whether it is still there or not."""
    return lambda folder, keys: set(access("import.known", address=address, folder=folder, keys=keys))


def nothing(folder: str, keys: list[str]) -> set[int]:
    """Everything is to be taken that is not there."""
    return set()


def _import_folder(
    access: Access,
    stage: Stage,
    source: Source,
    address: str,
    folder: SourceFolder,
    progress: Progress,
    known: Known,
    tally: Tally,
) -> None:
    prepared = access(
        "import.prepare",
        address=address,
        folder=folder.name,
        uid_validity=folder.uid_validity,
        special_use=list(folder.special_use),
        subscribed=folder.subscribed,
    )
    keep = bool(prepared["keeps"])
    marks = source.marks(folder)
    looked = 0
    progress(folder.name, 0, len(marks))
    for page in _pages(marks):
        before = known(folder.name, [mark.key for mark in page])
        new = [mark for at, mark in enumerate(page) if at not in before]
        tally.known += len(before)
        found = 0
        for step in _steps(stage, source, folder, new):
            found += len(step)
            stage.sync()
            placed = access(
                "import.place",
                address=address,
                folder=folder.name,
                stage=stage.name,
                messages=all_out(step),
                keep=keep,
                uid_next=folder.uid_next,
            )
            tally.taken += placed
            tally.known += len(step) - placed
            progress(folder.name, looked + len(before) + found, len(marks))
        tally.gone += len(new) - found
        looked += len(page)
        progress(folder.name, looked, len(marks))
    if keep:
        tally.kept += 1
        if folder.uid_next:
            access("import.finish", address=address, folder=folder.name, uid_next=folder.uid_next, keep=True)


def _pages(marks: Sequence[Mark]) -> Iterator[Sequence[Mark]]:
    for start in range(0, len(marks), PAGE):
        yield marks[start : start + PAGE]


def _steps(
    stage: Stage, source: Source, folder: SourceFolder, marks: Sequence[Mark]
) -> Iterator[list[Incoming]]:
    """Messages written into the stage, a step's worth at a time."""
    step: list[Incoming] = []
    octets = 0
    for message in source.messages(folder, marks):
        try:
            one = stage.write(message)
        except FileNotFoundError:
            continue  # renamed or removed this very moment; the next run looks again
        step.append(one)
        octets += one.size
        if len(step) >= STEP or octets >= STEP_OCTETS:
            yield step
            step, octets = [], 0
    if step:
        yield step


def summary(tally: Tally) -> dict[str, Any]:
    """For ``--json``."""
    return attrs.asdict(tally)
