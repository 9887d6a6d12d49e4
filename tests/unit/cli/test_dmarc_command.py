"""``lorrainemail dmarc``: files that cannot be taken are named, the others are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorrainemail.cli.main import main

REPORT = """<feedback><report_metadata><org_name>google.com</org_name><report_id>77</report_id>
<date_range><begin>1790000000</begin><end>1790086399</end></date_range></report_metadata>
<policy_published><domain>elorac.test</domain></policy_published></feedback>"""


def read(state: Path, *files: Path) -> int:
    try:
        return main(["dmarc", "read", *map(str, files), "--state", str(state)])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def test_what_cannot_be_read_is_said_in_a_line_and_keeps_nothing_else_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, good, nested = tmp_path / "state", tmp_path / "good.xml", tmp_path / "nested.eml"
    state.mkdir()
    good.write_text(REPORT)
    nested.write_bytes(b"Content-Type: message/rfc822\r\n\r\n" * 5000)
    assert read(state, tmp_path / "missing.xml", tmp_path, nested, good) == 1
    out, err = capsys.readouterr()
    assert out == f"{good}: report of google.com on elorac.test taken\n"
    assert [line.partition(": ")[0] for line in err.splitlines()] == [
        str(tmp_path / "missing.xml"),
        str(tmp_path),
        str(nested),
    ]
    assert read(state, good) == 0


def test_a_database_that_is_none_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dmarc.sqlite").write_bytes(b"nothing of the kind" * 100)
    good = tmp_path / "good.xml"
    good.write_text(REPORT)
    assert read(tmp_path, good) == 1
    assert "dmarc.sqlite: cannot be written" in capsys.readouterr().err
    assert main(["dmarc", "report", "--days", "9" * 30, "--state", str(tmp_path / "none")]) == 0
