"""Connections of one process to one SQLite file, and another process that comes and goes beside them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lorrainemail.ops.database import make_private


def test_what_two_connections_wrote_is_seen_by_others_and_stays(tmp_path: Path) -> None:
    """A command beside the server must neither miss what is written nor take the log away under it."""
    path = str(tmp_path / "file.sqlite")
    count = f"import sqlite3; print(*sqlite3.connect({path!r}).execute('SELECT count(*) FROM t').fetchone())"
    read = [sys.executable, "-c", count]
    connections = []
    for _ in range(2):
        make_private(path)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
        connections.append(connection)
    for number in range(3):
        for connection in connections:
            connection.execute("INSERT INTO t VALUES (1)")
        seen = subprocess.run(read, capture_output=True, text=True, timeout=30, check=True).stdout
        assert int(seen) == 2 * (number + 1)
    for connection in connections:
        connection.close()


def test_the_file_is_ours_alone_and_no_link(tmp_path: Path) -> None:
    path = tmp_path / "file.sqlite"
    make_private(str(path))
    assert os.stat(path).st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError):
        make_private(str(tmp_path / "link"))
