"""Opens every port before twistd forks and before privileges are shed, to be served once it has started.

:func:`bind_all` turns ``[listen]`` into :class:`BoundPort`: listening sockets that no reactor knows yet. Each
endpoint string is parsed by Twisted and asked to listen on :class:`_Binder`, which stands in for the reactor
and only binds; so inherited sockets (``systemd:``) work as they are. The wrapper ``haproxy:`` is left to
:mod:`lorrainemail.net.proxy`, since Twisted's own lets the door speak before the client is known. ``service``
gives each one its factory and has the reactor adopt it (:meth:`BoundPort.serve`).

TCP_NODELAY and SO_KEEPALIVE are set on the listening socket; accepted connections inherit them (Linux). An
IPv6 wildcard takes IPv4 too, and where the machine has no IPv6 it is the IPv4 wildcard. Fails with
:class:`~lorrainemail.setup.failure.StartError`, naming who to change.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from typing import Any, Final

import attrs
from twisted.internet import address, defer, endpoints
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.config.default import has_ipv6_loopback
from lorrainemail.config.model import DOORS, Listen
from lorrainemail.config.values import bound_to_loopback, proxied
from lorrainemail.net.peers import canonical
from lorrainemail.setup.failure import StartError
from lorrainemail.setup.state import Owner, Undo

#: Connections that the kernel keeps for us between two turns of the reactor.
BACKLOG: Final = 1024
#: Octets of a UNIX socket's path that the kernel has room for.
MAX_UNIX_PATH: Final = 107


class _Slot(Factory):
    """Stands for a door's factory inside an endpoint's wrapper until the door is composed."""

    factory: Factory

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self.factory.buildProtocol(addr)

    def doStart(self) -> None:
        self.factory.doStart()  # type: ignore[no-untyped-call]

    def doStop(self) -> None:
        self.factory.doStop()  # type: ignore[no-untyped-call]


@attrs.define(slots=True, eq=False)
class BoundPort:
    """One listening socket of one door.

    :ivar text: the endpoint string, as configured.
    :ivar loopback: only this machine reaches it, and nothing in between speaks for others.
    :ivar datagram: the UDP socket beside it (the dns door).
    :ivar proxied: its connections begin with a PROXY header.
    """

    door: str
    text: str
    loopback: bool
    listener: socket.socket
    datagram: socket.socket | None = None
    _slot: _Slot = attrs.field(factory=_Slot)
    _outer: Any = None
    proxied: bool = False

    @property
    def host(self) -> str:
        """The address that it is bound to; the path of a UNIX socket."""
        name = self.listener.getsockname()
        return canonical(name[0]) if isinstance(name, tuple) else str(name)

    @property
    def port(self) -> int:
        """The port's number, 0 for a UNIX socket."""
        name = self.listener.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def serve(self, reactor: Any, factory: Factory) -> IListeningPort:
        """Have the reactor accept connections for the factory."""
        self._slot.factory = factory
        outer = factory if self._outer is self._slot else self._outer
        family = self.listener.family
        mode = None
        if family == socket.AF_UNIX:
            mode = stat.S_IMODE(os.stat(self.listener.getsockname()).st_mode)
        port: IListeningPort = reactor.adoptStreamPort(self.listener.fileno(), family, outer)
        if mode is not None:
            os.chmod(self.listener.getsockname(), mode)  # the reactor opens it to everybody
        self.listener.close()
        return port

    def serve_datagrams(self, reactor: Any, protocol: DatagramProtocol) -> IListeningPort | None:
        """Have the reactor read the UDP socket, where there is one."""
        if self.datagram is None:
            return None
        family = self.datagram.family
        port: IListeningPort = reactor.adoptDatagramPort(self.datagram.fileno(), family, protocol)
        self.datagram.close()
        return port

    def close(self) -> None:
        """Give the port up, before it was served."""
        path = self.listener.getsockname() if self.listener.family == socket.AF_UNIX else ""
        self.listener.close()
        if self.datagram is not None:
            self.datagram.close()
        if path:
            with contextlib.suppress(OSError):
                os.unlink(path)


@implementer(IListeningPort)
@attrs.frozen(slots=True, eq=False)
class _Answer:
    """What an endpoint expects from a reactor that listens."""

    listener: socket.socket

    def startListening(self) -> None:
        """Nothing to do: it listens."""

    def stopListening(self) -> None:
        self.listener.close()

    def getHost(self) -> IAddress:
        name = self.listener.getsockname()
        if self.listener.family == socket.AF_INET:
            return address.IPv4Address("TCP", *name[:2])
        if self.listener.family == socket.AF_INET6:
            return address.IPv6Address("TCP", *name)
        return address.UNIXAddress(name)


