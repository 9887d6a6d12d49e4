"""The record of logins: short, bounded, and never in anybody's way."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import execute
from twisted.internet.task import Clock

from lorrainemail.envelope import Session
from lorrainemail.sasl import record as module
from lorrainemail.sasl.book import FILE_NAME, Book, opened
from lorrainemail.sasl.record import GATHER, KEEP, MAX_WAITING, ROWS_EACH, LoginRecord, logins_of


class Wall:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class House:
    def __init__(self, state: Path, in_thread: Any = execute) -> None:
        self.state, self.clock, self.wall = state, Clock(), Wall()
        self.book = Book(str(state), in_thread)
        self.record = LoginRecord(self.book, self.clock, self.wall)

    def log_in(
        self, peer: str = "192.0.2.1", account: str = "bob@x.org", good: bool = True, how: str = "PLAIN"
    ) -> None:
        self.record.note(Session("s", "imaps", peer), account, good, how)

    def rows(self, account: str = "bob@x.org") -> list[Any]:
        with opened(str(self.state)) as connection:
            return logins_of(connection, account)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_phone_that_asks_every_minute_takes_one_row(house: House) -> None:
    begun = house.wall.now
    for _ in range(500):
        house.log_in()
        house.wall.now += 60
        house.clock.advance(GATHER)
    (row,) = house.rows()
    assert (row.count, row.first, row.last) == (500, begun, house.wall.now - 60)


def test_an_account_keeps_its_newest_rows_and_refusals_do_not_push_out_good_ones(house: House) -> None:
    for number in range(3 * ROWS_EACH):
        house.log_in(f"192.0.2.{number}")
        house.log_in(f"198.51.100.{number}", good=False, how="wrong password")
        house.wall.now += 1
    house.record.flush()
    rows = house.rows()
    assert sum(row.good for row in rows) == sum(not row.good for row in rows) == ROWS_EACH
    assert rows[0].last > rows[-1].last and "192.0.2.149" in {row.peer for row in rows}


def test_what_is_old_goes(house: House) -> None:
    house.log_in()
    house.record.flush()
    house.wall.now += KEEP + 1
    house.log_in(account="eve@x.org")
    house.record.flush()
    assert house.rows() == []
    assert house.record.known() == [("eve@x.org", "192.0.2.1")]


def test_a_flood_in_one_moment_is_bounded_in_memory(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    for number in range(100):
        house.log_in(f"192.0.2.{number}")
    house.record.flush()
    assert len(house.rows()) == 10 and MAX_WAITING > 1000


def test_a_broken_file_is_put_aside_and_logins_go_on(house: House) -> None:
    (house.state / FILE_NAME).write_bytes(b"this is no database, " * 100)
    house.log_in()
    house.record.flush()
    assert [row.peer for row in house.rows()] == ["192.0.2.1"]
    assert (house.state / f"{FILE_NAME}.broken").exists()


def test_a_disk_that_fails_keeps_nobody_waiting(tmp_path: Path) -> None:
    def failing(work: Any, *arguments: Any) -> Any:
        def fails() -> None:
            raise sqlite3.OperationalError("disk I/O error")

        return execute(fails)

    house = House(tmp_path, failing)
    house.log_in()
    answers: list[Any] = []
    house.record.flush().addBoth(answers.append)
    assert answers == [None]
