"""What the door does to scripts: each change checked, durable, and one after the other for an account.

The work on files is :class:`lorrainemail.sieve.storage.Scripts`'; here it goes to threads, and what can go
wrong becomes a :class:`Refused` that the session prints. Made once by :mod:`lorrainemail.service`, shared by
all listeners.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from lorrainemail.addresses import Address
from lorrainemail.grammar.sieve import SieveError
from lorrainemail.ops.metrics import Counter
from lorrainemail.sieve.review import review
from lorrainemail.sieve.storage import Scripts, StorageError, Stored

_log = Logger(namespace="lorrainemail.managesieve")
_CHANGES = Counter("lorrainemail_managesieve_changes", "Changes of filter scripts", ["what"])


class Refused(Exception):
    """A command that was understood and is not carried out.

    :ivar code: the response code of RFC 5804 §1.3 without its parentheses, "" for none. ``text``: why.
    """

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class ScriptKeeper:
    """The scripts of all accounts, as the door sees them.

    :param in_thread: runs blocking work: Deferred of its result.
    :param writable: the OSError why that many octets cannot be written now, or None.
    """

    def __init__(
        self,
        scripts: Scripts,
        in_thread: Callable[..., Deferred[Any]],
        writable: Callable[[int], OSError | None],
    ) -> None:
        self._scripts = scripts
        self._in_thread = in_thread
        self._writable = writable
        self._locks: WeakValueDictionary[str, DeferredLock] = WeakValueDictionary()

    async def list(self, address: Address) -> list[Stored]:
        """All scripts, by name."""
        found: list[Stored] = await self._do(address, self._scripts.list, address)
        return found

    async def read(self, address: Address, name: str) -> bytes:
        """One script."""
        octets: bytes | None = await self._do(address, self._scripts.read, address, name)
        if octets is None:
            raise Refused(f'there is no script "{name}"', "NONEXISTENT")
        return octets

    async def have_space(self, address: Address, name: str, size: int) -> None:
        """RFC 5804 §2.5; whether a script of that size would find room."""
        await self._do(address, self._scripts.may_put, address, name, size)
        self._room(size)

    async def check(self, address: Address, script: bytes) -> tuple[str, ...]:
        """The warnings of a script (RFC 5804 §2.12)."""
        warnings: tuple[str, ...] = await self._do(address, review, script, self._scripts.library(address))
        return warnings

    async def put(self, address: Address, name: str, script: bytes) -> tuple[str, ...]:
        """Store a script; its warnings, when it is durable."""
        self._room(len(script))

        def work() -> tuple[str, ...]:
            self._scripts.may_put(address, name, len(script))
            warnings = review(script, self._scripts.library(address))
            self._scripts.put(address, name, script)
            return warnings

        warnings: tuple[str, ...] = await self._do(address, work)
        self._told(address, "put", f'stored the script "{name}"')
        return warnings

    async def activate(self, address: Address, name: str) -> Sequence[str]:
        """Use a script from now on, none for ""; its warnings."""

        def work() -> tuple[str, ...]:
            warnings: tuple[str, ...] = ()
            octets = self._scripts.read(address, name) if name else None
            if octets is not None:
                # The file may have been changed by hand since it was checked.
                warnings = review(octets, self._scripts.library(address))
            self._scripts.activate(address, name)
            return warnings

        warnings: tuple[str, ...] = await self._do(address, work)
        self._told(address, "activate", f'uses the script "{name}"' if name else "uses no script")
        return warnings

    async def delete(self, address: Address, name: str) -> None:
        """Remove a script that is not in use."""
        await self._do(address, self._scripts.delete, address, name)
        self._told(address, "delete", f'removed the script "{name}"')

    async def rename(self, address: Address, old: str, new: str) -> None:
        """Another name for a script."""
        await self._do(address, self._scripts.rename, address, old, new)
        self._told(address, "rename", f'renamed the script "{old}" to "{new}"')

    def _room(self, size: int) -> None:
        if self._writable(size) is not None:
            raise Refused("the server has no room now", "QUOTA")

    @staticmethod
    def _told(address: Address, what: str, words: str) -> None:
        _CHANGES.labels(what).inc()
        _log.info("{account} {words}", account=address.key, words=words)

    async def _do(self, address: Address, work: Callable[..., Any], *arguments: Any) -> Any:
        lock = self._locks.get(address.key)
        if lock is None:
            lock = self._locks[address.key] = DeferredLock()
        await lock.acquire()
        try:
            return await self._in_thread(work, *arguments)
        except StorageError as error:
            raise Refused(str(error), error.code) from None
        except SieveError as error:
            raise Refused(str(error)) from None
        except OSError as error:
            _log.error("scripts of {account}: {error}", account=address.key, error=str(error))
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Refused("the server has no room now", "QUOTA") from None
            raise Refused("the scripts cannot be reached now, try again later", "TRYLATER") from None
        finally:
            lock.release()
