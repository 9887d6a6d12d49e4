"""``lorrainemail dkim`` as an operator types it: keys that sign, and records that a DNS takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dns.rdatatype
import dns.zone
import pytest
from twisted.internet.defer import Deferred, succeed

from lorrainemail.cli.main import main
from lorrainemail.mailauth.dkim_record import parse_key
from lorrainemail.mailauth.keys import KeyRing
from lorrainemail.mailauth.signing import Signer
from lorrainemail.ops.content import Content


class Command:
    def __init__(self, state: Path, capsys: Any) -> None:
        self.state = state
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        try:
            status = main(["dkim", *words, "--state", str(self.state)])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = self._capsys.readouterr()
        return status, out, err

    def selectors(self, ring: KeyRing | None = None) -> list[str]:
        return [key.selector for key in (ring or KeyRing(str(self.state))).keys("elorac.fr")]


@pytest.fixture
def command(tmp_path: Path, capsys: Any) -> Command:
    return Command(tmp_path, capsys)


def test_the_first_keys_sign_at_once_and_their_records_are_lines_of_a_zone(command: Command) -> None:
    status, out, _ = command("generate", "Elorac.FR")
    assert status == 0 and "signed from now on" in out
    lines = "\n".join(line for line in out.splitlines() if " IN TXT " in line)
    zone = dns.zone.from_text(f"$TTL 60\n{lines}", origin="elorac.fr.", check_origin=False)
    kinds = set()
    for _, _, record in zone.iterate_rdatas(dns.rdatatype.TXT):
        assert all(len(string) <= 255 for string in record.strings)
        key = parse_key(b"".join(record.strings))
        assert not key.unacceptable
        kinds.add((key.kind, key.bits))
    assert kinds == {("rsa", 2048), ("ed25519", 256)}
    assert len(command.selectors()) == 2
    for path in (command.state / "dkim" / "elorac.fr").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (command.state / "dkim").stat().st_mode & 0o777 == 0o700


def test_later_keys_wait_until_the_dns_has_them(command: Command) -> None:
    command("generate", "elorac.fr")
    ring = KeyRing(str(command.state))
    first = command.selectors(ring)
    status, out, _ = command("generate", "elorac.fr", "--json")
    made = json.loads(out)["keys"]
    assert status == 0 and {one["state"] for one in made} == {"waits"}
    assert command.selectors(ring) == first
    status, out, _ = command("activate", "elorac.fr")
    assert status == 0 and made[0]["selector"] in out
    # A server that is running sees it.
    assert command.selectors(ring) == [one["selector"] for one in made] != first
    listed = json.loads(command("list", "--json")[1])
    assert listed["version"] == 1
    assert sorted(one["state"] for one in listed["keys"]) == ["replaced", "replaced", "signs", "signs"]
    status, _, err = command("activate", "elorac.fr")
    assert status == 1 and "no keys of elorac.fr wait" in err


def test_the_records_can_be_shown_again(command: Command) -> None:
    _, made, _ = command("generate", "elorac.fr")
    status, out, _ = command("record", "elorac.fr")
    assert status == 0
    assert set(out.splitlines()) <= set(made.splitlines())
    status, _, err = command("record", "elsewhere.example")
    assert status == 1 and "dkim generate elsewhere.example" in err


def test_an_empty_list_says_what_to_do(command: Command) -> None:
    status, out, _ = command("list")
    assert status == 0 and "dkim generate" in out


@pytest.mark.parametrize("domain", ["../x", "a b", "[192.0.2.1]", "", "x/y"])
def test_what_is_no_domain_is_refused(command: Command, domain: str) -> None:
    assert command("generate", domain)[0] == 2


def test_a_broken_key_file_is_named_and_signs_nothing(command: Command) -> None:
    command("generate", "elorac.fr")
    broken = command.state / "dkim" / "elorac.fr" / "zz.pem"
    broken.write_text("no key")
    status, _, err = command("list")
    assert status == 1 and str(broken) in err
    assert command.selectors() == []


def test_keys_of_others_are_not_followed_by_links(command: Command, tmp_path: Path) -> None:
    command("generate", "elorac.fr")
    directory = command.state / "dkim" / "elorac.fr"
    (directory / "link.pem").symlink_to("/etc/passwd")
    assert command.selectors() == []


def test_the_newest_key_of_a_kind_signs_once(command: Command) -> None:
    command("generate", "elorac.fr")
    command("generate", "elorac.fr")
    for path in (command.state / "dkim" / "elorac.fr").glob("*.new"):
        path.rename(path.with_suffix(".pem"))

    def at_once(work: Any) -> Deferred[Any]:
        return succeed(work())

    signed: list[bytes] = []
    content = Content(b"From: a@elorac.fr\r\n\r\nx\r\n")
    Deferred.fromCoroutine(Signer(KeyRing(str(command.state)), at_once).sign(content)).addCallback(
        signed.append
    )
    assert signed[0].count(b"DKIM-Signature:") == 2
