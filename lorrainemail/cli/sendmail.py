"""``sendmail``, ``mailq`` and ``newaliases``: what cron, PHP, mutt and mail(1) call.

The options of old that still mean something are honoured, the others are taken and ignored, as other servers
do. A message goes to the running server by its UNIX socket and is durable there when this exits with 0; to
all recipients or, with a word on standard error, to none. Exit statuses are those of sysexits(3); 75 (try
again) where no server runs. Starts quickly: what a call does not need is not imported.
"""

from __future__ import annotations

import os
import pwd
import select
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

from lorrainemail.cli.handover import (
    CHUNK,
    CONFIGURATION,
    DATA_ERROR,
    OS_ERROR,
    PATIENCE,
    SOCKET_NAME,
    TRY_AGAIN,
    USAGE,
    Draft,
    HandoverError,
    Link,
    connect,
    quoted,
)

#: Options with a value, in the same word or the next; those that we do not know the use of are ignored.
_WITH_VALUE: Final = frozenset("ABCFLNORVXbefhopr")
#: Of these the value stands in the same word or not at all.
_VALUE_IN_WORD: Final = frozenset("dq")
#: Options without a value.
_FLAGS: Final = frozenset("GIUcimnstvx")


class Options:
    """The command line, as sendmail reads it."""

    def __init__(self, words: Sequence[str]) -> None:
        self.mode = "m"
        self.sender: str | None = None
        self.full_name = ""
        self.from_header = False
        self.ignore_dots = False
        self.flush_queue = False
        self.verbose = False
        self.config: str | None = None
        self.state: str | None = None
        self.recipients: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.recipients += rest
                return
            if word in ("--config", "--state"):
                setattr(self, word[2:], _value(word, "", rest))
            elif word.startswith("-") and word != "-":
                self._letters(word[1:], rest)
            else:
                self.recipients.append(word)

    def _letters(self, letters: str, rest: list[str]) -> None:
        """One word of options, as ``-ti``, ``-oi``, ``-fbob@x.org``."""
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in _VALUE_IN_WORD:
                self.flush_queue = self.flush_queue or letter == "q"
                return
            if letter in _WITH_VALUE:
                self._set(letter, _value(f"-{letter}", letters, rest))
                return
            if letter not in _FLAGS:
                raise HandoverError(USAGE, f"unknown option -{letter}")
            self._set(letter, "")

    def _set(self, letter: str, value: str) -> None:
        if letter in "fr":
            self.sender = value
        elif letter == "F":
            self.full_name = value
        elif letter == "t":
            self.from_header = True
        elif letter == "i" or (letter == "o" and value.startswith("i")):
            self.ignore_dots = True
        elif letter == "b":
            self.mode = value
        elif letter == "v":
            self.verbose = True
        elif letter == "C":
            self.config = value


def _value(option: str, in_word: str, rest: list[str]) -> str:
    if in_word:
        return in_word
    if not rest:
        raise HandoverError(USAGE, f"{option} needs a value")
    return rest.pop(0)


def main(words: Sequence[str] | None = None) -> int:
    """``sendmail``."""
    return _guarded("sendmail", lambda: _sendmail(Options(sys.argv[1:] if words is None else words)))


def mailq(words: Sequence[str] | None = None) -> int:
    """``mailq``: what waits in the queue."""
    return _guarded("mailq", lambda: _queue(Options(sys.argv[1:] if words is None else words)))


def newaliases(words: Sequence[str] | None = None) -> int:
    """``newaliases``: the server reads the file ``aliases`` by itself; this says whether it can."""
    return _guarded("newaliases", lambda: _aliases(Options(sys.argv[1:] if words is None else words)))


def _guarded(name: str, run: Callable[[], int]) -> int:
    try:
        return run()
    except HandoverError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"{name}: {error.strerror or error}", file=sys.stderr)
        return OS_ERROR
    except KeyboardInterrupt:
        return 130


def _sendmail(options: Options) -> int:
    if options.mode == "p":
        return _queue(options)
    if options.mode == "i":
        return _aliases(options)
    if options.mode == "s":
        return _pipe(_socket(options))
    if options.mode != "m":
        raise HandoverError(USAGE, f"-b{options.mode} is not offered (the server is twistd lorrainemail)")
    if options.flush_queue and not options.recipients and not options.from_header:
        # The server tries what is due by itself.
        return 0
    return _send(options)


