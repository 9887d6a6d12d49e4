"""Tells systemd how the server is (``Type=notify``): one datagram to the socket that it named, or nothing.

Called by :mod:`lorrainemail.setup.running`. Never fails and never waits: without systemd it does nothing.
"""

from __future__ import annotations

import os
import socket


def notify(*words: str) -> bool:
    """Send state words such as ``READY=1`` or ``STOPPING=1``; whether anybody was told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.setblocking(False)
            connection.sendto("\n".join(words).encode("utf-8"), address)
    except OSError:
        return False
    return True
