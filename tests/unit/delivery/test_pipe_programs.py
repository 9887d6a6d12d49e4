"""Which programs the courier "pipe" runs at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorrainemail.delivery.pipe import _check_program
from lorrainemail.errors import TemporaryError


@pytest.fixture
def program(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir(mode=0o755)
    path = directory / "filter"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def refused(path: Path) -> str:
    with pytest.raises(TemporaryError) as caught:
        _check_program(str(path))
    return caught.value.reply.text


def test_a_program_of_ours_is_run_also_by_a_link(program: Path) -> None:
    _check_program(str(program))
    link = program.parent / "link"
    os.symlink(program, link)
    _check_program(str(link))


def test_a_program_that_others_could_write_or_replace_is_not_run(program: Path) -> None:
    program.chmod(0o775)
    assert "written by others" in refused(program)
    program.chmod(0o755)
    program.parent.chmod(0o777)
    assert "replaced" in refused(program)
    link = program.parent.parent / "link"
    os.symlink(program, link)
    assert "replaced" in refused(link)


def test_what_is_no_program_is_said(program: Path) -> None:
    assert "cannot be run" in refused(program.parent / "missing")
    assert "no program" in refused(program.parent)
    program.chmod(0o644)
    assert "no program" in refused(program)
