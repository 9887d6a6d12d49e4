"""What mail programs are told, each in its own format, whatever they ask for."""

from __future__ import annotations

import json
import plistlib
import subprocess
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, quote
from xml.etree import ElementTree

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.config.model import MtaSts, Settings
from lorrainemail.http.autodiscover import Unreadable, asked_for
from lorrainemail.http.exchange import Answer, Question
from lorrainemail.http.mta_sts import CLEAN, Policies
from lorrainemail.http.offers import offers
from lorrainemail.http.site import Site
from lorrainemail.net.certificates import CertificatePair, Loaded, load

DOORS = [("smtp", 25), ("submission", 587), ("submissions", 465), ("imap", 143), ("imaps", 993), ("imaps", 1)]
OUTLOOK = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"


class Tables:
    """Knows two domains; one of them is slow to say so."""

    def current(self) -> Tables:
        return self

    def is_local(self, domain: str) -> bool | Deferred[bool]:
        if domain == "slow.test":
            answer: Deferred[bool] = Deferred()
            answer.callback(True)
            return answer
        return domain == "ours.test"


def make_site(tmp_path: Path, signer: Loaded | None = None, **more: Any) -> Site:
    settings = Settings(hostname="mail.ours.test", state=str(tmp_path), **more)
    return Site(
        "mail.ours.test",
        cast(Any, Tables()),
        Policies(settings),
        offers("mail.ours.test", DOORS),
        {"tok-en_1": "tok-en_1.thumb"},
        Clock(),
        lambda: signer,
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def ask(site: Site, url: str, body: bytes = b"", method: str = "GET", secure: bool = True) -> Answer:
    host, _, rest = url.partition("/")
    path, _, query = f"/{rest}".partition("?")
    pairs = dict(parse_qsl(query))
    question = Question(method, host, path, pairs, body, secure)
    found: list[Answer] = []
    Deferred.fromCoroutine(site.answer(question)).addCallback(found.append)
    return found[0]


# -- challenges, redirects, the policy ---------------------------------------------------------------


def test_a_certificate_authority_finds_its_answer_in_the_clear_under_any_name(site: Site) -> None:
    found = ask(site, "whatever.test/.well-known/acme-challenge/tok-en_1", secure=False)
    assert (found.status, found.body) == (200, b"tok-en_1.thumb")
    for path in ("", "other", "tok-en_1/", "../tok-en_1"):
        assert ask(site, f"x/.well-known/acme-challenge/{path}", secure=False).status == 404


def test_who_comes_in_the_clear_is_sent_to_https_but_never_to_a_name_that_is_not_ours(site: Site) -> None:
    for host in ("mail.ours.test", "ours.test", "autodiscover.ours.test", "mta-sts.slow.test"):
        found = ask(site, f"{host}/mail/config-v1.1.xml?emailaddress=a@ours.test", secure=False)
        assert (found.status, dict(found.more)) == (301, {"Location": f"https://{host}/mail/config-v1.1.xml"})
    for host in ("evil.test", "autoconfig.evil.test", "", "other.ours.test"):
        assert ask(site, f"{host}/mail/config-v1.1.xml", secure=False).status == 404


@pytest.mark.parametrize("path", [".evil.test/x", "@evil.test/x", "http://evil.test/", "*", ""])
def test_a_request_for_no_path_is_sent_nowhere(site: Site, path: str) -> None:
    found: list[Answer] = []
    question = Question("GET", "ours.test", path, secure=False)
    Deferred.fromCoroutine(site.answer(question)).addCallback(found.append)
    assert found[0].status == 404


def test_a_location_carries_no_line_end_that_was_in_the_path(site: Site) -> None:
    found = ask(site, "ours.test/a\r\nSet-Cookie: x", secure=False)
    assert "\r" not in dict(found.more)["Location"] and "\n" not in dict(found.more)["Location"]


def test_the_policy_is_served_at_its_own_name_for_our_domains_alone(site: Site) -> None:
    found = ask(site, "mta-sts.ours.test/.well-known/mta-sts.txt")
    assert found.status == 200 and found.content_type == "text/plain"
    assert found.body == b"version: STSv1\r\nmode: testing\r\nmx: mail.ours.test\r\nmax_age: 604800\r\n"
    for host in ("mta-sts.evil.test", "ours.test", "mail.ours.test", "mta-sts."):
        assert ask(site, f"{host}/.well-known/mta-sts.txt").status == 404
    assert ask(site, "mta-sts.ours.test/.well-known/mta-sts.txt", method="POST").status == 405


def test_enforce_is_offered_after_a_week_of_clean_checks_and_said_by_the_operator(tmp_path: Path) -> None:
    policies = Policies(Settings(hostname="mail.ours.test", state=str(tmp_path)))
    first = policies.id("ours.test")
    day = 86400.0
    for number in range(3):
        policies.checked("ours.test", [], 1000 + number * day)
    policies.checked("ours.test", ["the record is missing"], 1000 + 3 * day)
    assert policies.standing("ours.test").reasons == ("the record is missing",)
    for number in range(4, 11):
        policies.checked("ours.test", [], 1000 + number * day)
        assert not policies.standing("ours.test").enforce_offered(), number
    policies.checked("ours.test", [], 1000 + 4 * day + CLEAN)
    assert policies.standing("ours.test").enforce_offered()
    assert policies.mode("ours.test") == "testing"
    policies.choose("ours.test", "enforce")
    again = Policies(Settings(hostname="mail.ours.test", state=str(tmp_path)))
    assert (again.mode("ours.test"), again.mode("other.test")) == ("enforce", "testing")
    assert again.id("ours.test") != first
    assert again.standing("ours.test").enforce_offered()


def test_the_configuration_may_set_one_mode_and_further_hosts_for_all(tmp_path: Path) -> None:
    sts = MtaSts(mode="none", mx=("backup.test",), max_age=86400)
    site = make_site(tmp_path, mta_sts=sts)
    site.policies.choose("ours.test", "enforce")
    text = ask(site, "mta-sts.ours.test/.well-known/mta-sts.txt").body.decode()
    assert "mode: none" in text and "mx: backup.test\r\n" in text and "max_age: 86400" in text


def test_a_damaged_state_file_is_no_enforcement(tmp_path: Path) -> None:
    (tmp_path / "mta-sts.json").write_text('{"ours.test": "ENFORCE"}')
    (tmp_path / "mta-sts-checks.json").write_text('{"ours.test": {"clean_since": "x", ')
    assert Policies(Settings(hostname="h.test", state=str(tmp_path))).mode("ours.test") == "testing"


# -- Thunderbird -----------------------------------------------------------------------------------------


def servers(found: Answer) -> list[tuple[str, ...]]:
    assert (found.status, found.content_type) == (200, "text/xml; charset=utf-8")
    root = ElementTree.fromstring(found.body)
    assert root.tag == "clientConfig" and root.get("version") == "1.1"
    provider = root.find("emailProvider")
    assert provider is not None
    return [
        (
            part.tag,
            part.get("type", ""),
            *(part.findtext(tag, "") for tag in ("hostname", "port", "socketType", "username")),
        )
        for part in provider
        if part.tag.endswith("Server")
    ]


@pytest.mark.parametrize(
    "place",
    [
        "autoconfig.ours.test/mail/config-v1.1.xml",
        "ours.test/.well-known/autoconfig/mail/config-v1.1.xml",
        "mail.ours.test/mail/config-v1.1.xml",
    ],
)
def test_thunderbird_gets_the_open_doors_best_first(site: Site, place: str) -> None:
    found = servers(ask(site, f"{place}?emailaddress=bob@ours.test"))
    assert found == [
        ("incomingServer", "imap", "mail.ours.test", "993", "SSL", "bob@ours.test"),
        ("incomingServer", "imap", "mail.ours.test", "143", "STARTTLS", "bob@ours.test"),
        ("outgoingServer", "smtp", "mail.ours.test", "465", "SSL", "bob@ours.test"),
        ("outgoingServer", "smtp", "mail.ours.test", "587", "STARTTLS", "bob@ours.test"),
    ]


def test_thunderbird_without_an_address_fills_it_in_itself(site: Site) -> None:
    for host in ("autoconfig.ours.test", "ours.test", "autoconfig.slow.test"):
        found = servers(ask(site, f"{host}/mail/config-v1.1.xml"))
        assert {row[-1] for row in found} == {"%EMAILADDRESS%"}
    assert ask(site, "mail.ours.test/mail/config-v1.1.xml").status == 404


@pytest.mark.parametrize(
    "address", ["a@evil.test", "no address", "a@", "@ours.test", "a@[127.0.0.1]", "x" * 2000]
)
def test_addresses_that_are_not_ours_are_not_found(site: Site, address: str) -> None:
    for page in ("mail/config-v1.1.xml", "profile.mobileconfig", "autodiscover/autodiscover.json"):
        assert ask(site, f"mail.ours.test/{page}?emailaddress={address}&email={address}").status == 404


@pytest.mark.parametrize("local", ["o'hara", "a&b", "bêta", "{x}", "a+b"])
def test_whatever_an_address_is_made_of_the_documents_stay_well_formed(site: Site, local: str) -> None:
    address = f"{local}@ours.test"
    assert (
        servers(ask(site, f"ours.test/mail/config-v1.1.xml?emailaddress={quote(address)}"))[0][-1] == address
    )
    body = request(address.replace("&", "&amp;"))
    found = ElementTree.fromstring(ask(site, "ours.test/autodiscover/autodiscover.xml", body, "POST").body)
    assert found.findtext(f".//{{{OUTLOOK}}}LoginName") == address
    profile = plistlib.loads(ask(site, f"ours.test/profile.mobileconfig?email={quote(address)}").body)
    assert profile["PayloadContent"][0]["EmailAddress"] == address


def test_a_plus_sign_that_a_program_did_not_encode_is_still_one(site: Site) -> None:
    found = servers(ask(site, "ours.test/mail/config-v1.1.xml?emailaddress=bob+x@ours.test"))
    assert found[0][-1] == "bob+x@ours.test"


# -- Outlook ---------------------------------------------------------------------------------------------


def request(
    address: str, schema: str = OUTLOOK, head: str = '<?xml version="1.0" encoding="utf-8"?>'
) -> bytes:
    space = "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"
    return (
        f'{head}<Autodiscover xmlns="{space}"><Request><EMailAddress>{address}</EMailAddress>'
        f"<AcceptableResponseSchema>{schema}</AcceptableResponseSchema></Request></Autodiscover>"
    ).encode()


def test_outlook_gets_one_door_for_reading_and_one_for_sending(site: Site) -> None:
    found = ask(
        site, "autodiscover.ours.test/Autodiscover/Autodiscover.xml", request("bob@ours.test"), "POST"
    )
    root = ElementTree.fromstring(found.body)
    spaces = {"o": OUTLOOK}
    assert root.findtext("o:Response/o:Account/o:Action", "", spaces) == "settings"
    protocols = [
        tuple(part.findtext(f"o:{tag}", "", spaces) for tag in ("Type", "Server", "Port", "SSL", "LoginName"))
        for part in root.iterfind("o:Response/o:Account/o:Protocol", spaces)
    ]
    assert protocols == [
        ("IMAP", "mail.ours.test", "993", "on", "bob@ours.test"),
        ("SMTP", "mail.ours.test", "465", "on", "bob@ours.test"),
    ]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (request("bob@evil.test"), "500"),
        (request("bob"), "500"),
        (request("bob@ours.test", "http://schemas.microsoft.com/exchange/autodiscover/mobilesync/x"), "601"),
        (b"", "600"),
        (b"<a>", "600"),
        (request("bob@ours.test", head='<!DOCTYPE a [<!ENTITY x "xx">]>'), "600"),
        (b"<Autodiscover/>", "600"),
        (b"<a>" * 100 + b"</a>" * 100, "600"),
        (request("b" * 5000), "600"),
        (request("bob@ours.test").decode().encode("utf-16"), "600"),
    ],
)
def test_outlook_is_told_what_was_wrong_in_its_own_words(site: Site, body: bytes, code: str) -> None:
    found = ask(site, "ours.test/autodiscover/autodiscover.xml", body, "POST")
    assert found.status == 200
    space = "{http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006}"
    assert ElementTree.fromstring(found.body).findtext(f".//{space}ErrorCode") == code


