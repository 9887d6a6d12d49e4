"""One table file on disk: read whole within a bound, noticed when it changes, kept when it breaks.

:class:`TableFile` is used by the file backend only; :func:`read_octets` also by edits. Blocking, except
:meth:`TableFile.changed`, which is one ``stat``. Invariant: ``rows`` is always a version that parsed whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.tables.stamp import Stamp, digest

#: The tables that commands and operators edit in the state directory.
TABLE_FILES: Final = ("domains", "accounts", "aliases", "credentials")
#: A larger table belongs into a database backend.
MAX_FILE: Final = 64 * 2**20
#: Problems shown of one file.
MAX_PROBLEMS: Final = 50

Row = TypeVar("Row")
#: Text and file name to rows, problems (the file is refused) and warnings (it is not).
Parser = Callable[[str, str], tuple[list[Row], list[Problem], list[Problem]]]
Signature = tuple[int, int, int, int, int, int]
_ABSENT: Final[Signature] = (0, 0, 0, 0, 0, 0)
#: What to do when rows are missing.
CONFIRM: Final = 'put them back, or say that it is meant with "lorrainemail check --confirm"'


def read_octets(path: str) -> bytes:
    """A regular file's octets; ValueError where it is none or too large."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is no regular file")
        octets = stream.read(MAX_FILE + 1)
    if len(octets) > MAX_FILE:
        raise ValueError(f"is larger than {MAX_FILE} octets")
    return octets


def count_rows(octets: bytes) -> int:
    """Lines that are neither blank nor comments: enough to see that most of them went."""
    lines = (line.strip() for line in octets.split(b"\n"))
    return sum(1 for line in lines if line and not line.startswith(b"#"))


class TableFile(Generic[Row]):
    """The rows of one file.

    :ivar rows: of the newest version that could be used.
    :ivar stamp: what that version is.
    :ivar problems: why the file as it stands now is not used; empty while it is.
    :ivar warnings: rows that are used but cannot mean what was meant.
    """

    def __init__(self, state: str, name: str, parse: Parser[Row], secret: bool = False) -> None:
        """:param secret: refuse a file that others than its owner may read."""
        self.name = name
        self.path = os.path.join(state, name)
        self.rows: list[Row] = []
        self.stamp = Stamp(digest(b""), 0)
        self.problems: tuple[Problem, ...] = ()
        self.warnings: tuple[Problem, ...] = ()
        self._parse = parse
        self._secret = secret
        self._count = 0
        self._seen: Signature | None = None
        self._doubted: Signature | None = None

    def changed(self, closely: bool = True) -> bool:
        """Whether the file is another one than when it was last looked at. Closely: also while it is doubted,
        because a stamp may have confirmed it meanwhile."""
        return (closely and self._doubted is not None) or self._signature() != self._seen

    @property
    def size(self) -> int:
        """Octets that stand there now."""
        return self._signature()[2]

    def load(self, stamp: Stamp | None) -> None:
        """First reading; where rows are known to have been there, their absence is an error."""
        self._seen = self._signature()
        found = self._read()
        if found is None:
            raise ConfigurationError(self.problems)
        octets, rows = found
        meant = stamp is None or stamp.digest == digest(octets)
        if stamp is not None and not meant and len(rows) * 2 < stamp.rows:
            left = f"has {len(rows) or 'no'} row{'s' * (len(rows) > 1)}"
            gone = "is missing" if self._seen == _ABSENT else left
            problem = Problem(self.path, 0, f"{gone}, where there were {stamp.rows}", CONFIRM)
            raise ConfigurationError((problem,))
        self._accept(octets, rows)

    def refresh(self, stamp: Stamp | None, confirmed: bool = False) -> bool:
        """Look again; whether ``rows`` changed.

        A file that does not parse, or lost all or more than half of its rows without a word of the operator,
        keeps its old version. One that merely shrank in place may be in the middle of being written: it is
        used when it stands still until the next look.
        """
        signature = self._signature()
        if signature == self._seen and self._doubted is None and not confirmed:
            return False
        same = signature == self._seen
        previous, self._seen = self._seen, signature
        found = self._read()
        if found is None:
            self._doubted = None
            return False
        octets, rows = found
        meant = confirmed or (stamp is not None and stamp.digest == digest(octets))
        if not meant and self._count and (not rows or len(rows) * 2 < self._count):
            self._doubted = signature
            self.problems = (Problem(self.path, 0, self._loss(signature, len(rows)), CONFIRM),)
            return False
        in_place = previous is not None and previous[:2] == signature[:2]
        if not meant and not same and in_place and len(rows) < self._count:
            self._doubted = signature
            return False
        self._accept(octets, rows)
        return True

    def _accept(self, octets: bytes, rows: list[Row]) -> None:
        self.rows = rows
        self.stamp = Stamp(digest(octets), len(rows))
        self._count = len(rows)
        self.problems = ()
        self._doubted = None

    def _loss(self, signature: Signature, rows: int) -> str:
        if signature == _ABSENT:
            return f"is gone; its {self._count} rows stay in use"
        if not rows:
            return f"has become empty; its {self._count} rows stay in use"
        return f"has only {rows} of {self._count} rows left; the old ones stay in use"

    def _signature(self) -> Signature:
        try:
            found = os.stat(self.path)
        except OSError:
            return _ABSENT
        return (
            found.st_dev,
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            stat.S_IMODE(found.st_mode),
        )

    def _read(self) -> tuple[bytes, list[Row]] | None:
        """Octets and rows, or None with :attr:`problems` set."""
        try:
            octets = read_octets(self.path)
            if self._secret and os.stat(self.path).st_mode & 0o077:
                mode = "can be read by others than its owner"
                self.problems = (Problem(self.path, 0, mode, f"chmod 600 {self.path}"),)
                return None
            text = octets.decode("utf-8-sig")
        except FileNotFoundError:
            self.warnings = ()
            return b"", []
        except UnicodeDecodeError as error:
            line = octets[: error.start].count(b"\n") + 1
            self.problems = (Problem(self.path, line, "is not UTF-8 text", "save the file as UTF-8"),)
            return None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            mend = "make it a text file that the server's user may read"
            self.problems = (Problem(self.path, 0, f"cannot be read: {reason}", mend),)
            return None
        rows, problems, warnings = self._parse(text, self.path)
        if problems:
            self.problems = tuple(problems[:MAX_PROBLEMS])
            return None
        self.warnings = tuple(warnings[:MAX_PROBLEMS])
        return octets, rows
