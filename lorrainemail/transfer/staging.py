"""Files of messages that are moved in, written here and synced, for the store to put in their place.

One directory below ``spill/`` of the state, on the file system of the mailboxes, which goes at the end; what
a killed import left there is removed by the next. Where root gives the command the files are handed to the
owner of the state. Blocking; fails with OSError.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from typing import Final, Self

from lorrainemail.ops.files import SYSTEM
from lorrainemail.store.placement import Measured
from lorrainemail.store.taking import Incoming, base_name
from lorrainemail.transfer.sources import Message, as_wire

#: Names of staging directories; the last part is the process that made it.
STAGE: Final = re.compile(r"import-[0-9a-f]{8}-([0-9]{1,10})\Z")
#: Names of files in them.
STAGED: Final = re.compile(r"[0-9]{1,12}\Z")


class Stage:
    """A staging directory."""

    def __init__(self, spill: str) -> None:
        owner = os.stat(spill)
        self._owner = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None
        _sweep(spill)
        self.name = f"import-{secrets.token_hex(4)}-{os.getpid()}"
        self.path = os.path.join(spill, self.name)
        os.mkdir(self.path, 0o700)
        if self._owner is not None:
            os.chown(self.path, *self._owner)
        self._count = 0
        self._unsynced: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_failure: object) -> None:
        self.sync()
        _remove(self.path)

    def write(self, message: Message) -> Incoming:
        """Write one message in its form on disk. It is not synced yet."""
        self._count += 1
        path = f"{self.path}/{self._count}"
        descriptor = SYSTEM.open(path)
        try:
            measured = _write(descriptor, message)
            if measured.raw:
                # A bare CR or LF: kept as it came.
                os.lseek(descriptor, 0, os.SEEK_SET)
                SYSTEM.truncate(descriptor, 0)
                for chunk in as_wire(message):
                    SYSTEM.write(descriptor, (chunk,))
            if self._owner is not None:
                os.fchown(descriptor, *self._owner)
            date = max(message.date, 0)
            os.utime(descriptor, (date, date))
            SYSTEM.begin_sync(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._unsynced.append(descriptor)
        base = base_name(message.mark.key, date, message.order, measured.disk, measured.wire, measured.raw)
        if message.email_id:
            base += f",E={message.email_id}"
        return Incoming(message.mark.key, path, base, message.flags, date, measured.wire, message.uid)

    def sync(self) -> None:
        """All that was written is on stable storage."""
        while self._unsynced:
            descriptor = self._unsynced.pop()
            try:
                SYSTEM.fsync(descriptor)
            finally:
                SYSTEM.close(descriptor)


def _write(descriptor: int, message: Message) -> Measured:
    """Write with LF; what is measured says whether that is possible."""
    disk = wire = pairs = feeds = returns = 0
    held = b""
    for chunk in message.octets():
        data = held + chunk
        held = data[-1:] if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)]
        returns_here = data.count(b"\r")
        feeds_here = data.count(b"\n")
        pairs_here = data.count(b"\r\n") if returns_here else 0
        out = data.replace(b"\r\n", b"\n") if pairs_here else data
        SYSTEM.write(descriptor, (out,))
        pairs, feeds, returns = pairs + pairs_here, feeds + feeds_here, returns + returns_here
        disk += len(out)
        wire += len(out) + feeds_here
    if held:
        SYSTEM.write(descriptor, (held,))
        returns, disk, wire = returns + 1, disk + 1, wire + 1
    # A lone CR cannot be told from a line's end later; a lone LF only where the source's form has none.
    raw = returns != pairs or (message.wire and feeds != pairs)
    if raw:
        disk = wire = sum(map(len, as_wire(message)))
    return Measured(disk, wire, raw)


def _sweep(spill: str) -> None:
    """Remove what killed imports left."""
    for name in os.listdir(spill):
        match = STAGE.match(name)
        if match is not None and not _alive(int(match.group(1))):
            _remove(os.path.join(spill, name))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: str) -> None:
    for name in os.listdir(path):
        os.unlink(f"{path}/{name}")
    os.rmdir(path)


def incoming_out(one: Incoming) -> list[object]:
    """As it goes over the control socket: the file by its name in the stage."""
    return [one.key, os.path.basename(one.path), one.base, list(one.flags), one.date, one.size, one.uid]


def all_out(incoming: Iterable[Incoming]) -> list[list[object]]:
    """Several."""
    return [incoming_out(one) for one in incoming]
