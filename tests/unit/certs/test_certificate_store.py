"""Certificates while the server runs: files that change, break, come late or near their end."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.certs.sources import Sources, acme_file
from lorrainemail.certs.store import LOOK, CertificateStore
from lorrainemail.errors import ConfigurationError
from lorrainemail.net.certificates import CertificatePair
from lorrainemail.net.tls import ServerTls

DAY = 86400.0
NOW = datetime.datetime.now(datetime.UTC).timestamp()


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def put(
    ca: trustme.CA,
    chain: Path,
    key: Path,
    *names: str,
    days: float = 90,
    began: float = 0,
    half: bool = False,
) -> None:
    """A new certificate in those files, written in place; ``half``: its chain only."""
    start = datetime.datetime.fromtimestamp(NOW, datetime.UTC) - datetime.timedelta(days=began)
    leaf = ca.issue_cert(*names, not_before=start, not_after=start + datetime.timedelta(days=days))
    chain.parent.mkdir(parents=True, exist_ok=True)
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    if not half:
        key.write_bytes(leaf.private_key_pem.bytes())


@attrs.define
class Bench:
    clock: Clock
    tls: ServerTls
    store: CertificateStore
    notes: list[str]

    def shown(self, name: str = "mail.ours.test") -> str:
        """Whose certificate a client that asks for the name gets: issuer and file."""
        context = self.tls.context_for("", name)
        for one, origin in self.store.certificates():
            if one.covers(name) and self.tls.context_for("", min(one.names)) is context:
                return origin
        return self.store.certificates()[0][1]

    def look(self) -> None:
        self.clock.advance(LOOK)

    def first(self) -> str:
        return self.store.certificates()[0][0].fingerprint

    def said(self) -> str:
        return "\n".join(str(alarm) for alarm in self.store.alarms())


def bench(tmp_path: Path, pair: CertificatePair | None = None, folders: tuple[str, ...] = ()) -> Bench:
    clock = Clock()
    clock.advance(NOW)
    tls, notes = ServerTls(), list[str]()
    (tmp_path / "state").mkdir(exist_ok=True)
    sources = Sources(str(tmp_path / "state"), "mail.ours.test", (), pair, folders)
    store = CertificateStore(tls, sources, clock, lambda subject, text: notes.append(subject + "\n" + text))
    store.startService()
    return Bench(clock, tls, store, notes)


def test_the_self_signed_start_gives_way_to_the_first_real_one(ca: trustme.CA, tmp_path: Path) -> None:
    it = bench(tmp_path)
    assert it.shown() == "self-signed"
    path = Path(acme_file(str(tmp_path / "state"), "mail.ours.test", "ecdsa"))
    leaf = ca.issue_cert("mail.ours.test", key_type=trustme.KeyType.ECDSA)
    path.parent.mkdir(parents=True)
    path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    it.look()
    assert [origin for _, origin in it.store.certificates()] == ["acme"]


def test_a_certificate_for_other_names_leaves_the_self_signed_one(ca: trustme.CA, tmp_path: Path) -> None:
    path = tmp_path / "state" / "tls" / "acme" / "mta-sts.ours.test" / "rsa.pem"
    path.parent.mkdir(parents=True)
    path.write_bytes(ca.issue_cert("mta-sts.ours.test").private_key_and_cert_chain_pem.bytes())
    it = bench(tmp_path)
    assert (it.shown(), it.shown("mta-sts.ours.test")) == ("self-signed", "acme")


def test_certbot_and_acme_sh_folders_are_followed_when_they_renew(ca: trustme.CA, tmp_path: Path) -> None:
    archive, live = tmp_path / "archive", tmp_path / "live"
    put(ca, archive / "fullchain1.pem", archive / "privkey1.pem", "mail.ours.test")
    (live / "mail.ours.test").mkdir(parents=True)
    (live / "README").write_text("certbot's words")
    for name in ("fullchain", "privkey"):
        (live / "mail.ours.test" / f"{name}.pem").symlink_to(archive / f"{name}1.pem")
    sh = tmp_path / "other.test_ecc"
    put(ca, sh / "fullchain.cer", sh / "other.test.key", "other.test")
    it = bench(tmp_path, folders=(str(live), str(sh)))
    old = {one.fingerprint for one, _ in it.store.certificates()}
    assert [origin for _, origin in it.store.certificates()] == ["folder", "folder"]

    put(ca, archive / "fullchain2.pem", archive / "privkey2.pem", "mail.ours.test")
    for name in ("fullchain", "privkey"):
        link = live / "mail.ours.test" / f"{name}.pem"
        (tmp_path / "link").symlink_to(archive / f"{name}2.pem")
        os.replace(tmp_path / "link", link)
    put(ca, sh / "fullchain.cer", sh / "other.test.key", "other.test")
    changes: list[int] = []
    it.store.on_change(lambda: changes.append(1))
    it.look()
    assert not {one.fingerprint for one, _ in it.store.certificates()} & old
    it.look()
    assert (changes, it.said()) == ([1], "")


def test_files_that_are_half_written_are_waited_for_without_an_alarm(ca: trustme.CA, tmp_path: Path) -> None:
    chain, key = tmp_path / "c.pem", tmp_path / "k.pem"
    put(ca, chain, key, "mail.ours.test")
    it = bench(tmp_path, CertificatePair(str(chain), str(key)))
    old = it.first()
    leaf = ca.issue_cert("mail.ours.test")
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    it.look()
    assert (it.first(), it.said()) == (old, "")
    key.write_bytes(leaf.private_key_pem.bytes())
    it.look()
    assert it.first() != old
    assert (it.said(), it.notes) == ("", [])


@pytest.mark.parametrize("how", ["mismatch", "garbage", "gone", "ended"])
def test_a_broken_replacement_keeps_the_old_certificate_and_is_an_alarm(
    ca: trustme.CA, tmp_path: Path, how: str
) -> None:
    chain, key = tmp_path / "c.pem", tmp_path / "k.pem"
    put(ca, chain, key, "mail.ours.test")
    it = bench(tmp_path, CertificatePair(str(chain), str(key)))
    old = it.first()
    if how == "mismatch":
        put(ca, chain, key, "mail.ours.test", half=True)
    elif how == "garbage":
        chain.write_text("-----BEGIN CERTIFICATE-----\nMII\n")
    elif how == "gone":
        chain.unlink()
    else:
        put(ca, chain, key, "mail.ours.test", days=10, began=20)
    for _ in range(4):
        it.look()
    assert it.first() == old
    assert str(chain) in it.said()
    assert len(it.notes) == 1 and "stays as it was" in it.notes[0]
    put(ca, chain, key, "mail.ours.test")
    it.look()
    assert (it.first() != old, it.said()) == (True, "")


def test_a_folder_that_cannot_be_read_any_more_changes_nothing(ca: trustme.CA, tmp_path: Path) -> None:
    folder = tmp_path / "live"
    put(ca, folder / "a" / "fullchain.pem", folder / "a" / "privkey.pem", "mail.ours.test")
    it = bench(tmp_path, folders=(str(folder),))
    folder.rename(tmp_path / "away")
    it.look()
    it.look()
    assert it.shown() == "folder"
    assert str(folder) in it.said()
    (tmp_path / "away").rename(folder)
    it.look()
    assert it.said() == ""


def test_a_look_that_was_under_way_at_a_reload_does_not_bring_the_old_files_back(
    ca: trustme.CA, tmp_path: Path
) -> None:
    pairs = []
    for name in ("old", "new"):
        put(ca, tmp_path / f"{name}.pem", tmp_path / f"{name}.key", "mail.ours.test")
        pairs.append(CertificatePair(str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.key")))
    it = bench(tmp_path, pairs[0])
    thread: list[Deferred[None]] = []

    def in_thread(work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        thread.append(Deferred())
        return thread[-1].addCallback(lambda _: work(*args))

    it.store._in_thread = in_thread
    it.look()
    sources = attrs.evolve(it.store.sources, configured=pairs[1])
    it.store.use(sources, it.store.prepare(sources))
    new = it.first()
    thread[0].callback(None)
    assert it.first() == new


def test_a_start_with_files_that_do_not_fit_fails_and_names_them(ca: trustme.CA, tmp_path: Path) -> None:
    chain, key = tmp_path / "c.pem", tmp_path / "k.pem"
    put(ca, chain, key, "mail.ours.test")
    put(ca, chain, key, "mail.ours.test", half=True)
    with pytest.raises(ConfigurationError, match="do not fit together"):
        bench(tmp_path, CertificatePair(str(chain), str(key)))
    with pytest.raises(ConfigurationError, match="cannot look for certificates"):
        bench(tmp_path, folders=(str(tmp_path / "none"),))


def test_the_postmaster_is_told_of_each_step_towards_the_end_once_and_not_again_after_a_restart(
    ca: trustme.CA, tmp_path: Path
) -> None:
    chain, key = tmp_path / "c.pem", tmp_path / "k.pem"
    pair = CertificatePair(str(chain), str(key))
    put(ca, chain, key, "mail.ours.test", days=90, began=60)
    it = bench(tmp_path, pair)
    it.look()
    assert (it.said(), it.notes) == ("", [])
    for days, told in ((10, 1), (0.5, 1), (6, 2), (14, 3)):
        it.clock.advance(days * DAY)
        assert len(it.notes) == told, days
        assert "for mail.ours.test" in it.said()
    assert "has ended" in it.said()
    again = bench(tmp_path, pair)
    again.clock.advance(30.5 * DAY)
    again.look()
    assert again.notes == []
    put(ca, chain, key, "mail.ours.test", days=200)
    again.look()
    assert again.said() == ""


def test_a_short_lived_certificate_is_no_alarm_while_it_is_young(ca: trustme.CA, tmp_path: Path) -> None:
    chain, key = tmp_path / "c.pem", tmp_path / "k.pem"
    put(ca, chain, key, "mail.ours.test", days=6)
    it = bench(tmp_path, CertificatePair(str(chain), str(key)))
    it.clock.advance(4 * DAY)
    assert (it.said(), it.notes) == ("", [])
    it.clock.advance(1 * DAY)
    assert "ends in 0 days" in it.said() or "ends in 1 days" in it.said()
