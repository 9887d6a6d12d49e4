"""The RFC ledger tells the truth as far as a machine can see."""

from __future__ import annotations

import csv
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def rows() -> list[list[str]]:
    text = (ROOT / "docs" / "rfcs.rst").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if re.match(r"\s+\d{3,5}, ", line)]
    return [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]


def references() -> set[str]:
    found: set[str] = set()
    for folder in ("lorrainemail", "tests"):
        for pattern in ("*.py", "*.txt"):
            for file in (ROOT / folder).rglob(pattern):
                found.update(re.findall(r"RFC (\d{3,5})", file.read_text(encoding="utf-8")))
    return found


def test_every_row_has_a_known_state() -> None:
    assert len(rows()) > 30
    assert {row[1] for row in rows()} <= {"yes", "partial", "no"}
    assert all(len(row) == 3 and row[2] for row in rows())


def test_what_the_ledger_claims_is_referred_to_in_code_or_tests() -> None:
    known = references()
    missing = [row[0] for row in rows() if row[1] != "no" and row[0] not in known]
    assert not missing, f"no reference to RFC {', '.join(missing)}"


def test_every_rfc_that_the_code_names_stands_in_the_ledger() -> None:
    listed = {row[0] for row in rows()}
    code: set[str] = set()
    for file in (ROOT / "lorrainemail").rglob("*.py"):
        code.update(re.findall(r"RFC (\d{3,5})", file.read_text(encoding="utf-8")))
    assert code <= listed, f"not in docs/rfcs.rst: {sorted(code - listed, key=int)}"