def test_outlook_of_today_learns_where_the_xml_is(site: Site) -> None:
    url = "https://autodiscover.ours.test/autodiscover/autodiscover.xml"
    for path in ("autodiscover.json?email=bob@ours.test&", "autodiscover.json/v1.0/bob@ours.test?"):
        found = ask(site, f"autodiscover.ours.test/autodiscover/{path}protocol=AutodiscoverV1")
        assert json.loads(found.body) == {"Protocol": "AutodiscoverV1", "Url": url}
    found = ask(site, "ours.test/autodiscover/autodiscover.json?email=bob@ours.test&protocol=EWS")
    assert (found.status, json.loads(found.body)["ErrorCode"]) == (400, "InvalidProtocol")


@given(st.binary(max_size=400))
def test_no_request_of_outlook_is_worse_than_unreadable(body: bytes) -> None:
    try:
        asked_for(body)
    except Unreadable:
        pass


# -- Apple -----------------------------------------------------------------------------------------------


def test_the_profile_of_an_address_is_the_same_thing_each_time(site: Site) -> None:
    first, second, other = (
        plistlib.loads(ask(site, f"mail.ours.test/profile.mobileconfig?email={who}@ours.test").body)
        for who in ("bob", "bob", "alice")
    )
    assert first == second
    account = first["PayloadContent"][0]
    assert {account["PayloadUUID"], first["PayloadUUID"]}.isdisjoint(
        {other["PayloadUUID"], other["PayloadContent"][0]["PayloadUUID"]}
    )
    assert (account["IncomingMailServerHostName"], account["IncomingMailServerPortNumber"]) == (
        "mail.ours.test",
        993,
    )
    assert account["OutgoingMailServerPortNumber"] == 465 and account["OutgoingMailServerUseSSL"] is True
    assert ask(site, "mail.ours.test/profile.mobileconfig").status == 400


