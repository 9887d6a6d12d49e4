"""A command line as an alias or a row names it, parted into words: never by a shell.

Used by the tables and the configuration, which refuse a line that only a shell would understand, and by the
courier that runs it. Pure.
"""

from __future__ import annotations

import re
from typing import Final

#: Characters of a command line, and words in it.
MAX_LINE: Final = 1000
MAX_WORDS: Final = 50

# What a shell would do something with; outside of quotes it shows that a shell was meant.
_SHELL = re.compile(r"[$`;&|<>*?~\[\]{}()!#\\]")
_WORD = re.compile(r"""\s*(?:"([^"$`\\]*)"|'([^']*)'|([^\s"']+))(?=\s|\Z)""")


def words_of(line: str) -> tuple[str, ...]:
    """The words of a command line: the program, by its absolute path, and its arguments as they are.

    Words are parted by white space; quotation marks, single or double, keep one together.

    :raises ValueError: saying what is wrong; what to do stands behind a semicolon.
    """
    if len(line) > MAX_LINE or not line.isprintable():
        raise ValueError("the command is too long or has a control character; shorten it")
    words: list[str] = []
    at = 0
    rest = line.strip()
    while at < len(rest):
        match = _WORD.match(rest, at)
        if match is None:
            raise ValueError(
                f"the command cannot be parted at {rest[at : at + 20]!r}; put each word in quotation marks"
            )
        double, single, bare = match.groups()
        if bare is not None and _SHELL.search(bare):
            raise ValueError(
                f"the word {bare!r} needs a shell, and commands run without one; "
                "put what it does into a script and name that"
            )
        words.append(bare if bare is not None else single if single is not None else double)
        at = match.end()
    if len(words) > MAX_WORDS:
        raise ValueError(f"the command has more than {MAX_WORDS} words; put it into a script")
    if not words or not words[0].startswith("/"):
        raise ValueError("the command does not begin with an absolute path; write /path/to/program")
    return tuple(words)
