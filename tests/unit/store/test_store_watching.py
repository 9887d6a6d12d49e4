"""What inotify tells of our own files and of those who touch them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lorrainemail.store.watching import Inotify, Notices


class Reactor:
    def addReader(self, reader: object) -> None: ...

    def removeReader(self, reader: object) -> None: ...


@pytest.mark.parametrize("told_first", [True, False])
@pytest.mark.parametrize("taken_away", [True, False])
def test_our_own_delivery_is_no_news_but_who_takes_it_away_is(
    tmp_path: Path, told_first: bool, taken_away: bool
) -> None:
    reactor: Any = Reactor()
    inotify = Inotify(reactor)
    (tmp_path / "new").mkdir()
    notices = Notices(inotify, {"new": str(tmp_path / "new")})
    (tmp_path / "staged").write_bytes(b"")
    if told_first:
        notices.expect("new/message")
    os.rename(tmp_path / "staged", tmp_path / "new" / "message")
    if taken_away:
        os.unlink(tmp_path / "new" / "message")
    notices.drain()
    if not told_first:
        notices.expect("new/message")
    assert notices.pending() is taken_away
    assert notices.take() == ({"new/message"} if taken_away else set())
    notices.close()
    inotify.close()