def _send(options: Options) -> int:
    draft = Draft(sys.stdin.buffer, dot_ends=not options.ignore_dots)
    recipients = [
        _unquoted(word) for words in options.recipients for word in words.split(",") if word.strip()
    ]
    if options.from_header:
        recipients += draft.recipients()
    recipients = list(dict.fromkeys(recipients))
    if not recipients:
        raise HandoverError(USAGE, "no recipients: name them, or use -t and a To field")
    link = Link(_socket(options))
    try:
        link.greet()
        domain = _Domain(options, link.hostname)
        user = _user()
        # "-f <>" and "-f ''" are the null reverse-path, as bounces have it.
        sender = quoted(user) if options.sender is None else _unquoted(options.sender)
        sender = domain.qualify(sender) if sender else ""
        author = sender or domain.qualify(quoted(user))
        draft.complete(author, options.full_name or os.environ.get("NAME", ""), link.hostname)
        reply = link.send(draft, sender, [domain.qualify(recipient) for recipient in recipients])
    finally:
        link.close()
    if options.verbose:
        print(reply)
    return 0


def _unquoted(word: str) -> str:
    """An address of the command line, out of its angle brackets."""
    word = word.strip()
    return word[1:-1].strip() if word.startswith("<") and word.endswith(">") else word


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid{os.getuid()}"


class _Domain:
    """What an address without a domain gets: the server's first local domain, else its name."""

    def __init__(self, options: Options, hostname: str) -> None:
        self._options = options
        self._hostname = hostname
        self._domain = ""

    def qualify(self, address: str) -> str:
        if "@" in address:
            return address
        if not self._domain:
            self._domain = self._find()
        return f"{address}@{self._domain}"

    def _find(self) -> str:
        from lorrainemail.config.load import load, locate
        from lorrainemail.errors import ConfigurationError

        try:
            settings = load(locate(self._options.config, self._options.state))
        except ConfigurationError:
            # Not for this user to read, perhaps; the server greets with its name.
            return self._hostname
        return settings.local_domains[0] if settings.local_domains else settings.hostname


def _state(options: Options) -> str:
    """The server's state directory."""
    if options.state and not options.config:
        return os.path.abspath(options.state)
    from lorrainemail.config.load import locate
    from lorrainemail.errors import ConfigurationError

    try:
        return locate(options.config, options.state).state
    except ConfigurationError as error:
        raise HandoverError(CONFIGURATION, str(error)) from None


def _socket(options: Options) -> str:
    """Where the server takes messages from programs: the one in the state directory where we may reach it,
    else the one that the configuration opens to all."""
    state = _state(options)
    own = os.path.join(state, SOCKET_NAME)
    if os.access(own, os.W_OK):
        return own
    from lorrainemail.config.load import load, locate
    from lorrainemail.config.values import unix_path
    from lorrainemail.errors import ConfigurationError

    try:
        opened = load(locate(options.config, options.state)).listen.local
    except ConfigurationError:
        return own  # not for this user to read, perhaps
    return os.path.join(state, next(filter(None, map(unix_path, opened)), own))


def _pipe(path: str) -> int:
    """``-bs``: SMTP between standard input and output and the server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connect(connection, path)
        source, sink = sys.stdin.fileno(), sys.stdout.fileno()
        last = b"\n"
        open_ends = [connection.fileno(), source]
        while True:
            ready, _, _ = select.select(open_ends, [], [], None if source in open_ends else PATIENCE)
            if not ready:
                return TRY_AGAIN
            if connection.fileno() in ready:
                data = connection.recv(CHUNK)
                if not data:
                    return 0
                while data:
                    data = data[os.write(sink, data) :]
            elif source in ready:
                data = os.read(source, CHUNK)
                if not data:
                    # The end is QUIT, so that what was asked before is answered before.
                    open_ends.remove(source)
                    data = b"QUIT\r\n" if last == b"\n" else b"\r\nQUIT\r\n"
                last = data[-1:]
                try:
                    connection.sendall(data)
                except (BrokenPipeError, ConnectionResetError):
                    # It has ended already; its last words are read above.
                    open_ends = [connection.fileno()]


def _queue(options: Options) -> int:
    """The operator's own command shows it."""
    from lorrainemail.cli.main import main as lorrainemail

    words = ["queue", "list"]
    for name in ("config", "state"):
        value = getattr(options, name)
        words += [f"--{name}", value] if value else []
    return lorrainemail(words)


def _aliases(options: Options) -> int:
    from lorrainemail.tables.aliases import parse_aliases
    from lorrainemail.tables.textfile import read_octets

    path = os.path.join(_state(options), "aliases")
    try:
        rows, problems, warnings = parse_aliases(read_octets(path).decode("utf-8"), path)
    except FileNotFoundError:
        print(f"{path}: there is no such file, so no aliases")
        return 0
    except ValueError as error:
        raise HandoverError(DATA_ERROR, f"{path}: {error}") from None
    for problem in (*problems, *warnings):
        print(problem, file=sys.stderr)
    if problems:
        print(f"{path}: the server keeps the aliases that it had", file=sys.stderr)
        return DATA_ERROR
    print(f"{path}: {len(rows)} aliases; the server sees changes by itself")
    return 0


if __name__ == "__main__":
    sys.exit(main())
