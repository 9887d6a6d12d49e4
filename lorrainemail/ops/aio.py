"""Many fsyncs by one call of the kernel: Linux's asynchronous I/O, of which nothing else is used.

Called by :mod:`lorrainemail.ops.files` alone. One fsync after the other costs each file a flush of the disk's
cache of its own, and a switch of context there and back; those that are under way at once share their
flushes, and whoever waits for them wakes once. For fifty files that is a tenth of the time, and half of the
CPU, the kernel's threads included. The threads of ours that it would take otherwise would each have to wait
for the interpreter's lock.

The calls are made by number, since the C library has no names for them. Where there are none (another system
or machine, a kernel before 4.18, a sandbox), :func:`make_queue` answers None and files are synced one by one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Sequence
from typing import Final

#: Files that are synced at once.
DEPTH: Final = 128

#: io_setup, io_getevents, io_submit.
_NUMBERS: Final = {"x86_64": (206, 208, 209), "aarch64": (0, 4, 2), "riscv64": (0, 4, 2)}
_IOCB_CMD_FSYNC: Final = 2


class _Control(ctypes.Structure):
    """``struct iocb`` of ``linux/aio_abi.h``, little-endian."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("reqprio", ctypes.c_int16),
        ("fildes", ctypes.c_uint32),
        ("buf", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """``struct io_event``."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("obj", ctypes.c_uint64),
        ("res", ctypes.c_int64),
        ("res2", ctypes.c_int64),
    )


class SyncQueue:
    """A queue of syncs in the kernel; of one thread. The kernel lets it go with the process."""

    def __init__(self, numbers: tuple[int, int, int]) -> None:
        setup, self._get_events, self._submit = numbers
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        if self._call(ctypes.c_long(setup), ctypes.c_uint(DEPTH), ctypes.byref(self._context)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._controls = (_Control * DEPTH)()
        for index, control in enumerate(self._controls):
            control.opcode = _IOCB_CMD_FSYNC
            control.data = index
        self._pointers = (ctypes.POINTER(_Control) * DEPTH)(*map(ctypes.pointer, self._controls))
        self._events = (_Event * DEPTH)()

    def fsync(self, descriptors: Sequence[int]) -> list[OSError | None]:
        """As fsync of each of at most :data:`DEPTH` descriptors; returns when all of them are done.

        :returns: what became of the first of them; the rest the kernel did not begin.
        :raises OSError: where nobody knows what became of them; the queue is of no use any more.
        """
        for control, descriptor in zip(self._controls, descriptors, strict=False):
            control.fildes = descriptor
        begun = self._call(
            ctypes.c_long(self._submit), self._context, ctypes.c_long(len(descriptors)), self._pointers
        )
        results: list[OSError | None] = [None] * max(begun, 0)
        left = len(results)
        while left:
            got = self._call(
                ctypes.c_long(self._get_events),
                self._context,
                ctypes.c_long(left),
                ctypes.c_long(left),
                self._events,
                ctypes.c_void_p(None),
            )
            if got < 0:
                number = ctypes.get_errno()
                if number == errno.EINTR:
                    continue
                raise OSError(number, os.strerror(number))
            for event in self._events[:got]:
                if event.res < 0:
                    results[event.data] = OSError(-event.res, os.strerror(-event.res))
            left -= got
        return results


def make_queue() -> SyncQueue | None:
    """A queue for this thread, None where there is none to be had."""
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None or not sys.platform.startswith("linux") or sys.byteorder != "little":
        return None
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        return None  # a 32-bit program on such a machine has other numbers
    try:
        return SyncQueue(numbers)
    except (OSError, AttributeError):
        return None
