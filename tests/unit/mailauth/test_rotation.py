"""Keys are replaced without a gap: published first, then used, the old ones removed later."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dns.name
import dns.rdatatype
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from lorrainemail.dns.dkim import BEGIN, with_keys
from lorrainemail.dns.zonefile import parse_zone
from lorrainemail.dns.zones import Zones
from lorrainemail.mailauth.keys import SigningKey, generate, key_changes, stored_keys
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.mailauth.rotation import FIRST, KEEP_OLD, KeyRotation

DAY = 86400.0


class World:
    def __init__(self, state: Path, served: bool = False) -> None:
        self.state, self.now = str(state), time.time()
        self.told: list[tuple[str, str]] = []
        self.changes = 0
        self.updates = False
        self.dns = MemoryResolver()
        self.rotation = KeyRotation(
            self.state,
            180 * DAY,
            Clock(),
            self.dns,
            lambda work: succeed(work()),
            lambda subject, text: self.told.append((subject, text)),
            lambda domain: served,
            self.publish,
            self.changed,
            lambda: self.now,
        )

    async def publish(self, keys: Sequence[SigningKey], wanted: bool) -> bool:
        """A name server that takes updates, where there is one."""
        if not self.updates:
            return False
        for key in keys:
            self.dns.rows.pop(key.name, None)
            if wanted:
                self.dns.rows[key.name] = [("TXT", key.record())]
        return True

    def changed(self) -> None:
        self.changes += 1

    def look(self) -> None:
        found: list[Any] = []
        Deferred.fromCoroutine(self.rotation.look()).addBoth(found.append)
        assert found == [None]

    def states(self) -> list[str]:
        return sorted(one.state for one in stored_keys(self.state))


def test_the_whole_life_of_a_key(tmp_path: Path) -> None:
    world = World(tmp_path)
    generate(world.state, "elorac.fr", "20260101", waits=False)
    world.look()
    assert world.states() == ["signs", "signs"] and world.told == []
    world.now += 181 * DAY
    world.look()
    assert world.states() == ["signs", "signs", "waits", "waits"] and world.changes == 1
    ((subject, text),) = world.told
    waiting = [one for one in stored_keys(world.state) if one.state == "waits"]
    assert "elorac.fr" in subject and all(one.key.zone_line() in text for one in waiting)
    world.look()  # the DNS does not have them yet, and nobody is told twice
    assert world.states() == ["signs", "signs", "waits", "waits"] and len(world.told) == 1
    world.dns.rows[waiting[0].key.name] = [("TXT", waiting[0].key.record())]
    world.look()  # half of them
    assert "waits" in world.states()
    world.dns.rows[waiting[1].key.name] = [("TXT", waiting[1].key.record().replace("; ", ";"))]
    world.look()
    assert world.states() == ["replaced", "replaced", "signs", "signs"]
    world.now = time.time() + KEEP_OLD + 60
    world.look()
    assert world.states() == ["signs", "signs"]
    assert sum("may go" in subject for subject, _ in world.told) == 2
    for one in stored_keys(world.state):
        assert os.stat(one.path).st_mode & 0o777 == 0o600


def test_a_domain_of_our_own_dns_door_needs_nobody(tmp_path: Path) -> None:
    world = World(tmp_path, served=True)
    generate(world.state, "elorac.fr", "20260101", waits=False)
    world.now += 181 * DAY
    world.look()
    assert world.told == []
    zone = parse_zone(
        "$ORIGIN elorac.fr.\n$TTL 60\n@ SOA ns p 1 60 60 60 60\n@ NS ns\nns A 192.0.2.1\n", "elorac.fr.zone"
    )
    zones = with_keys(Zones([zone]), stored_keys(world.state), key_changes(world.state))
    for one in stored_keys(world.state):
        answer = zones.answer(dns.name.from_text(one.key.name), dns.rdatatype.TXT)
        (record,) = answer.answer[0]
        assert b"".join(record.strings).decode() == one.key.record()
    other = parse_zone("$ORIGIN x.org.\n$TTL 60\n@ SOA ns p 1 60 60 60 60\n@ NS ns\nns A 192.0.2.1\n", "x")
    untouched = Zones([other])
    assert with_keys(untouched, stored_keys(world.state), key_changes(world.state)) is untouched


def test_a_name_server_that_takes_updates_is_told_of_keys_and_nobody_else_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    generate(world.state, "elorac.fr", "20260101", waits=False)
    world.now += 181 * DAY
    world.look()  # it cannot be reached: the postmaster is told
    assert len(world.told) == 1 and world.dns.rows == {}
    world.updates = True
    world.look()  # it is tried again
    assert len(world.dns.rows) == 2 and world.states() == ["signs", "signs", "waits", "waits"]
    world.look()
    assert world.states() == ["replaced", "replaced", "signs", "signs"]
    old = [one.key for one in stored_keys(world.state) if one.state == "replaced"]
    world.dns.rows.update({key.name: [("TXT", key.record())] for key in old})
    world.now += KEEP_OLD + DAY
    world.look()
    assert "replaced" not in world.states() and len(world.told) == 1
    assert len(old) == 2 and not any(key.name in world.dns.rows for key in old)


def test_the_serial_of_a_zone_rises_with_its_file_and_with_its_keys(tmp_path: Path) -> None:
    def serial(of_file: int) -> int:
        zone = parse_zone(
            f"$ORIGIN elorac.fr.\n$TTL 60\n@ SOA ns host {of_file} 60 60 60 60\n@ NS ns.elorac.fr.\n", "zone"
        )
        (made,) = with_keys(Zones([zone]), stored_keys(state), key_changes(state))
        return int(made.nodes[made.origin][dns.rdatatype.SOA][0].serial)

    state = str(tmp_path)
    assert serial(2026112201) == 2026112201
    generate(state, "elorac.fr", "20260101", waits=False)
    directory = tmp_path / "dkim" / "elorac.fr"
    found = []
    for changed in (BEGIN + 1000, BEGIN + 2000):
        os.utime(directory, (changed, changed))
        found.append(serial(2026112201))
    assert found == [2026113201, 2026114201] and serial(2026112301) == 2026114301
    for file in directory.iterdir():
        file.unlink()
    assert serial(2026112201) > found[-1]


def test_without_a_schedule_nothing_happens(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.rotation.age = 0
    generate(world.state, "elorac.fr", "20260101", waits=False)
    world.now += 10_000 * DAY
    world.look()
    assert world.states() == ["signs", "signs"]


def test_the_service_looks_by_itself_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    generate(world.state, "elorac.fr", "20260101", waits=False)
    world.now += 181 * DAY
    clock: Any = world.rotation._clock
    world.rotation.startService()
    clock.advance(FIRST)
    assert "waits" in world.states()
    world.rotation.stopService()
    assert clock.getDelayedCalls() == []
