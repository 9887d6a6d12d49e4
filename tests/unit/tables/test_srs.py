"""Mail of others that is sent on can come back to its sender through us, and nobody else uses that way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.addresses import Address, parse_address
from lorrainemail.tables.srs import KEY_LIFE, LIFE, NotReversed, Srs, is_srs

DAY = 86400


class Wall:
    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


def make(directory: Path, wall: Any, name: str = "srs.keys") -> Srs:
    srs = Srs(str(directory / name), wall)
    srs.prepare()
    os.utime(directory / name, (wall.now, wall.now))
    return srs


def sent_on(srs: Srs, sender: str, domain: str = "ours.test") -> str:
    address = srs.forward(parse_address(sender), domain)
    assert address is not None and address.domain == domain
    return address.local


def test_a_bounce_finds_its_way_back(tmp_path: Path, wall: Wall) -> None:
    srs = make(tmp_path, wall)
    local = sent_on(srs, "Ann@example.org")
    assert local.startswith("SRS0=") and local.endswith("=example.org=Ann") and is_srs(local)
    assert srs.reverse(local) == Address("Ann", "example.org")


def test_two_servers_on_the_way_do_not_make_it_longer_and_longer(tmp_path: Path, wall: Wall) -> None:
    first, second, third = (make(tmp_path, wall, name) for name in ("1", "2", "3"))
    zero = sent_on(first, "ann@example.org", "one.test")
    one = sent_on(second, f"{zero}@one.test", "two.test")
    again = sent_on(third, f"{one}@two.test", "three.test")
    assert one.startswith("SRS1=") and again.startswith("SRS1=") and len(again) == len(one)
    # From the third straight to the first, who knows the sender.
    back = third.reverse(again)
    assert back == Address(zero, "one.test")
    assert first.reverse(back.local) == Address("ann", "example.org")
    assert second.reverse(one) == Address(zero, "one.test")


@pytest.mark.parametrize("sign", ["=", "+", "-"])
def test_another_servers_sign_is_kept(tmp_path: Path, wall: Wall, sign: str) -> None:
    srs = make(tmp_path, wall)
    local = sent_on(srs, f"SRS0{sign}abcd=xy=a.org=b@one.test")
    assert srs.reverse(local) == Address(f"SRS0{sign}abcd=xy=a.org=b", "one.test")


def test_an_address_lives_for_ten_days(tmp_path: Path, wall: Wall) -> None:
    srs = make(tmp_path, wall)
    zero = sent_on(srs, "ann@example.org")
    one = sent_on(srs, "SRS0=abcd=xy=a.org=b@one.test")
    wall.now += LIFE * DAY
    for local in (zero, one):
        srs.reverse(local)
    wall.now += DAY
    for local in (zero, one):
        with pytest.raises(NotReversed, match="older than 10 days"):
            srs.reverse(local)


def test_nobody_else_makes_such_addresses(tmp_path: Path, wall: Wall) -> None:
    srs, other = make(tmp_path, wall), make(tmp_path, wall, "other")
    local = sent_on(other, "ann@example.org")
    with pytest.raises(NotReversed, match="not made here"):
        srs.reverse(local)
    ours = sent_on(srs, "ann@example.org")
    for forged in (
        ours.replace("=ann", "=eve"),
        ours.replace("example.org", "example.net"),
        ours[:5] + ("b" if ours[5] == "a" else "a") + ours[6:],
        "SRS1" + ours[4:],
        "SRS0=====",
        "SRS0=",
        "SRS1=x=y",
        "SRS0=é=é=é=é",
    ):
        with pytest.raises(NotReversed):
            srs.reverse(forged)


def test_a_server_on_the_way_may_change_case(tmp_path: Path, wall: Wall) -> None:
    srs = make(tmp_path, wall)
    local = sent_on(srs, "Ann@example.org")
    assert srs.reverse(local.upper()) == Address("ANN", "example.org")
    assert srs.reverse(local.lower()) == Address("ann", "example.org")


def test_the_file_of_keys_is_ours_alone_and_outlives_a_restart(tmp_path: Path, wall: Wall) -> None:
    local = sent_on(make(tmp_path, wall), "ann@example.org")
    assert (tmp_path / "srs.keys").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["srs.keys"]
    assert make(tmp_path, wall).reverse(local).local == "ann"


def test_a_new_key_does_not_cut_off_what_is_on_its_way(tmp_path: Path, wall: Wall) -> None:
    srs = make(tmp_path, wall)
    wall.now += KEY_LIFE * DAY
    old = sent_on(srs, "ann@example.org")
    assert not srs.ready
    srs.prepare()
    new = sent_on(srs, "ann@example.org")
    assert old != new and srs.reverse(old) == srs.reverse(new)
    assert len((tmp_path / "srs.keys").read_text().split()) == 2
    (tmp_path / "srs.keys").write_text("operators-own-key-of-today\n" + (tmp_path / "srs.keys").read_text())
    assert srs.reverse(new).local == "ann"
    with pytest.raises(NotReversed):
        srs.reverse(old)  # the third key is one too many


def test_what_would_be_too_long_is_left_alone(tmp_path: Path, wall: Wall) -> None:
    srs = make(tmp_path, wall)
    assert srs.forward(Address("a" * 40, "example.org"), "ours.test") is None


def test_without_keys_nothing_leads_back(tmp_path: Path, wall: Wall) -> None:
    with pytest.raises(NotReversed):
        Srs(str(tmp_path / "none"), wall).reverse("SRS0=abcdefgh=ab=example.org=ann")


@given(text=st.text(max_size=80))
def test_any_local_part_is_answered(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    srs = Srs(str(tmp_path_factory.getbasetemp() / "any.keys"))
    srs.prepare()
    for local in (text, f"SRS0={text}", f"SRS1={text}"):
        with pytest.raises(NotReversed):
            srs.reverse(local)
