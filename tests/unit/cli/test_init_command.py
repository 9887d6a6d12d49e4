"""``lorrainemail init``: on nothing, on the embedded default, again, and for a second domain."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorrainemail.cli import init
from lorrainemail.cli.main import main
from lorrainemail.config.default import default_toml
from lorrainemail.config.load import load_text
from lorrainemail.setup import unit
from lorrainemail.setup.new_domain import Wishes, configuration, place

Init = Callable[..., dict[str, Any]]
#: A loopback address of this process alone, whose ports nobody else holds.
HOST = f"127.66.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
COMMON = ("--yes", "--json", "--no-probe", "--high-ports", "--interface", HOST)


@pytest.fixture
def run_init(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Init:
    def run(*words: str) -> dict[str, Any]:
        assert main(["init", *words, *COMMON, "--state", str(tmp_path / "state")]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return run


def test_an_empty_directory_becomes_the_server_of_a_domain(run_init: Init, tmp_path: Path) -> None:
    answer = run_init("bricoleur.com", "--address", "192.0.2.7")
    state = tmp_path / "state"
    text = (state / "lorrainemail.toml").read_text()
    settings = load_text(text, "lorrainemail.toml", str(state))
    assert (settings.hostname, settings.local_domains) == ("mail.bricoleur.com", ("bricoleur.com",))
    lists = [text.index(name) for name in ("local_domains", "relay_networks", "[relay]", "[listen]")]
    assert lists == sorted(lists)
    assert len(list((state / "dkim" / "bricoleur.com").glob("*.pem"))) == 2
    assert (state / "aliases").read_text() == "postmaster: me@bricoleur.com\nabuse: me@bricoleur.com\n"
    assert (state / "accounts").read_text().startswith("me@bricoleur.com:")
    assert len(answer["password"]) >= 16 and answer["password"] not in (state / "accounts").read_text()
    topics = {record["topic"] for record in answer["records"]}
    assert {"mx", "address", "ptr", "spf", "dkim", "dmarc", "tls_rpt", "srv"} <= topics
    assert os.stat(state).st_mode & 0o077 == 0


def test_given_again_it_changes_nothing_and_tells_the_same_records(run_init: Init, tmp_path: Path) -> None:
    first = run_init("bricoleur.com", "--address", "192.0.2.7")
    files = {path: path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()}
    again = run_init("bricoleur.com", "--address", "192.0.2.7")
    assert not any(step["new"] for step in again["steps"])
    assert "password" not in again
    assert again["records"] == first["records"]
    assert files == {path: path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()}


def test_a_second_domain_joins_the_first(run_init: Init, tmp_path: Path) -> None:
    run_init("bricoleur.com")
    before = (tmp_path / "state" / "lorrainemail.toml").read_text()
    answer = run_init("elorac.fr", "--account", "carole@elorac.fr")
    assert (tmp_path / "state" / "lorrainemail.toml").read_text() == before
    assert (tmp_path / "state" / "domains").read_text() == "elorac.fr\n"
    mx = next(record for record in answer["records"] if record["topic"] == "mx")
    assert (mx["name"], mx["data"]) == ("elorac.fr", "10 mail.bricoleur.com.")


def test_the_embedded_default_gives_way_and_is_kept_aside(run_init: Init, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "lorrainemail.toml").write_text(default_toml())
    (state / "accounts").write_text("me@example.test:{ARGON2ID}x\n")
    (state / "first-account").write_text("secret\n")
    run_init("bricoleur.com")
    assert 'hostname = "mail.bricoleur.com"' in (state / "lorrainemail.toml").read_text()
    assert (state / "lorrainemail.toml.before-init").read_text() == default_toml()
    assert "example.test" not in (state / "accounts").read_text(), "nobody used it: its password was told"
    assert not (state / "first-account").exists()


def test_what_it_writes_passes_the_check(
    run_init: Init, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_init("bricoleur.com", "--resolver", "127.0.0.1:5353", "--address", "2001:db8::7")
    assert main(["check", "--json", "--state", str(tmp_path / "state")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["errors"] == []
    assert not [one for one in report["findings"] if one["kind"] in ("broken", "dangerous")]


def test_a_smarthost_takes_the_place_of_port_25_and_its_login_stays_secret(
    run_init: Init, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2 hunter2\n")
    answer = run_init(
        "bricoleur.com", "--smarthost", "smtp.provider.example",
        "--smarthost-user", "bob", "--smarthost-password-file", str(secret),
    )  # fmt: skip
    state = tmp_path / "state"
    settings = load_text((state / "lorrainemail.toml").read_text(), "lorrainemail.toml", str(state))
    row = settings.relay["*"]
    assert (row.host, row.tls, row.credentials) == (("smtp.provider.example:587",), "verified", "smarthost")
    assert (state / "credentials").read_text() == "smarthost bob hunter2 hunter2\n"
    assert os.stat(state / "credentials").st_mode & 0o077 == 0
    assert any("smtp.provider.example" in note for note in answer["notes"]), "what it changes is told"
    spf = next(record["data"] for record in answer["records"] if record["topic"] == "spf")
    assert spf == "v=spf1 include:provider.example mx -all"


def test_a_blocked_port_25_is_told_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "_port_25", lambda: False)
    words = [word for word in COMMON if word != "--no-probe"]
    assert main(["init", "bricoleur.com", *words, "--lang", "fr", "--state", str(tmp_path / "s")]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert "port 25" in note and "--smarthost" in note


def test_ports_that_another_program_holds_are_told_before_the_start(run_init: Init) -> None:
    with socket.create_server((HOST, 2525)), socket.create_server((HOST, 2443)):
        answer = run_init("bricoleur.com")
    notes = " ".join(answer["notes"])
    assert "2525" in notes and "2443" in notes
    assert not any(record["topic"] in ("autoconfig", "mta_sts") for record in answer["records"])


def test_the_password_may_come_from_standard_input(
    run_init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Input:
        buffer = io.BytesIO(b"correct horse battery\n")

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr("sys.stdin", Input())
    answer = run_init("bricoleur.com", "--password-stdin")
    assert "password" not in answer


def test_an_account_elsewhere_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            ["init", "bricoleur.com", "--yes", "--account", "bob@elsewhere.example", "--state", str(tmp_path)]
        )
    assert ended.value.code == 2


@pytest.mark.parametrize("lang", ["en", "fr"])
def test_a_person_reads_what_was_made_and_what_is_left_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lang: str
) -> None:
    words = [word for word in COMMON if word != "--json"]
    state = tmp_path / "a state"
    assert main(["init", "bricoleur.com", *words, "--lang", lang, "--state", str(state)]) == 0
    out = capsys.readouterr().out
    assert f"twistd -n lorrainemail --state '{state}'" in out
    assert f"lorrainemail doctor --state '{state}'" in out
    assert "bricoleur.com. 3600 IN MX 10 mail.bricoleur.com." in out
    assert "{" not in out.replace("{ host", "")


def test_the_real_thing_has_the_ports_of_the_world_and_certificates() -> None:
    wishes = Wishes("bricoleur.com", "mail.bricoleur.com", ("::",), acme="letsencrypt")
    settings = load_text(configuration(wishes, "/var/lib/lorrainemail"), "f", "/var/lib/lorrainemail")
    assert settings.listen.smtp == (r"tcp:25:interface=\:\:",)
    assert settings.listen.https == (r"tcp:443:interface=\:\:",)
    assert settings.listen.imap == settings.listen.pop3 == (), "TLS at once is what a new server opens"
    assert "letsencrypt.org" in settings.acme.directory


def test_the_unit_runs_the_programs_of_this_installation(tmp_path: Path) -> None:
    ran: list[str] = []
    unit.make_user(str(tmp_path), lambda words: ran.append(" ".join(words)))
    unit.install(str(tmp_path), lambda words: ran.append(" ".join(words)))
    text = (tmp_path / "etc/systemd/system/lorrainemail.service").read_text()
    assert "/opt/lorrainemail" not in text.partition("[Unit]")[2]
    assert "twistd -n --pidfile= lorrainemail" in text
    assert (tmp_path / "etc/sysusers.d/lorrainemail.conf").exists()
    assert ran[0] == "systemd-sysusers" and ran[-1] == "systemctl enable --now lorrainemail.service"


@pytest.mark.parametrize(
    ("user", "file", "state"),
    [
        (0, "/etc/lorrainemail/lorrainemail.toml", "/var/lib/lorrainemail"),
        (1000, "lorrainemail-state/lorrainemail.toml", "lorrainemail-state"),
    ],
)
def test_root_makes_the_system_s_server_and_others_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, file: str, state: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    if os.path.exists("/etc/lorrainemail/lorrainemail.toml"):
        pytest.skip("this machine has a server of its own")
    located = place(None, None, str(tmp_path))
    assert located.embedded
    assert (located.file, located.state) == (os.path.join(tmp_path, file), os.path.join(tmp_path, state))
