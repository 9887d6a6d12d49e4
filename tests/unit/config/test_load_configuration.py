"""Reading lorrainemail.toml: strict, every problem at once, each with its line and its mend."""

from __future__ import annotations

import os
import re
from pathlib import Path

import attrs
import pytest

from lorrainemail.config.default import default_settings, default_toml
from lorrainemail.config.load import MAX_FILE, Located, load, load_text, locate
from lorrainemail.config.model import RelayRow, Settings
from lorrainemail.errors import ConfigurationError, Origin, Problem

DESIGN = r"""
hostname = "mail.bricoleur.com"
local_domains = ["bricoleur.com"]
relay_networks = ["192.168.1.0/24", "2001:db8::/48"]

[relay]
"*.free.fr" = "smtp.free.fr"
"*" = "smarthost.mondomaine.com"
"*.sousdomaine.mondomaine.com" = "mail.sousdomaine.mondomaine.com"
"*@partner.example" = { host = ["a.partner.example:587", "[192.0.2.7]"], tls = "verified", credentials = "p" }

[listen]
smtp = ['tcp:25:interface=\:\:']
submission = ['tcp:587:interface=\:\:']
submissions = ['tcp:465:interface=\:\:']
pop3 = ['tcp:110:interface=\:\:']
pop3s = ['tcp:995:interface=\:\:']
imap = ['tcp:143:interface=\:\:']
imaps = ['tcp:993:interface=\:\:']

[tls]
certificate = "tls/fullchain.pem"
key = "/etc/tls/key.pem"

[auth]
plaintext = "loopback"

[dns]
resolvers = ["127.0.0.1:5353", "::1"]

[limits]
message_size = "50 MB"
"""


def read(text: str) -> Settings:
    return load_text(text, "/etc/l.toml", "/state")


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    return caught.value.problems


def only(text: str) -> Problem:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_the_documented_example_is_read_as_it_says() -> None:
    settings = read(DESIGN)
    assert settings.hostname == "mail.bricoleur.com"
    assert settings.relay_networks == ("192.168.1.0/24", "2001:db8::/48")
    assert list(settings.relay) == ["*.free.fr", "*", "*.sousdomaine.mondomaine.com", "partner.example"]
    row = settings.relay["partner.example"]
    assert row == RelayRow(("a.partner.example:587", "192.0.2.7:25"), "verified", "p")
    assert row.line == 10
    assert settings.relay["*.free.fr"].host == ("smtp.free.fr:25",)
    assert settings.listen.smtp == (r"tcp:25:interface=\:\:",)
    assert settings.tls.certificate == "/state/tls/fullchain.pem"
    assert settings.tls.key == "/etc/tls/key.pem"
    assert settings.dns.resolvers == ("127.0.0.1:5353", "[::1]:53")
    assert settings.limits.message_size == 50_000_000
    assert settings.origin("local_domains", 0) == Origin("/etc/l.toml", 3)


def test_an_operator_sees_all_his_errors_at_once_with_their_lines() -> None:
    found = problems(
        'hostnam = "x"\n'
        'local_domains = "bricoleur.com"\n'
        'relay_networks = ["10.1.2.3/8",\n'
        '  "nonsense"]\n'
        "[relay]\n"
        '"*.free.fr" = 5\n'
        '[listen]\nsmtp = ["ssl:25"]\n'
        '[limits]\nmessage_size = "50 megs"\nrecipients = "5"\n'
        "[tls]\nkey = 'k.pem'\n"
        "[lisen]\nsmtp = []\n"
    )
    assert [problem.line for problem in found] == [1, 2, 3, 4, 6, 8, 10, 11, 13, 14]
    assert 'did you mean "hostname"' in found[0].mend
    assert found[1].mend == 'write it in brackets: ["bricoleur.com"]'
    assert '"10.0.0.0/8"' in found[2].mend
    assert "by name and replaced while the server runs" in found[5].what
    assert 'did you mean "listen"' in found[9].mend
    assert all(problem.mend for problem in found)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a = "x"\nb = \n', 2),
        ("[relay]\n'*' = 'a'\n'*' = 'b'\n", 3),
        ('[listen]\nsmtp = ["tcp:25:interface=\\:\\:"]\n', 2),
        ('a = "open', 1),
        ("a = [1, 2", 1),
    ],
)
def test_a_syntax_error_names_its_line(text: str, line: int) -> None:
    problem = only(text)
    assert problem.line == line
    assert "this is no TOML" in problem.what


def test_a_backslash_in_double_quotes_is_told_to_use_single_ones() -> None:
    assert "single quotes" in only('[listen]\nsmtp = ["tcp:25:interface=\\:\\:"]\n').mend


