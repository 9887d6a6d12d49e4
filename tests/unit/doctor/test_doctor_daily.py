"""The daily check-up: told once when it turns bad, once when it is well, over restarts too."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from lorrainemail.setup.doctor.daily import CHANCE, EVERY, FIRST, MEMORY, Daily, compare
from lorrainemail.setup.doctor.findings import Finding, bad, good, unknown

NO_PTR = bad("ptr.missing6", "2001:db8::7", hostname="mail.a.test")
NO_SPF = bad("spf.missing", "a.test", data="v=spf1 mx -all")


class Office:
    """Everything around a :class:`Daily`."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.directory = directory
        self.findings: list[Finding] = []
        self.told: list[tuple[str, str]] = []
        self.on = True
        self.tells = True
        self.changes = 0
        self.daily = self.make()

    def make(self) -> Daily:
        daily = Daily(
            self.clock,
            str(self.directory),
            lambda: succeed(self.findings),
            self.tell,
            lambda: (self.on, "en", "mail.a.test"),
            self.changed,
        )
        daily.startService()
        return daily

    def tell(self, subject: str, text: str) -> Deferred[None]:
        if not self.tells:
            return fail(OSError("no room"))
        self.told.append((subject, text))
        return succeed(None)

    def changed(self) -> None:
        self.changes += 1

    def day(self) -> None:
        self.clock.advance(EVERY + CHANCE)

    def restart(self) -> None:
        self.daily.stopService()
        self.daily = self.make()


def test_a_trouble_is_told_once_and_its_end_once(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.clock.advance(FIRST + CHANCE)
    assert office.told == []
    office.findings = [NO_SPF]
    office.day()
    office.day()
    assert len(office.told) == 1
    assert "a.test: there is no SPF record" in office.told[0][1]
    office.findings = [good("spf", "a.test")]
    office.day()
    office.day()
    assert len(office.told) == 2
    assert "well again" in office.told[1][1]
    office.daily.stopService()
    assert not office.clock.getDelayedCalls()


def test_a_restart_forgets_nothing_that_was_told(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.findings = [NO_SPF]
    office.day()
    office.restart()
    office.day()
    assert len(office.told) == 1
    assert os.stat(tmp_path / MEMORY).st_mode & 0o077 == 0
    office.findings = []
    office.restart()
    office.day()
    assert len(office.told) == 2


def test_what_could_not_be_asked_neither_accuses_nor_clears(tmp_path: Path) -> None:
    told = {NO_SPF.key: "line"}
    assert not compare([unknown("spf.unknown", "a.test")], told, "en").well
    assert not compare([unknown("check.late", "spf a.test")], told, "en").well
    assert compare([unknown("mx.unknown", "a.test")], told, "en").well == ("line",)
    assert not compare([unknown("spf.unknown", "b.test")], {}, "en").bad


def test_a_message_that_could_not_be_left_is_tried_again_the_next_day(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.findings, office.tells = [NO_SPF], False
    office.day()
    office.tells = True
    office.day()
    assert len(office.told) == 1


def test_mail_leaves_by_ipv4_until_the_ipv6_address_has_its_name(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.findings = [NO_PTR]
    office.day()
    assert office.daily.without_ipv6 and office.changes == 1
    office.restart()
    assert office.daily.without_ipv6, "also after a restart"
    office.findings = []
    office.day()
    assert not office.daily.without_ipv6 and office.changes == 2


def test_switched_off_it_looks_at_nothing(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.findings, office.on = [NO_SPF], False
    office.day()
    assert office.told == []


def test_a_broken_memory_is_no_reason_to_be_silent(tmp_path: Path) -> None:
    (tmp_path / MEMORY).write_text('{"told": 5}')
    office = Office(tmp_path)
    office.findings = [NO_SPF]
    office.day()
    assert len(office.told) == 1