@pytest.mark.parametrize("kind", list(trustme.KeyType))
def test_a_profile_is_signed_where_a_known_authority_vouches_for_us(
    tmp_path: Path, kind: trustme.KeyType
) -> None:
    ca = trustme.CA()
    leaf = ca.issue_cert("mail.ours.test", key_type=kind)
    pem = tmp_path / "both.pem"
    pem.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    site = make_site(tmp_path, load(CertificatePair(str(pem), str(pem))))
    signed = ask(site, "mail.ours.test/profile.mobileconfig?email=bob@ours.test").body
    assert pkcs7.load_der_pkcs7_certificates(signed)
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem.bytes())
    words = ["openssl", "smime", "-verify", "-inform", "DER", "-purpose", "any", "-CAfile", "ca.pem"]
    verified = subprocess.run(words, input=signed, capture_output=True, cwd=tmp_path, timeout=30, check=False)
    assert verified.returncode == 0, verified.stderr
    assert plistlib.loads(verified.stdout)["PayloadContent"][0]["EmailAddress"] == "bob@ours.test"


def test_there_is_no_profile_for_a_server_that_nobody_can_read_mail_at(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.offered = offers("mail.ours.test", [("submissions", 465)])
    assert ask(site, "mail.ours.test/profile.mobileconfig?email=bob@ours.test").status == 404


def test_nothing_else_is_there(site: Site) -> None:
    for path in ("", "index.html", "mail/", ".well-known/", "%2e%2e/etc/passwd", "autodiscover/"):
        assert ask(site, f"mail.ours.test/{path}").status == 404
