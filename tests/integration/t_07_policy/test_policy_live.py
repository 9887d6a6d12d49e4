"""Strangers at the door of a live server: what each account wants of a check, and reports that read well."""

from __future__ import annotations

import base64
import gzip
import smtplib
from pathlib import Path
from typing import Any

import pytest

MESSAGE = (
    b"From: Carole <carole@elorac.fr>\r\nTo: x\r\nSubject: The shelf\r\n"
    b"Message-ID: <1@elorac.fr>\r\n\r\nBonjour\r\n"
)
#: Strangers come from here; the server itself is on another address of the loopback network.
STRANGER = "127.200.0.1"


def send(server: Any, recipients: list[str], message: bytes = MESSAGE) -> dict[str, tuple[int, bytes]]:
    with smtplib.SMTP(server.address, 2525, timeout=30, source_address=(STRANGER, 0)) as client:
        client.ehlo("mail.elorac.fr")
        return client.sendmail("carole@elorac.fr", recipients, message)


@pytest.fixture
def server(make_server: Any, tmp_path: Path) -> Any:
    made = make_server(
        hostname="mail.bricoleur.com",
        domains=("bricoleur.com",),
        accounts=("bob@bricoleur.com", "eve@bricoleur.com", "dmarc@bricoleur.com"),
        configuration='[dmarc]\nmailbox = "dmarc@bricoleur.com"\n\n'
        '[policy]\nchecks = ["loops", "shouting"]\n\n'
        '[actions]\nshouting = "tag"\n"bob@bricoleur.com" = { shouting = "junk" }\n'
        '"eve@bricoleur.com" = { shouting = "refuse" }\n',
        start=False,
    )
    plugins = tmp_path / "more" / "lorrainemail" / "plugins"
    plugins.mkdir(parents=True)
    text = (Path(__file__).resolve().parents[3] / "docs" / "policy_checks.rst").read_text()
    block = text.split("::\n\n", 1)[1].split("\n\nName it", 1)[0]
    (plugins / "shouting.py").write_text("\n".join(line[4:] for line in block.split("\n")))
    made.start({"PYTHONPATH": str(tmp_path / "more")})
    return made


def test_the_plugin_of_the_docs_does_what_each_account_wants(server: Any) -> None:
    loud = MESSAGE.replace(b"The shelf", b"BUY A SHELF")
    send(server, ["dmarc@bricoleur.com"], loud)
    (tagged,) = server.wait_for_messages("dmarc@bricoleur.com", 1)
    assert b"X-Lorrainemail-Policy: tag shouting (the subject is all capitals)" in tagged
    with pytest.raises(smtplib.SMTPDataError, match="Please do not shout"):
        send(server, ["eve@bricoleur.com"], loud)
    send(server, ["bob@bricoleur.com", "eve@bricoleur.com"], loud)
    for name in ("bob", "eve"):
        junk = server.maildir(f"{name}@bricoleur.com") / ".Junk" / "new"
        server.wait(lambda junk=junk: list(junk.glob("*")), f"the message in {name}'s Junk")
    server.wait(
        lambda: (
            "for bob@bricoleur.com: shouting: JUNK" in server.command("trace", "bob@bricoleur.com").stdout
        ),
        "the verdict in the trace",
    )
    assert "550 5.7.1 Please do not shout" in server.command("trace", "carole@elorac.fr").stdout


def test_explain_shows_the_verdicts_of_a_message_file_and_writes_nothing(server: Any, tmp_path: Path) -> None:
    file = tmp_path / "loud.eml"
    file.write_bytes(MESSAGE.replace(b"The shelf", b"BUY A SHELF").replace(b"\r\n", b"\n"))
    text = server.configuration.read_text().replace('"loops", "shouting"', '"loops", "greylist"')
    text = text.replace("shouting", "greylist")
    server.configuration.write_text(text.replace('greylist = "tag"', 'greylist = "refuse"', 1))
    words = ("--from", "carole@elorac.fr", "--ip", "192.0.2.7", "--message", str(file))
    shown = server.command("explain", "dmarc@bricoleur.com", *words)
    assert shown.returncode == 0, shown.stderr
    assert "greylist: defer We do not know you yet" in shown.stdout
    assert "Refused at message for now: 451 4.7.1" in shown.stdout
    assert not (server.state / "policy.sqlite").exists()


def test_a_report_that_arrives_is_read_and_shown(server: Any, tmp_path: Path) -> None:
    xml = f"""<?xml version="1.0"?><feedback><report_metadata><org_name>google.com</org_name>
      <email>noreply@google.com</email><report_id>77</report_id><date_range><begin>{_now()}</begin>
      <end>{_now()}</end></date_range></report_metadata><policy_published><domain>bricoleur.com</domain>
      <p>none</p></policy_published><record><row><source_ip>203.0.113.9</source_ip><count>14</count>
      <policy_evaluated><disposition>quarantine</disposition><dkim>fail</dkim><spf>fail</spf>
      </policy_evaluated></row><identifiers><header_from>bricoleur.com</header_from></identifiers>
      <auth_results/></record></feedback>""".encode()
    attached = base64.encodebytes(gzip.compress(xml)).replace(b"\n", b"\r\n")
    head = b"MIME-Version: 1.0\r\nContent-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    message = MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n" + head + attached
    send(server, ["dmarc@bricoleur.com"], message)
    server.wait(
        lambda: "203.0.113.9" in server.command("dmarc", "report", "bricoleur.com").stdout, "the report"
    )
    shown = server.command("dmarc", "report").stdout
    assert "14 messages, 0 passed, 14 failed" in shown and "reported by google.com" in shown
    assert "FAIL in the name of bricoleur.com" in shown and "put aside" in shown
    file = tmp_path / "again.xml"
    file.write_bytes(xml)
    assert "is here already" in server.command("dmarc", "read", str(file)).stdout


def _now() -> int:
    import time

    return int(time.time())
