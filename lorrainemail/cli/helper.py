"""``lorrainemail-helper``: runs configured commands as the user whose mail it is, and nothing else.

The server never runs as root; this small program does, and only where the operator starts it (systemd hands
it its socket, or ``--socket`` names one). It listens to one user of the machine, the server's (the kernel
tells who connects), takes from him an account, a command and a message, and looks both names up in its own
configuration, which only root may write::

    server = "lorrainemail"
    [accounts]
    "bob@bricoleur.com" = "bob"
    [commands]
    "/usr/bin/procmail" = ["/usr/bin/procmail", "-m", "/etc/procmail/mail.rc"]
    spool = ["/usr/bin/procmail", "-d", "%u"]

The key of a command is what stands behind the ``|`` in a ``.forward``; ``%u`` in a word of its own is the
user. Neither is ever taken from the message or from whoever asks. The command runs in a process of its own
with that user's number and groups, in his home, with a clean environment and bounded time, memory and output.
The standard library alone; no word of the mail is looked at.

A request is one JSON line with the message's descriptor beside it, ``{"version": 1, "account": ...,
"command": ..., "environment": {...}}``; the answer one JSON line, ``{"status": ..., "output": ...}`` or
``{"error": ...}``. A negative status is the signal that ended the command.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

CONFIGURATION: Final = "/etc/lorrainemail/helper.toml"
#: Octets of a request and of a command's output; seconds to send a request; commands at once.
MAX_REQUEST: Final = 16 * 1024
MAX_OUTPUT: Final = 64 * 1024
KEPT_OUTPUT: Final = 2048
REQUEST_TIME: Final = 10
AT_ONCE: Final = 20
#: Octets of a configuration, and the least number of a user whom commands may run as.
MAX_CONFIGURATION: Final = 2**20
LEAST_UID: Final = 100
#: The first descriptor that systemd hands over (sd_listen_fds(3)).
FIRST: Final = 3
EX_TEMPFAIL: Final = 75

#: What the server may say to a command, and the characters of it.
_VARIABLES: Final = frozenset(
    ["SENDER", "RECIPIENT", "ORIGINAL_RECIPIENT", "LOCAL", "DOMAIN", "HOST", "EXTENSION", "EXT", "MESSAGE_ID"]
)
_HARMFUL: Final = re.compile(r"[^A-Za-z0-9!@%_=+:,./-]")


class Refused(Exception):
    """The request is not answered as it wishes; the text is the answer's ``error``."""


class Configuration(NamedTuple):
    """Who may ask, for whom, and what for."""

    server: int
    accounts: Mapping[str, str]
    commands: Mapping[str, Sequence[str]]
    time: int
    memory: int


def main(words: Sequence[str] | None = None) -> int:
    """Serve until ended."""
    parser = argparse.ArgumentParser(
        prog="lorrainemail-helper",
        description="Runs the commands of its own configuration as the users whose mail it is.",
    )
    parser.add_argument("--config", default=CONFIGURATION, help=f"default {CONFIGURATION}")
    parser.add_argument("--socket", help="listen here; without it, at the socket that systemd hands over")
    parser.add_argument("--check", action="store_true", help="read the configuration and end")
    arguments = parser.parse_args(words)
    try:
        configuration = read(arguments.config)
    except (OSError, ValueError) as error:
        print(f"lorrainemail-helper: {arguments.config}: {error}", file=sys.stderr)
        return 1
    if arguments.check:
        return 0
    listener = _listener(arguments.socket, configuration.server)
    if listener is None:
        print("lorrainemail-helper: no socket: give --socket, or let systemd start it", file=sys.stderr)
        return 2
    serve(listener, arguments.config)


def read(path: str) -> Configuration:
    """The configuration.

    :raises ValueError: saying what is wrong, also where others than root (or we) could have written it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022:
            raise ValueError("must be a file of root's that nobody else can write")
        found = tomllib.loads(file.read(MAX_CONFIGURATION).decode())
    unknown = set(found) - {"server", "accounts", "commands", "time", "memory"}
    if unknown:
        raise ValueError(f"there is no setting {sorted(unknown)[0]}")
    try:
        server = pwd.getpwnam(found["server"]).pw_uid
    except KeyError:
        raise ValueError('server = "..." must name the user that the mail server runs as') from None
    accounts, commands = found.get("accounts", {}), found.get("commands", {})
    for account, user in accounts.items():
        if not isinstance(user, str) or _user(user) is None:
            raise ValueError(f'accounts."{account}": there is no such user, or he is one of the system\'s')
    for name, argv in commands.items():
        if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
            raise ValueError(f'commands."{name}" must be a list of words')
        if not argv[0].startswith("/"):
            raise ValueError(f'commands."{name}" must begin with an absolute path')
    seconds, memory = found.get("time", 300), found.get("memory", 512_000_000)
    if not isinstance(seconds, int) or not isinstance(memory, int) or seconds < 1 or memory < 2**24:
        raise ValueError("time is in seconds, memory in octets (16 MiB at least)")
    return Configuration(server, accounts, commands, seconds, memory)


def _user(name: str) -> pwd.struct_passwd | None:
    """A user whom commands may run as: never root, never one of the system's own."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return found if found.pw_uid >= LEAST_UID else None


