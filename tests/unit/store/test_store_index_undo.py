"""The index after a job that failed: what it hands out is what it saves."""

from __future__ import annotations

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
