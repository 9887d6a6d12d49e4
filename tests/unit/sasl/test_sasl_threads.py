"""Hashing in real threads."""

from __future__ import annotations

import threading

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import Account
from lorrainemail.sasl.passwords import Passwords


@pytest_twisted.ensureDeferred
async def test_hashing_and_checking_stay_out_of_the_reactor_and_leave_no_thread() -> None:
    before = set(threading.enumerate())
    passwords = Passwords(reactor)
    passwords.startService()
    try:
        assert set(threading.enumerate()) == before
        credential = await passwords.hash(b"right")
        assert "right" not in repr(credential) and credential.value not in repr(credential)
        account = Account(parse_address("bob@x.org"), credentials=(credential,))
        checks = [
            passwords.check(account, b"right", "192.0.2.1"),
            passwords.check(account, b"wrong", "192.0.2.1"),
        ]
        checks.append(passwords.check(None, b"right", "192.0.2.1"))
        assert await gatherResults(checks) == [credential, None, None]
    finally:
        passwords.stopService()
    assert set(threading.enumerate()) == before
