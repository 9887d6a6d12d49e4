"""The state directory: one server at a time, nothing half-made, never a directory that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorrainemail.setup.failure import StartError
from lorrainemail.setup.lock import Locked, StateLock, holder
from lorrainemail.setup.state import Owner, Undo, open_state


def test_a_second_server_is_told_who_has_the_lock(tmp_path: Path) -> None:
    lock = StateLock.acquire(str(tmp_path))
    with pytest.raises(Locked) as held:
        StateLock.acquire(str(tmp_path))
    assert held.value.pid == os.getpid()
    assert holder(str(tmp_path)) == os.getpid()
    lock.release()
    assert holder(str(tmp_path)) is None
    StateLock.acquire(str(tmp_path)).release()


def test_a_lock_file_that_a_dead_server_left_hinders_nobody(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4242424\n")
    assert holder(str(tmp_path)) is None
    lock = StateLock.acquire(str(tmp_path))
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.undo()
    assert (tmp_path / "lock").exists()


def test_a_start_that_fails_leaves_no_lock_file(tmp_path: Path) -> None:
    StateLock.acquire(str(tmp_path)).undo()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_kept_over_a_fork_until_the_last_process_ends(tmp_path: Path) -> None:
    lock = StateLock.acquire(str(tmp_path))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    os.close(lock._descriptor)  # as a daemonising parent ends
    assert holder(str(tmp_path)) is not None
    os.close(writing)
    os.waitpid(child, 0)
    assert holder(str(tmp_path)) is None


def test_a_failed_start_takes_back_what_it_made_and_no_more(tmp_path: Path) -> None:
    state = tmp_path / "a" / "b"
    with pytest.raises(RuntimeError), Undo() as undo:
        open_state(str(state), Owner(), undo)
        (state / "mine").write_text("")
        undo.created(str(state / "mine"))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []

    with pytest.raises(RuntimeError), Undo() as undo:
        open_state(str(state), Owner(), undo)
        (state / "the operator's").write_text("")
        raise RuntimeError
    assert [path.name for path in state.iterdir()] == ["the operator's"]


def test_a_good_start_takes_nothing_back(tmp_path: Path) -> None:
    with Undo() as undo:
        open_state(str(tmp_path / "state"), Owner(), undo)
        undo.keep_all()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_state_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "state", tmp_path / "file"):
        with pytest.raises(StartError, match="--state"):
            open_state(str(path), Owner(), Undo())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change to another user")
def test_what_the_serving_user_cannot_use_is_named(tmp_path: Path) -> None:
    nobody = Owner(uid=65534, gid=65534)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o711)
    state = tmp_path / "state"
    open_state(str(state), nobody, Undo())
    assert state.stat().st_uid == 65534
    (state / "accounts").write_text("")
    (state / "accounts").chmod(0o600)
    with pytest.raises(StartError, match=f"cannot write to {state}/accounts: chown -R"):
        open_state(str(state), nobody, Undo())
    nobody.take_tree(str(state))
    open_state(str(state), nobody, Undo())


def test_the_plugin_file_is_all_that_twistd_reads_for_its_list() -> None:
    """``twistd --help`` must not pay for a mail server."""
    code = (
        "import sys; from twisted.plugin import getPlugins; "
        "from twisted.application.service import IServiceMaker; "
        "makers = {maker.tapname: maker for maker in getPlugins(IServiceMaker)}; "
        "assert makers['lorrainemail'].description; "
        "print([name for name in sys.modules if name.startswith('lorrainemail.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert done.stdout == "[]\n", done.stderr


def test_no_thread_starts_before_twistd_has_forked(tmp_path: Path) -> None:
    """A thread of the parent would be missing in the daemon, whatever it held locked."""
    code = (
        "import threading; from lorrainemail.config import default; "
        "default.PORTS = dict.fromkeys(default.PORTS, 0); "
        "from lorrainemail.tap import Options, makeService; options = Options(); "
        "options['state'] = 'state'; service = makeService(options); "
        "assert threading.active_count() == 1, threading.enumerate()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_options_and_command_import_no_server() -> None:
    code = (
        "import sys; from lorrainemail.tap import Options; import lorrainemail.cli.main; Options(); "
        "lorrainemail.cli.main.make_parser(''); "
        "print([name for name in ('lorrainemail.service', 'cryptography', 'dns', 'argon2', 'attrs')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert "lorrainemail.service" not in done.stdout, done.stderr
    assert done.returncode == 0
