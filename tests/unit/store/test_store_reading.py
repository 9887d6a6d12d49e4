"""Small messages are read at once where nothing has to be waited for, and only then."""

import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import Account
from lorrainemail.ops.content import Content
from lorrainemail.store import reading
from lorrainemail.store.reading import AT_HAND, read_at_hand

needs_linux = pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells")


@needs_linux
def test_what_is_read_at_hand_is_the_message_in_wire_form(tmp_path: Path) -> None:
    file = tmp_path / "m"
    file.write_bytes(b"Subject: a\n\nbody\n")
    wire = b"Subject: a\r\n\r\nbody\r\n"
    found = read_at_hand(str(file), False)
    if found is None:
        pytest.skip("this file system waits for every read")
    assert found == wire
    file.write_bytes(wire)
    assert read_at_hand(str(file), True) == wire
    file.write_bytes(b"")
    assert read_at_hand(str(file), False) == b""


def test_links_directories_and_large_files_are_left_to_those_who_may_wait(tmp_path: Path) -> None:
    file = tmp_path / "m"
    file.write_bytes(b"x" * (AT_HAND + 1))
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    for name in ("m", "link", "pipe", "", "missing"):
        assert read_at_hand(f"{tmp_path}/{name}", False) is None


def test_octets_that_the_system_does_not_have_at_hand_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m"
    file.write_bytes(b"Subject: a\n\nbody\n")

    def blocks(*_: Any) -> int:
        raise BlockingIOError

    monkeypatch.setattr(reading.os, "preadv", blocks)
    assert read_at_hand(str(file), False) is None


def files_below(path: Path) -> list[Path]:
    return sorted(path.rglob("Maildir/[nc][eu][wr]/*"))


@pytest_twisted.ensureDeferred
async def test_a_message_that_another_program_took_away_is_gone_and_one_it_renamed_is_found(
    open_store: Any, bob: Account, tmp_path: Path
) -> None:
    store = await open_store()
    for _ in range(2):
        await store.placement(bob, "", b"", Content(b"Subject: x\r\n\r\nbody\r\n"), "id").commit()
    inbox = await store.home(bob).open("INBOX")
    await inbox.facts([1, 2], wire=True)
    message = await inbox.message(1)
    assert (await message.read()).endswith(b"body\r\n")
    first, second = files_below(tmp_path)
    os.rename(first, first.parent.parent / "cur" / f"{first.name.partition(':')[0]}:2,F")
    second.unlink()
    message = await inbox.message(1)
    assert (await message.read()).endswith(b"body\r\n")
    with pytest.raises(PermanentError):
        await inbox.message(2)
    inbox.close()