class _Binder:
    """Takes a reactor's place for endpoints that listen; opens sockets and collects them."""

    def __init__(self, state: str) -> None:
        self.bound: list[tuple[socket.socket, Any]] = []
        self._state = state
        self._ipv4_wildcards: set[int] = set()

    def _answer(self, listener: socket.socket, factory: Any) -> _Answer:
        self.bound.append((listener, factory))
        return _Answer(listener)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> _Answer:
        listener = self._open(port, interface)
        if listener.family == socket.AF_INET and interface in ("", "0.0.0.0"):
            self._ipv4_wildcards.add(listener.getsockname()[1])
        return self._answer(listener, factory)

    def _open(self, port: int, interface: str) -> socket.socket:
        host = interface or "0.0.0.0"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        if family == socket.AF_INET6 and not _has_ipv6():
            if host != "::":
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            family, host = socket.AF_INET, "0.0.0.0"
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                alone = host != "::" or (port != 0 and port in self._ipv4_wildcards)
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(alone))
            listener.bind(_socket_address(family, host, port))
            _prepare(listener)
        except BaseException:
            listener.close()
            raise
        return listener

    def listenUNIX(
        self, address: str | bytes, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> _Answer:
        path = os.path.join(self._state, os.fsdecode(address))
        return self._answer(bind_unix(path, mode), factory)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> _Answer:
        listener = socket.socket(addressFamily, socket.SOCK_STREAM, fileno=os.dup(fileDescriptor))
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listener.close()
            raise OSError(errno.EINVAL, "the inherited socket is not a listening one")
        if addressFamily != socket.AF_UNIX:
            _prepare(listener)
        listener.setblocking(False)
        return self._answer(listener, factory)


def _prepare(listener: socket.socket) -> None:
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setblocking(False)
    listener.listen(BACKLOG)


def _socket_address(family: int, host: str, port: int) -> Any:
    """What ``bind`` takes; a zone index (``fe80::1%eth0``) becomes a scope."""
    kind = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV | socket.AI_PASSIVE
    return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, kind)[0][4]


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def bind_unix(path: str, mode: int) -> socket.socket:
    """A listening UNIX socket with that mode; what a dead server left there is removed.

    :raises OSError: EADDRINUSE where a living process listens, or where something else has that name.
    """
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise OSError(errno.ENAMETOOLONG, f"its path is longer than {MAX_UNIX_PATH} octets")
    if os.path.lexists(path):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "a file that is no socket has that name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            answer = probe.connect_ex(path)
        if answer in (0, errno.EAGAIN):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # no threads yet: nobody else's files are made in between
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        os.chmod(path, mode)
        listener.setblocking(False)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def bind_all(
    listen: Listen,
    state: str,
    owner: Owner,
    undo: Undo,
    where: str,
    unix: Sequence[tuple[str, str, int]] = (),
) -> list[BoundPort]:
    """Open every port of the configuration, in the order of its doors.

    :param where: the configuration's file, for messages.
    :param unix: sockets beside ``[listen]``: (door, path, mode).
    :raises StartError: at the first that cannot be had; those before it are closed by ``undo``.
    """
    binder = _Binder(state)
    ports: list[BoundPort] = []
    for door in (*DOORS, "local"):
        texts: tuple[str, ...] = getattr(listen, door)
        ports += [_bind(door, text, binder, owner, undo, where) for text in _possible(texts)]
    for door, path, mode in unix:
        try:
            listener = bind_unix(path, mode)
        except OSError as error:
            mend = "remove what is there, or name another state directory with --state"
            if error.errno == errno.ENAMETOOLONG:
                mend = "name a state directory with a shorter path"
            raise StartError(f"cannot open the socket {path} ({error.strerror})", mend) from None
        port = BoundPort(door, path, False, listener)
        port._outer = port._slot
        undo.add(port.close)
        owner.take(path)
        ports.append(port)
    return ports


def _possible(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Without ``::1`` where the machine has no IPv6 and the door is open on another address too."""
    if len(texts) > 1 and not has_ipv6_loopback():
        return tuple(text for text in texts if not text.endswith(r"interface=\:\:1")) or texts
    return texts


def _bind(door: str, text: str, binder: _Binder, owner: Owner, undo: Undo, where: str) -> BoundPort:
    slot = _Slot()
    failures: list[Failure] = []
    try:
        behind = proxied(text)
        endpoint = endpoints.serverFromString(binder, behind or text)  # type: ignore[no-untyped-call]
        answer: defer.Deferred[object] = defer.maybeDeferred(endpoint.listen, slot)
        answer.addErrback(failures.append)
        if failures:
            failures[0].raiseException()
        listener, outer = binder.bound.pop()
        loopback = bound_to_loopback(text)
        port = BoundPort(door, text, loopback, listener, None, slot, outer, behind is not None)
        undo.add(port.close)
        if listener.family == socket.AF_UNIX and not text.startswith("systemd"):
            owner.take(listener.getsockname())
        if door == "dns":
            port.datagram = _datagram(listener)
    except (IndexError, KeyError):
        raise StartError(
            f"{text} ({door} in [listen] of {where}): systemd handed over no such socket",
            "start it by its socket unit, or mend the index or name",
        ) from None
    except OSError as error:
        raise _port_error(door, text, error, where) from None
    except Exception as error:
        raise StartError(
            f"cannot listen on {text} ({error})", f"mend {door} in [listen] of {where}"
        ) from None
    return port


def _datagram(listener: socket.socket) -> socket.socket:
    """A UDP socket at the same address and port (RFC 7766 §4: a DNS server answers on both)."""
    beside = socket.socket(listener.family, socket.SOCK_DGRAM)
    try:
        if listener.family == socket.AF_INET6:
            alone = listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            beside.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, alone)
        beside.bind(listener.getsockname())
        beside.setblocking(False)
    except BaseException:
        beside.close()
        raise
    return beside


def _port_error(door: str, text: str, error: OSError, where: str) -> StartError:
    place = f"{door} in [listen] of {where}"
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"cannot listen on {text}: the port is in use already",
            f"stop the program that has it (ss -ltnp shows it) or change {place}",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartError(
            f"cannot listen on {text}: this user may not open it",
            "start as root with --uid and --gid, use the systemd unit in etc/, or choose a port over 1023"
            f" for {place}",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return StartError(f"cannot listen on {text}: this machine has no such address", f"change {place}")
    return StartError(f"cannot listen on {text}: {error.strerror or error}", f"change {place}")