@pytest.mark.parametrize(
    "line",
    [
        """archive."*" = "" """,
        "limits.recipients = true",
        'limits.recipients = "1000"',
        "limits.recipients = 10.0",
        "limits.recipients = 0",
        "limits.message_size = 50000000",
        'limits.message_size = "50"',
        'limits.message_size = "50 Mb"',
        'limits.message_size = "1 B"',
        'queue.expire = "5 days"',
        "queue.expire = 5",
        "queue.retry = []",
        'queue.retry = "5m"',
        'queue.retry = ["5m", "0s"]',
        'auth.on_smtp = "yes"',
        "auth.on_smtp = 1",
        'auth.plaintext = "always"',
        "hostname = 5",
        'hostname = "[192.0.2.1]"',
        'hostname = "a..b"',
        'local_domains = ["bob@x.org"]',
        'local_domains = ["*.x.org"]',
        'local_domains = ["x.org", "X.ORG"]',
        "local_domains = [5]",
        'relay_networks = ["192.168.1.1/24"]',
        'relay_networks = ["bricoleur.com"]',
        'dns.resolvers = ["dns.example"]',
        'dns.resolvers = ["127.0.0.1:0"]',
        'relay = "smtp.free.fr"',
        'relay."*.free.*" = "a"',
        'relay.".free.fr" = "a"',
        'relay."bob@*" = "a"',
        'relay.a = "b:port"',
        'relay.a = "b:70000"',
        'relay.a = "b:"',
        'relay.a = "[::1"',
        'relay.a = "[smtp.free.fr]"',
        "relay.a = []",
        "relay.a = {}",
        'relay.a = { host = "b", reject = "no" }',
        'relay.a = { host = "b", mx = true }',
        'relay.a = { mx = true, credentials = "c" }',
        'relay.a = { host = "b", tls = "sha256:abcd" }',
        'relay.a = { host = "b", tls = "yes" }',
        'relay.a = { host = "b", hosts = "c" }',
        'relay.a = { host = "b", line = 3 }',
        'relay.a = { reject = "two\\nlines" }',
        'listen.smtp = "tcp:25"',
        'listen.smtp = ["25"]',
        'listen.smtp = ["tcp:smtp"]',
        'listen.smtp = ["tcp:70000"]',
        'listen.smtp = ["tcp:25:interface=eth0"]',
        'listen.smtp = ["tls:25"]',
        'listen.smtp = ["ssl:465:privateKey=a"]',
        'listen.gopher = ["tcp:70"]',
        'tls.certificate = "a"',
        'subaddress = "a"',
        'subaddress = "+++++"',
        'tables = "a b"',
        'file = "x"',
        "lines = 5",
        'state = "a\\u0000b"',
        "nothing = 1",
    ],
)
def test_what_cannot_be_meant_is_refused_on_its_line(line: str) -> None:
    assert only("# first line\n" + line + "\n").line == 2


def test_the_same_recipients_named_twice_are_refused() -> None:
    problem = only('[relay]\n"free.fr" = "a"\n"*@Free.FR" = "b"\n')
    assert problem.line == 3
    assert "another row" in problem.what


def test_one_port_given_to_two_doors_is_refused() -> None:
    problem = only('[listen]\nsmtp = ["tcp:25"]\nimap = ["tcp:25"]\n')
    assert problem.line == 3
    assert "smtp and imap" in problem.what


@pytest.mark.parametrize(
    "endpoint",
    [
        r"tcp:25:interface=\:\:",
        "tcp:0:interface=127.0.0.1",
        "tcp6:25",
        "unix:/run/smtp.sock",
        "systemd:domain=INET6:index=0",
        "haproxy:tcp:25",
    ],
)
def test_twisted_endpoints_are_taken_without_being_bound(endpoint: str) -> None:
    assert read(f"listen.smtp = ['{endpoint}']\n").listen.smtp == (endpoint,)


def test_two_doors_may_both_ask_for_any_free_port() -> None:
    settings = read('[listen]\nsmtp = ["tcp:0:interface=127.0.0.1"]\nimap = ["tcp:0:interface=127.0.0.1"]\n')
    assert settings.listen.smtp == settings.listen.imap


def test_relay_rows_in_all_their_forms() -> None:
    settings = read(
        '[relay]\n"Été.fr" = "mx"\n"Bob@Free.fr" = { host = "mx" }\n"x.org" = { reject = "No longer here" }\n'
        '"y.org" = { host = "h", share = true, tls = "sha256:' + "AB:" * 31 + 'ab" }\n'
        '"[192.0.2.1]" = "2001:db8::1"\n[relay_by_sender]\n"<>" = "h"\n'
    )
    assert settings.relay["xn--t-9fab.fr"].mx
    assert settings.relay["bob@free.fr"].mx
    assert settings.relay["x.org"].reject == "No longer here"
    assert settings.relay["y.org"] == RelayRow(("h:25",), "sha256:" + "ab" * 32, share=True)
    assert settings.relay["[192.0.2.1]"].host == ("[2001:db8::1]:25",)
    assert settings.relay_by_sender["<>"].host == ("h:25",)


def test_networks_are_compared_with_the_ipv4_mapped_form_undone() -> None:
    assert read('relay_networks = ["::ffff:192.0.2.0/120", "10.0.0.1"]').relay_networks == (
        "192.0.2.0/24",
        "10.0.0.1/32",
    )


def test_a_server_without_a_hostname_takes_the_machines_without_asking_the_dns() -> None:
    assert read("").hostname


