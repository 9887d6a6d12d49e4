"""One server tells another how TLS with it went; the other reads that in words (RFC 8460)."""

from __future__ import annotations

import json
import time
from email import message_from_bytes
from typing import Any

from lorrainemail.tlspolicy.plan import Observed, Published
from lorrainemail.tlspolicy.report_file import FILE, TlsReportFile

DNS = 5354
ZONE = """\
$ORIGIN theirs.test.
$TTL 60
@ SOA ns.theirs.test. h.theirs.test. 1 3600 600 604800 60
@ NS ns.theirs.test.
ns A {address}
@ MX 10 mail.theirs.test.
mail A {address}
_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls@theirs.test"
"""


def test_what_one_server_saw_the_other_ones_operator_reads(make_server: Any) -> None:
    theirs = make_server(
        "mail.theirs.test",
        ("theirs.test",),
        ("tls@theirs.test",),
        configuration='[dns]\nzones = ["theirs.zone"]\n[tls_reports]\nmailbox = "tls@theirs.test"\n',
        start=False,
    )
    (theirs.state / "theirs.zone").write_text(ZONE.format(address=theirs.address))
    text = theirs.configuration.read_text()
    door = f"dns = ['tcp:{DNS}:interface={theirs.address}']"
    theirs.configuration.write_text(text.replace("[listen]\n", f"[listen]\n{door}\n"))
    theirs.start()

    ours = make_server(
        configuration=f'[dns]\nresolvers = ["{theirs.address}:{DNS}"]\n[queue]\nport = 2525\n', start=False
    )
    # what was counted the day before yesterday, by a server that then stood still
    day = int(time.time()) // 86400 - 2
    published = Published("sts", "theirs.test", ("version: STSv1", "mode: testing"), ("mail.theirs.test",))
    good = Observed(published, "mail.theirs.test", theirs.address, ours.address, "", "")
    bad = Observed(
        published, "mail.theirs.test", theirs.address, ours.address, "certificate-expired", "it has expired"
    )
    file = TlsReportFile(str(ours.state / FILE))
    file.see({(day, good): 7, (day, bad): 2})
    file.close()
    assert ours.command("dkim", "generate", "ours.test").returncode == 0
    ours.start()

    (message,) = theirs.wait_for_messages("tls@theirs.test", 1)
    parsed = message_from_bytes(message)
    assert parsed["TLS-Report-Domain"] == "theirs.test" and "d=ours.test;" in parsed["DKIM-Signature"]

    def listed() -> Any:
        return json.loads(theirs.command("tls-report", "list", "--json").stdout)["reports"]

    (report,) = theirs.wait(listed, "the report in the other server's list")
    assert (report["good"], report["bad"]) == (7, 2)
    shown = theirs.command("tls-report", "show", "theirs.test").stdout
    assert "7 sessions were well, 2 failed" in shown and "mail.ours.test" in shown
    assert "the certificate had expired" in shown and "it has expired" in shown
    # the day is told; it is not told again
    again = TlsReportFile(str(ours.state / FILE))
    ours.wait(lambda: again.due(day + 10) == [], "that what was told is forgotten")
    again.close()
