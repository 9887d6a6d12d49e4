"""The check-up of a running server, and what the postmaster reads of it."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import attrs
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.task import deferLater

from lorrainemail.lab.world import World

reactor: Any = installed_reactor


def notes(state: str) -> list[str]:
    found = glob.glob(f"{state}/mail/*/*/Maildir/new/*")
    return [text for text in (Path(file).read_text() for file in found) if "MAILER-DAEMON" in text]


@pytest_twisted.ensureDeferred
async def test_the_server_s_own_check_up_is_told_to_the_postmaster_once(tmp_path: Path) -> None:
    world = World(reactor, str(tmp_path))
    try:
        world.start()
        server = world.bob.server
        assert server is not None
        # The lab's DNS does not stand at port 53.
        server.settings = attrs.evolve(
            server.settings, dns=attrs.evolve(server.settings.dns, port=world.dns_port)
        )
        for _ in range(2):
            await server.doctor.look()
        for _ in range(200):
            if notes(world.bob.state):
                break
            await deferLater(reactor, 0.05)
        (note,) = notes(world.bob.state)
        text = note.replace("=\n", "")
        assert "no SPF record" in text and "What to do" in text
        assert "lorrainemail doctor" in text
    finally:
        await world.stop()
