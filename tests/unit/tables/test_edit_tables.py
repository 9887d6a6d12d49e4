"""Edits by commands: locked, atomic, keeping what the operator wrote around them."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lorrainemail.addresses import Address, parse_address
from lorrainemail.errors import ConfigurationError
from lorrainemail.interfaces import Credential
from lorrainemail.tables import edit
from lorrainemail.tables.accounts import parse_accounts

BOB = parse_address("bob@x.org")
HAND_MADE = "# ours\n\n  bob@x.org:{CRYPT}x:1:2:Bob:/home/bob:/bin/sh:proxy=y  \n# last\ncarol@x.org:{CRYPT}y"


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path)


def text(state: str, name: str = "accounts") -> str:
    return Path(state, name).read_text(encoding="utf-8")


def test_an_added_account_can_be_read_back_whole(state: str) -> None:
    credentials = (
        Credential("argon2id", "$argon2id$x"),
        Credential("argon2id", "$argon2id$y", "téléphone 1"),
    )
    edit.add_account(state, parse_address('"b o"@x.org'), credentials, format="mbox", quota=5)
    rows, problems = parse_accounts(text(state), "accounts")
    assert not problems
    account = rows[0].account
    assert account.address == Address("b o", "x.org")
    assert account.credentials == credentials
    assert (account.format, account.quota, account.enabled) == ("mbox", 5, True)
    assert stat.S_IMODE(os.stat(os.path.join(state, "accounts")).st_mode) == 0o600


def test_comments_order_and_foreign_fields_stay(state: str) -> None:
    Path(state, "accounts").write_text(HAND_MADE)
    edit.set_credentials(state, parse_address("BOB@x.org"), [Credential("argon2id", "$new")])
    edit.set_enabled(state, BOB, False)
    edit.add_account(state, parse_address("dave@x.org"))
    assert text(state) == (
        "# ours\n\nbob@x.org:{ARGON2ID}$new:1:2:Bob:/home/bob:/bin/sh:proxy=y nologin=y\n# last\n"
        "carol@x.org:{CRYPT}y\ndave@x.org:::::::userdb_mail=maildir:~/Maildir\n"
    )
    edit.set_enabled(state, BOB, True)
    edit.remove_account(state, parse_address("carol@x.org"))
    assert text(state) == (
        "# ours\n\nbob@x.org:{ARGON2ID}$new:1:2:Bob:/home/bob:/bin/sh:proxy=y\n# last\n"
        "dave@x.org:::::::userdb_mail=maildir:~/Maildir\n"
    )


def test_mode_and_link_of_a_hand_made_file_stay(state: str, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    real = tmp_path / "shared" / "users"
    real.write_text(HAND_MADE)
    real.chmod(0o640)
    os.symlink(real, tmp_path / "accounts")
    edit.remove_account(state, BOB)
    assert os.path.islink(tmp_path / "accounts")
    assert "bob" not in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert os.listdir(tmp_path / "shared") == ["users"]


@pytest.mark.parametrize("again", ["bob@x.org", "BOB@X.ORG"])
def test_an_account_is_not_added_twice(state: str, again: str) -> None:
    Path(state, "accounts").write_text(HAND_MADE)
    with pytest.raises(ConfigurationError, match=r"accounts:3: .*has an account already"):
        edit.add_account(state, parse_address(again))
    assert text(state) == HAND_MADE


def test_what_is_not_there_cannot_be_changed(state: str) -> None:
    for change in (
        lambda: edit.remove_account(state, BOB),
        lambda: edit.set_enabled(state, BOB, True),
        lambda: edit.set_credentials(state, BOB, []),
    ):
        with pytest.raises(ConfigurationError, match=r"there is no account bob@x\.org"):
            change()
    assert not os.path.exists(os.path.join(state, "accounts"))


def test_a_file_that_the_server_would_not_take_is_not_added_to(state: str) -> None:
    Path(state, "accounts").write_text("bob@x.org:{CRYPT}x\nbroken\n")
    with pytest.raises(ConfigurationError, match="accounts:2"):
        edit.add_account(state, parse_address("dave@x.org"))
    assert text(state) == "bob@x.org:{CRYPT}x\nbroken\n"


@pytest.mark.parametrize("secret", ["a\nroot@x.org:", "a\0b", "a\x85b"])
def test_no_value_can_smuggle_a_row_in(state: str, secret: str) -> None:
    with pytest.raises(ConfigurationError, match="control character"):
        edit.add_account(state, BOB, [Credential("crypt", secret)])
    with pytest.raises(ConfigurationError, match="colon"):
        edit.add_account(state, Address("a:b", "x.org"))


def test_a_label_cannot_become_an_extra_field(state: str) -> None:
    edit.add_account(
        state, BOB, [Credential("crypt", "a", "x nologin=y"), Credential("crypt", "b", "y: send_as=a@b")]
    )
    account = parse_accounts(text(state), "accounts")[0][0].account
    assert account.enabled and account.may_send_as == ()
    assert [credential.label for credential in account.credentials] == ["x nologin=y", "y: send_as=a@b"]


def test_domains_are_added_and_removed_in_one_form(state: str) -> None:
    Path(state, "domains").write_text("# ours\nX.org # main\n")
    edit.add_domain(state, "Été.fr")
    assert text(state, "domains") == "# ours\nX.org # main\nxn--t-9fab.fr\n"
    with pytest.raises(ConfigurationError, match=r"domains:2: x\.org is there already"):
        edit.add_domain(state, "x.org")
    edit.remove_domain(state, "x.org")
    assert text(state, "domains") == "# ours\nxn--t-9fab.fr\n"
    with pytest.raises(ConfigurationError, match="not in this file"):
        edit.remove_domain(state, "x.org")
    with pytest.raises(ConfigurationError, match="malformed"):
        edit.add_domain(state, "a..b")


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failing_disk_changes_nothing_and_leaves_nothing_behind(
    state: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    Path(state, "accounts").write_text(HAND_MADE)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ConfigurationError, match=r"No space left on device \(free some space\)"):
        edit.remove_account(state, BOB)
    assert text(state) == HAND_MADE
    assert sorted(os.listdir(state)) == ["accounts", "tables.lock"]


def test_the_new_file_and_its_directory_are_synced_before_the_command_says_done(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(state, "accounts").write_text(HAND_MADE)
    events: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        events.append(
            "sync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).partition(".")[2]
        )
        real_fsync(descriptor)

    def rename(old: str, new: str) -> None:
        events.append("rename " + os.path.basename(new))
        real_rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    edit.remove_account(state, BOB)
    pid = os.getpid()
    assert events[:3] == [f"sync accounts.{pid}.new", "rename accounts", "sync "]


def test_two_commands_at_once_lose_no_row(state: str) -> None:
    program = (
        "import sys\nfrom lorrainemail.addresses import Address\n"
        "from lorrainemail.tables.edit import add_account\n"
        "for i in range(10): add_account(sys.argv[1], Address(f'{sys.argv[2]}{i}', 'x.org'))\n"
    )
    commands = [subprocess.Popen([sys.executable, "-c", program, state, name]) for name in "ab"]
    assert [command.wait(60) for command in commands] == [0, 0]
    rows, problems = parse_accounts(text(state), "accounts")
    assert len(rows) == 20 and not problems


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_root_makes_files_of_the_servers_user_and_follows_none_of_his_links_to_roots_files(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    state, precious = tmp_path / "state", tmp_path / "precious"
    state.mkdir()
    precious.write_text("")
    os.chown(state, 12345, 12345)
    edit.add_account(str(state), BOB)
    owners = {name: os.stat(state / name).st_uid for name in os.listdir(state)}
    assert owners == {"accounts": 12345, "tables.lock": 12345, "tables.stamp": 12345}
    os.symlink(precious, state / "domains")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        edit.add_domain(str(state), "x.org")
    assert precious.read_text() == ""
    assert os.geteuid() == 0 and os.getegid() == 0


def test_a_command_does_not_wait_forever_for_another(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "MAX_LOCK_WAIT", 0.05)
    with open(os.path.join(state, "tables.lock"), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="another command"):
            edit.add_account(state, BOB)


def test_a_state_directory_that_is_not_there_is_one_clear_line(state: str) -> None:
    with pytest.raises(ConfigurationError, match="directory cannot be used: No such file"):
        edit.add_account(os.path.join(state, "missing"), BOB)
