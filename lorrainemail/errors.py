"""The failures that cross packages, and nothing else.

Every failure that one package hands to another is a :class:`MailError`: permanent or temporary, with the
:class:`Reply` that a client may see and a private ``detail`` for the log. A door that catches anything else
answers ``451 4.3.0`` (or its protocol's like) and logs the Failure: no exception text reaches a client.

Callers: everybody. Invariant: ``Reply.text`` is one line of printable text without secrets.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen(slots=True)
class Reply:
    """An SMTP reply (RFC 5321 §4.2) with its enhanced status code (RFC 3463).

    :ivar code: the three-digit reply code.
    :ivar enhanced: "class.subject.detail", or "" where the protocol forbids one (greeting, EHLO, 3xx).
    :ivar text: the words; a newline separates the lines of a multi-line reply.
    """

    code: int
    enhanced: str
    text: str

    @property
    def permanent(self) -> bool:
        return 500 <= self.code <= 599

    @property
    def temporary(self) -> bool:
        return 400 <= self.code <= 499

    @property
    def positive(self) -> bool:
        return self.code < 400

    def wire(self) -> bytes:
        """The reply as it goes over the line, multi-line where the text is (RFC 5321 §4.2.1)."""
        lines = self.text.split("\n")
        prefix = f"{self.enhanced} " if self.enhanced else ""
        last = len(lines) - 1
        return "".join(
            f"{self.code}{' ' if i == last else '-'}{prefix}{line}\r\n" for i, line in enumerate(lines)
        ).encode("utf-8", "replace")

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"


class MailError(Exception):
    """A failure with a public reply and a private detail.

    :ivar reply: what the client or the sender is told.
    :ivar detail: what the operator finds in the log; never sent.
    """

    def __init__(self, reply: Reply, detail: str = "") -> None:
        super().__init__(str(reply) + (f" ({detail})" if detail else ""))
        self.reply = reply
        self.detail = detail


class PermanentError(MailError):
    """Trying again will not help; the reply is 5xx."""


class TemporaryError(MailError):
    """It may work later; the reply is 4xx."""


@attrs.frozen(slots=True)
class Problem:
    """One fault of a configuration or table file, with the way to mend it.

    :ivar where: the file's path, or "" where there is none (the embedded default, an option).
    :ivar line: the line in it, from 1; 0 where unknown.
    :ivar what: what is wrong.
    :ivar mend: what to do.
    """

    where: str
    line: int
    what: str
    mend: str

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        place = f"{self.where}{line}: " if self.where else ""
        return f"{place}{self.what}" + (f" ({self.mend})" if self.mend else "")


@attrs.frozen(slots=True)
class Origin:
    """Where a setting or a row was written: file and line ("" and 0 for the embedded default)."""

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        if not self.file:
            return "built-in default"
        return f"{self.file}:{self.line}" if self.line else self.file


#: The embedded default.
BUILT_IN: Final = Origin()


class ConfigurationError(Exception):
    """The configuration cannot be used; carries every problem found, not just the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


#: What any unexpected failure becomes at the SMTP door.
INTERNAL_ERROR = Reply(451, "4.3.0", "Internal error, try again later")
#: A shortage of disk on our side: nothing was kept, the sender should try again (RFC 5321 §4.2.3).
STORAGE_FULL = Reply(452, "4.3.1", "Insufficient system storage, try again later")
