"""The index after a job that failed, and beside other processes: what it hands out is what it saves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lorrainemail.store.index import Index


@pytest.mark.parametrize("again", ["directory", "number"])
def test_a_failed_job_does_not_make_the_next_one_give_the_same_uid_twice(tmp_path: Path, again: str) -> None:
    index = Index(str(tmp_path / "index"), "run")
    index.begin()
    index.savepoint()
    number = index.add_folder("", 1).id
    index.release()
    assert index.folder(number) is not None
    index.savepoint()
    index.undo()
    # Either map may be asked first; both must mean the same object from then on.
    if again == "directory":
        by_directory = index.folders()[""]
        by_number = index.folder(number)
    else:
        by_number = index.folder(number)
        by_directory = index.folders()[""]
    assert by_number is by_directory
    index.commit()
    index.close()


def test_another_process_that_reads_a_new_index_does_not_remove_its_log(tmp_path: Path) -> None:
    index = Index(str(tmp_path / "index"), "run")
    index.begin()
    index.add_folder("", 1)
    index.commit()
    look = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); "
        "d.execute('SELECT * FROM folders').fetchall(); d.close()"
    )
    subprocess.run([sys.executable, "-c", look, str(tmp_path / "index")], check=True, timeout=30)
    assert (tmp_path / "index-wal").exists()
    index.begin()
    index.add_folder(".After", 1)
    index.save_folders()
    index.commit()
    # As after the server was killed: the file and its log are all there is.
    again = Index(str(tmp_path / "index"), "another run")
    assert set(again.folders()) == {"", ".After"}
    again.close()
    index.close()