def _listener(path: str | None, server: int) -> socket.socket | None:
    """The socket: systemd's, or a new one that the server's user alone reaches."""
    if path is None:
        if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
            return None
        return socket.socket(fileno=FIRST)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    if os.geteuid() == 0:
        os.chown(path, server, -1)
    listener.listen(64)
    return listener


def serve(listener: socket.socket, path: str) -> NoReturn:
    """Each request in a process of its own, with the configuration as it stands then."""
    children: set[int] = set()
    while True:
        while len(children) >= AT_ONCE:
            children.discard(os.wait()[0])
        ready = select.select([listener], [], [], 1.0)[0]
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                children.discard(pid)
        if not ready:
            continue
        connection, _ = listener.accept()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                listener.close()
                _answer(connection, path)
                status = 0
            finally:
                os._exit(status)
        children.add(pid)
        connection.close()


def _answer(connection: socket.socket, path: str) -> None:
    connection.settimeout(REQUEST_TIME)
    message = -1
    try:
        request, message = _request(connection)
        configuration = read(path)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        asking = struct.unpack("3i", credentials)[1]
        if asking not in (configuration.server, 0):
            raise Refused("not for you")
        answer = _run(configuration, request, message)
    except Refused as refused:
        answer = {"error": str(refused)}
    except (OSError, ValueError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    finally:
        if message >= 0:
            os.close(message)
    connection.settimeout(REQUEST_TIME)
    connection.sendall(json.dumps(answer).encode("ascii") + b"\n")


def _request(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """The line and the message's descriptor."""
    data, message = b"", -1
    while not data.endswith(b"\n"):
        part, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST, 1, socket.MSG_CMSG_CLOEXEC)
        for descriptor in descriptors:
            if message >= 0:
                os.close(descriptor)
                raise Refused("more than one message")
            message = descriptor
        data += part
        if not part or len(data) > MAX_REQUEST:
            raise Refused("the request is cut off, or too long")
    request = json.loads(data)
    if not isinstance(request, dict) or request.get("version") != 1:
        raise Refused("the request is not understood")
    if message < 0 or not stat.S_ISREG(os.fstat(message).st_mode):
        raise Refused("there is no message")
    return request, message


def _run(configuration: Configuration, request: Mapping[str, Any], message: int) -> dict[str, Any]:
    """Look the two names up, and run."""
    name = configuration.accounts.get(str(request.get("account", "")))
    argv = configuration.commands.get(str(request.get("command", "")))
    user = _user(name) if name is not None else None
    if user is None or argv is None:
        raise Refused("not configured")
    given = request.get("environment", {})
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "SHELL": user.pw_shell or "/bin/sh",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
    }
    for variable, value in given.items() if isinstance(given, dict) else ():
        if variable in _VARIABLES and isinstance(value, str):
            cleaned = _HARMFUL.sub("_", value[:320])
            environment[variable] = "_" + cleaned[1:] if cleaned.startswith("-") else cleaned
    words = [user.pw_name if word == "%u" else word for word in argv]
    output, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(output)
            _become(user, configuration, message, write)
            os.execve(words[0], words, environment)
        except BaseException as error:
            os.write(2, f"{words[0]} cannot be run: {error}\n".encode())
        finally:
            os._exit(EX_TEMPFAIL)
    os.close(write)
    try:
        return _watched(pid, output, configuration.time)
    finally:
        os.close(output)


def _become(user: pwd.struct_passwd, configuration: Configuration, message: int, output: int) -> None:
    """In the child: nothing of root is left after this."""
    os.setsid()
    os.umask(0o077)
    memory, seconds = configuration.memory, configuration.time
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(message, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 4096)
    os.lseek(0, 0, os.SEEK_SET)
    if os.geteuid() == 0:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    if os.getresuid() != (user.pw_uid,) * 3 or os.getresgid() != (user.pw_gid,) * 3:
        raise PermissionError("this helper cannot act as that user")
    try:
        os.chdir(user.pw_dir)
    except OSError:
        os.chdir("/")


def _watched(pid: int, output: int, seconds: int) -> dict[str, Any]:
    """Until the command ends by itself or is ended; then all that it left behind is."""
    deadline = time.monotonic() + seconds
    kept, octets = b"", 0
    ended: tuple[int, int] | None = None
    while ended is None:
        left = deadline - time.monotonic()
        if left <= 0 or octets > MAX_OUTPUT:
            _kill(pid)
            os.waitpid(pid, 0)
            why = "ran for too long" if left <= 0 else "wrote too much"
            return {"status": EX_TEMPFAIL, "output": f"the command {why} and was ended"}
        if select.select([output], [], [], min(left, 0.05))[0]:
            data = os.read(output, 4096)
            octets += len(data)
            kept = (kept + data)[-KEPT_OUTPUT:]
            if not data:
                # It closed its output; its end is near, or its time.
                time.sleep(min(max(left, 0), 0.01))
        found = os.waitpid(pid, os.WNOHANG)
        ended = found if found[0] else None
    _kill(pid)
    status = os.waitstatus_to_exitcode(ended[1])
    while select.select([output], [], [], 0)[0] and (data := os.read(output, 4096)):
        kept = (kept + data)[-KEPT_OUTPUT:]
    return {"status": status, "output": kept.decode("utf-8", "replace")}


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left


if __name__ == "__main__":
    sys.exit(main())
