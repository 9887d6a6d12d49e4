"""Who follows a home hears what happens in it, whichever store keeps it."""

import pytest
import pytest_twisted

from lorrainemail.interfaces import Account, HomeEvent, IStore
from lorrainemail.ops.content import Content


@pytest_twisted.ensureDeferred
async def test_all_that_happens_is_heard(store: IStore, bob: Account, kind: str) -> None:
    if kind == "mbox":
        pytest.skip("its other folders are those of the Maildir kind")
    home = store.home(bob)
    inbox = await home.open("INBOX")
    heard: list[HomeEvent] = []
    end = home.watch(heard.append)
    await store.placement(bob, "", b"", Content(b"Subject: x\r\n\r\nx\r\n"), "id").commit()
    await inbox.refresh()
    await home.create("Work")
    await home.subscribe("Work", True)
    await inbox.change_flags([1], "add", ["\\Seen"])
    work = await home.open("Work")
    await inbox.copy_to([1], work)
    work.close()
    await inbox.expunge([1])
    await home.rename("Work", "Play")
    await home.subscribe("Work", False)
    await home.delete("Play")
    said = {(event.kind, event.folder, event.other) for event in heard}
    assert said >= {
        ("delivered", "INBOX", ""),
        ("created", "Work", ""),
        ("subscribed", "Work", ""),
        ("flagged", "INBOX", ""),
        ("copied", "Work", ""),
        ("expunged", "INBOX", ""),
        ("renamed", "Play", "Work"),
        ("unsubscribed", "Work", ""),
        ("deleted", "Play", ""),
    }
    end()
    heard.clear()
    await home.create("Later")
    assert heard == []
    inbox.close()
