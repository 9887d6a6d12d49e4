"""``twistd lorrainemail``: the options, and everything that can fail at a start, before twistd forks.

twistd imports this module for ``--help`` and ``--version``, so what makes a server is imported only when one
is made. :func:`makeService` reads the configuration, locks the state, opens every port, makes what is missing
and composes the server; whatever is wrong leaves it as one line and exit status 1, with nothing half-made.
It runs before twistd's umask, chdir, fork and change of user: paths are absolute, modes explicit, and what it
makes is handed to that user. No thread starts before ``startService``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from twisted.python import usage

from lorrainemail.version import VERSION

if TYPE_CHECKING:
    from twisted.application.service import Service

    from lorrainemail.setup.state import Owner, Undo


class Options(usage.Options):
    """What stands after ``twistd lorrainemail``."""

    synopsis = "[--config=FILE] [--state=DIRECTORY]"
    longdesc = (
        "A complete mail server: SMTP, POP3 and IMAP. Without any configuration it serves example.test on "
        "loopback, in ./lorrainemail-state. In the foreground: twistd -n lorrainemail"
    )
    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", None, "The configuration file (default: lorrainemail.toml in the state directory)."],
        ["state", "s", None, "The directory that holds mail, queue, accounts and keys."],
    ]

    def opt_version(self) -> None:
        """Display the version and exit."""
        print(f"lorrainemail {VERSION}")
        sys.exit(0)

    def parseArgs(self, *words: str) -> None:
        if words:
            raise usage.UsageError(f'"{words[0]}" is not understood; commands are those of "lorrainemail"')


def makeService(options: Options) -> Service:
    """The whole server, ready to start.

    :raises SystemExit: with one line for each thing that is wrong.
    """
    from lorrainemail.errors import ConfigurationError
    from lorrainemail.setup.failure import StartError
    from lorrainemail.setup.state import Undo

    # Until the server can reload, a hang-up must not end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Undo() as undo:
        try:
            _check_paths(options)
            service = _make(options, _owner(options), undo)
        except ConfigurationError as error:
            raise SystemExit("\n".join(f"lorrainemail: {problem}" for problem in error.problems)) from None
        except StartError as error:
            raise SystemExit(f"lorrainemail: {error}") from None
        undo.keep_all()
    return service


def _check_paths(options: Options) -> None:
    """twistd's own files: it looks for their directories only when it is too late for a clear word."""
    from lorrainemail.setup.failure import StartError

    parent: Any = options.parent or {}
    rundir = os.path.abspath(parent.get("rundir") or ".")
    files = [("rundir", rundir)]
    if parent.get("pidfile"):
        # opened when twistd has gone to its --rundir
        files.append(("pidfile", os.path.dirname(os.path.join(rundir, parent["pidfile"]))))
    if parent.get("logfile") not in (None, "", "-"):
        files.append(("logfile", os.path.dirname(os.path.abspath(parent["logfile"]))))
    for name, directory in files:
        if not os.path.isdir(directory):
            raise StartError(f"there is no directory {directory}", f"make it, or change --{name}")


def _owner(options: Options) -> Owner:
    from lorrainemail.setup.failure import StartError
    from lorrainemail.setup.state import Owner

    parent: Any = options.parent or {}
    if parent.get("chroot"):
        raise StartError("--chroot is not possible", "use --uid and --gid, or the systemd unit in etc/")
    if parent.get("euid"):
        raise StartError("--euid is not possible, as the server could become root again", "leave it out")
    uid, gid = parent.get("uid"), parent.get("gid")
    if uid is not None and gid is None:
        try:
            gid = pwd.getpwuid(uid).pw_gid  # as twistd will
        except KeyError:
            raise StartError(f"the user {uid} of --uid has no group known here", "add --gid") from None
    return Owner(uid, gid)


def _make(options: Options, owner: Owner, undo: Undo) -> Service:
    from twisted.internet import reactor

    from lorrainemail.config.load import load, locate
    from lorrainemail.control.words import SOCKET_NAME
    from lorrainemail.ops.log import observer
    from lorrainemail.ops.steady import SteadyClock
    from lorrainemail.service import make_server
    from lorrainemail.setup.first_start import prepare
    from lorrainemail.setup.greeting import greeting
    from lorrainemail.setup.ports import bind_all
    from lorrainemail.setup.running import Running, lock_state, raise_file_limit
    from lorrainemail.setup.state import open_state
    from lorrainemail.setup.state_version import require_known, take_note

    cast(Any, reactor).seconds = SteadyClock().seconds
    located = locate(options["config"], options["state"])
    settings = load(located)
    open_state(settings.state, owner, undo)
    lock = lock_state(settings.state, owner, undo)
    require_known(settings.state)
    where = settings.file or "the built-in default"
    sockets = [
        ("control", os.path.join(settings.state, SOCKET_NAME), 0o600),
        ("local", os.path.join(settings.state, "submit.sock"), 0o666),
    ]
    ports = bind_all(settings.listen, settings.state, owner, undo, where, sockets)
    loopback = tuple(dict.fromkeys(port.host for port in ports if port.loopback))
    prepared = prepare(settings, located, owner, undo, loopback)
    take_note(settings.state, owner, undo)
    server = make_server(settings, prepared.located, reactor, ports)
    root = (os.geteuid() if owner.uid is None else owner.uid) == 0
    with contextlib.suppress(OSError, ValueError):  # nobody reads, or there is no output at all
        print(greeting(settings, prepared, ports, root), flush=True)
    raise_file_limit()
    return Running(reactor, server, lock, partial(observer, options.parent or {}, reactor))
