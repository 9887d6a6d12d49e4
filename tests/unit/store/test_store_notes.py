"""What clients note of folders, on disk."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import Account, IStore
from lorrainemail.store import notes
from lorrainemail.store.mailstore import MailStore


@pytest_twisted.ensureDeferred
async def test_notes_follow_their_folder(store: IStore, bob: Account) -> None:
    home = store.home(bob)
    await home.create("Work/Paint")
    await home.set_metadata("Work/Paint", {"/private/comment": b"\xff\xe9", "/shared/x": b"1"})
    await home.set_metadata("", {"/private/y": b"2"})
    await home.set_metadata("Work/Paint", {"/shared/x": None})
    await home.rename("Work", "Play")
    assert await home.metadata("Play/Paint") == {"/private/comment": b"\xff\xe9"}
    assert await home.metadata("") == {"/private/y": b"2"}
    await home.delete("Play/Paint")
    await home.create("Play/Paint")
    assert await home.metadata("Play/Paint") == {}
    with pytest.raises(PermanentError, match="NONEXISTENT"):
        await home.metadata("Nowhere")


@pytest_twisted.ensureDeferred
async def test_they_outlive_the_index_and_a_damaged_file_is_set_aside(
    open_store: Callable[..., Awaitable[MailStore]], bob: Account, tmp_path: Path
) -> None:
    store = await open_store()
    await store.home(bob).set_metadata("INBOX", {"/private/comment": b"x"})
    await store.stopService()
    (index,) = tmp_path.rglob("index.sqlite")  # noqa: ASYNC240
    index.unlink()
    store = await open_store()
    assert await store.home(bob).metadata("INBOX") == {"/private/comment": b"x"}
    (file,) = tmp_path.rglob("annotations.json")  # noqa: ASYNC240
    file.write_bytes(b"[1, 2")
    assert await store.home(bob).metadata("INBOX") == {}
    assert file.with_name("annotations.json.bad").exists()


@pytest_twisted.ensureDeferred
async def test_they_are_bounded(disk_store: MailStore, bob: Account, monkeypatch: Any) -> None:
    home = disk_store.home(bob)
    with pytest.raises(PermanentError, match="LIMIT"):
        await home.set_metadata("INBOX", {"/private/x": b"x" * (notes.MAX_VALUE + 1)})
    with pytest.raises(PermanentError, match="LIMIT"):
        await home.set_metadata("INBOX", {f"/private/{n}": b"" for n in range(notes.MAX_ENTRIES + 1)})
    monkeypatch.setattr(notes, "MAX_ALL", 100)
    with pytest.raises(PermanentError, match="LIMIT"):
        await home.set_metadata("INBOX", {"/private/x": b"x" * 200})
    assert await home.metadata("INBOX") == {}