def test_a_table_where_a_list_is_meant_does_not_hide_other_errors() -> None:
    assert [problem.line for problem in problems("[local_domains]\nx = 1\n[dns]\nipv6 = 1\n")] == [1, 4]


def test_deeply_nested_values_are_an_error_and_no_crash() -> None:
    assert "nested" in only("a = " + "[" * 5000 + "]" * 5000).what


def test_the_packaged_sample_is_a_configuration_without_errors() -> None:
    sample = Path(__file__).parents[3] / "etc" / "lorrainemail.toml"
    settings = read(sample.read_text(encoding="utf-8"))
    assert settings.listen.smtp and settings.listen.submissions and settings.listen.imaps
    commented = re.sub(r"(?m)^# (?=[\[a-z\"*]+.*[\]=])", "", sample.read_text(encoding="utf-8"))
    assert read(commented).relay["*"].credentials == "provider"  # what is commented out can be switched on


# -- the embedded default --------------------------------------------------------------------------------


@pytest.mark.parametrize("ipv6", [True, False])
def test_the_file_that_the_first_start_writes_means_what_the_first_start_did(ipv6: bool) -> None:
    text = default_toml(ipv6)
    written = load_text(text, "/s/lorrainemail.toml", "/s")
    assert attrs.evolve(written, file="") == default_settings("/s", ipv6)
    lists = [text.index(word) for word in ("\nlocal_domains", "\nrelay_networks", "\n[relay]", "\n[listen]")]
    assert lists == sorted(lists)


# -- where things are ------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "here").mkdir()
    return {
        "directory": str(tmp_path / "here"),
        "system_file": str(tmp_path / "etc" / "lorrainemail.toml"),
        "system_state": str(tmp_path / "var"),
    }


def write(path: str, text: str = "") -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return path


def test_without_anything_the_embedded_default_is_used(places: dict[str, str]) -> None:
    state = os.path.join(places["directory"], "lorrainemail-state")
    located = locate(**places)
    assert located == Located(None, state, True)
    assert load(located).local_domains == ("example.test",)
    assert load(located).state == state


def test_the_second_start_reads_the_file_that_the_first_one_wrote(places: dict[str, str]) -> None:
    state = os.path.join(places["directory"], "lorrainemail-state")
    file = write(os.path.join(state, "lorrainemail.toml"), default_toml())
    assert locate(**places) == Located(file, state, False)


def test_the_option_config_wins_and_its_state_is_relative_to_the_file(places: dict[str, str]) -> None:
    write(places["system_file"])
    file = write(os.path.join(places["directory"], "conf", "a.toml"), 'state = "../data"\n')
    located = locate("conf/a.toml", **places)
    assert located == Located(file, os.path.join(places["directory"], "data"), False)


def test_the_option_state_wins_over_state_in_the_file(places: dict[str, str]) -> None:
    file = write(os.path.join(places["directory"], "a.toml"), 'state = "data"\n')
    assert locate("a.toml", "mine", **places).state == os.path.join(places["directory"], "mine")
    assert locate("a.toml", "mine", **places).file == file


def test_a_file_in_the_state_directory_comes_before_the_systems(places: dict[str, str]) -> None:
    write(places["system_file"])
    file = write(os.path.join(places["directory"], "s", "lorrainemail.toml"), 'state = "/elsewhere"\n')
    assert locate(None, "s", **places) == Located(file, os.path.dirname(file), False)


def test_the_systems_file_serves_a_state_directory_without_one(places: dict[str, str]) -> None:
    file = write(places["system_file"])
    assert locate(None, "s", **places) == Located(file, os.path.join(places["directory"], "s"), False)
    assert locate(**places) == Located(file, places["system_state"], False)


def test_a_state_option_alone_uses_the_embedded_default_there(places: dict[str, str]) -> None:
    assert locate(None, "s", **places) == Located(None, os.path.join(places["directory"], "s"), True)


def test_a_config_option_that_names_no_file_is_an_error_and_nothing_else_is_tried(
    places: dict[str, str],
) -> None:
    write(places["system_file"])
    with pytest.raises(ConfigurationError, match="no such configuration file"):
        locate("missing.toml", **places)


def test_a_broken_file_never_sends_the_state_elsewhere(places: dict[str, str]) -> None:
    write(os.path.join(places["directory"], "a.toml"), 'state = "/data"\nhostname = \n')
    with pytest.raises(ConfigurationError, match=r"a\.toml:2"):
        locate("a.toml", **places)
    write(os.path.join(places["directory"], "a.toml"), "state = 5\n")
    with pytest.raises(ConfigurationError, match=r"a\.toml:1"):
        locate("a.toml", **places)


def test_a_file_that_is_no_text_or_no_file_is_one_clear_line(places: dict[str, str]) -> None:
    path = Path(places["directory"], "a.toml")
    path.write_bytes(b'hostname = "a"\nx = "\xff"\n')
    with pytest.raises(ConfigurationError, match=r"a\.toml:2: is not UTF-8"):
        load(Located(str(path), "/s", False))
    path.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        load(Located(str(path), "/s", False))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(Located(places["directory"], "/s", False))
