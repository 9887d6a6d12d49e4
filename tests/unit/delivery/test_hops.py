"""Next hops: the right hosts in the right order, and the right fault where there are none."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from lorrainemail.delivery.hops import MAX_ADDRESSES, MAX_HOSTS, NextHops, OurEnds, find_hops
from lorrainemail.errors import Reply
from lorrainemail.interfaces import DnsFailure, HopHost, IResolver, MxHost, Route


@implementer(IResolver)
class Zone:
    """Answers from tables; a word in place of records is the kind of failure."""

    def __init__(self, mx: Any = None, addresses: dict[str, Any] | None = None) -> None:
        self._mx = mx
        self._addresses = addresses or {}
        self.asked: list[str] = []

    def mx(self, domain: str) -> Deferred[list[MxHost]]:
        if self._mx is None or isinstance(self._mx, str):
            return fail(DnsFailure(self._mx or "nodata", domain))  # type: ignore[arg-type]
        return succeed([MxHost(preference, host) for preference, host in self._mx])

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        self.asked.append(host)
        found = self._addresses.get(host, "nxdomain")
        if isinstance(found, str):
            return fail(DnsFailure(found, host))  # type: ignore[arg-type]
        return succeed([one for one in found if ipv6 or ":" not in one] or [])

    def txt(self, name: str) -> Deferred[list[bytes]]:
        raise NotImplementedError

    def ptr(self, address: str) -> Deferred[list[str]]:
        raise NotImplementedError


US = OurEnds("mail.ours.test", (("192.0.2.99", 25), ("127.0.0.5", 25)))


def find(zone: Zone, route: Route | None = None, **more: Any) -> NextHops:
    results: list[NextHops] = []
    facts: dict[str, Any] = {"shuffle": list.reverse, "ours": US, **more}
    found = find_hops(route or Route("mx", "x.org"), zone, **facts)
    Deferred.fromCoroutine(found).addCallback(results.append)
    assert results
    return results[0]


def hosts(found: NextHops) -> list[str]:
    assert found.reply is None, found.reply
    return [hop.host for hop in found.hops]


def refusal(found: NextHops) -> tuple[int, str, bool]:
    assert found.reply is not None and not found.hops
    return found.reply.code, found.reply.enhanced, found.ours


def test_mx_hosts_are_tried_by_preference_and_shuffled_within_it() -> None:
    zone = Zone(
        [(20, "c.x.org"), (10, "a.x.org"), (10, "b.x.org")],
        {name: [f"192.0.2.{n}"] for n, name in enumerate(["a.x.org", "b.x.org", "c.x.org"])},
    )
    assert hosts(find(zone)) == ["b.x.org", "a.x.org", "c.x.org"]
    assert hosts(find(zone, shuffle=lambda _: None)) == ["a.x.org", "b.x.org", "c.x.org"]
    assert [hop.port for hop in find(zone, port=2525).hops] == [2525] * 3


def test_a_host_has_its_addresses_ipv6_first() -> None:
    zone = Zone([(1, "a.x.org")], {"a.x.org": ["192.0.2.1", "2001:db8::1", "192.0.2.2"]})
    (hop,) = find(zone, shuffle=lambda _: None).hops
    assert hop.addresses == ("2001:db8::1", "192.0.2.1", "192.0.2.2")
    (hop,) = find(zone, ipv6=False, shuffle=lambda _: None).hops
    assert hop.addresses == ("192.0.2.1", "192.0.2.2")


def test_a_domain_without_mx_is_its_own_host() -> None:
    found = find(Zone("nodata", {"x.org": ["192.0.2.1"]}))
    assert hosts(found) == ["x.org"] and found.hops[0].preference is None


@pytest.mark.parametrize(
    ("mx", "addresses", "expected"),
    [
        ("nxdomain", {}, (550, "5.1.2", False)),
        ("temporary", {}, (451, "4.4.3", False)),
        ("nodata", {"x.org": "nodata"}, (550, "5.1.2", False)),
        ("nodata", {"x.org": "temporary"}, (451, "4.4.3", False)),
        ([(0, ".")], {}, (556, "5.1.10", False)),
        ([(1, "a.x.org"), (2, "b.x.org")], {}, (550, "5.4.4", False)),
        ([(1, "a.x.org"), (2, "b.x.org")], {"b.x.org": "temporary"}, (451, "4.4.3", False)),
        ([(1, "a.x.org"), (0, "mail.ours.test")], {"a.x.org": ["192.0.2.1"]}, (554, "5.4.6", False)),
        ([(1, "a.x.org"), (1, "us.x.org")], {"us.x.org": ["192.0.2.99"]}, (554, "5.4.6", False)),
        ("nodata", {"x.org": ["192.0.2.99"]}, (554, "5.4.6", False)),
    ],
)
def test_without_a_host_the_reply_says_whether_to_try_again(
    mx: Any, addresses: Any, expected: tuple[int, str, bool]
) -> None:
    assert refusal(find(Zone(mx, addresses))) == expected


def test_a_null_mx_beside_others_is_ignored() -> None:
    assert hosts(find(Zone([(0, "."), (5, "a.x.org")], {"a.x.org": ["192.0.2.1"]}))) == ["a.x.org"]


def test_a_backup_hands_on_only_to_better_hosts() -> None:
    zone = Zone(
        [(5, "best.x.org"), (10, "us.x.org"), (10, "equal.x.org"), (20, "worse.x.org")],
        {
            "best.x.org": ["192.0.2.1"],
            "us.x.org": ["192.0.2.99"],
            "equal.x.org": ["192.0.2.2"],
            "worse.x.org": ["192.0.2.3"],
        },
    )
    found = find(zone)
    assert hosts(found) == ["best.x.org"]
    assert sum("not better than ourselves" in reason for reason in found.reasons) == 3


def test_a_host_without_an_address_is_passed_over() -> None:
    assert hosts(find(Zone([(1, "gone.x.org"), (2, "b.x.org")], {"b.x.org": ["192.0.2.2"]}))) == ["b.x.org"]


def test_our_address_on_another_port_is_another_server() -> None:
    zone = Zone([(1, "a.x.org")], {"a.x.org": ["127.0.0.5"]})
    assert hosts(find(zone, port=2525)) == ["a.x.org"]
    assert refusal(find(zone))[1] == "5.4.6"


def test_all_addresses_of_the_machine_are_ours_when_we_listen_on_all() -> None:
    everywhere = OurEnds("mail.ours.test", (("::", 25),))
    zone = Zone([(1, "a.x.org")], {"a.x.org": ["127.0.0.1"]})
    assert refusal(find(zone, ours=everywhere))[1] == "5.4.6"
    other = Zone([(1, "a.x.org")], {"a.x.org": ["198.51.100.7"]})
    assert hosts(find(other, ours=everywhere)) == ["a.x.org"]


def test_the_number_of_hosts_and_addresses_is_bounded() -> None:
    names = [f"h{number}.x.org" for number in range(50)]
    many = [f"192.0.2.{n}" for n in range(50)]
    zone = Zone([(n, name) for n, name in enumerate(names)], dict.fromkeys(names, many))
    found = find(zone)
    assert len(found.hops) == MAX_HOSTS == len(zone.asked)
    assert all(len(hop.addresses) == MAX_ADDRESSES for hop in found.hops)


@pytest.mark.parametrize(
    ("domain", "address"), [("[192.0.2.7]", "192.0.2.7"), ("[IPv6:2001:db8::7]", "2001:db8::7")]
)
def test_an_address_literal_is_its_own_host(domain: str, address: str) -> None:
    (hop,) = find(Zone(), Route("mx", domain)).hops
    assert hop.addresses == (address,)


def test_our_own_address_as_a_literal_is_a_loop() -> None:
    assert refusal(find(Zone(), Route("mx", "[192.0.2.99]")))[1] == "5.4.6"
    assert refusal(find(Zone(), Route("mx", "[nonsense]")))[1] == "5.1.2"


def smarthosts(*named: HopHost, **more: Any) -> Route:
    return Route("hosts", hosts=named, pattern="*", **more)


def test_the_hosts_of_a_row_are_tried_in_its_order_or_shared() -> None:
    row = (HopHost("a.sm.org", 587), HopHost("[192.0.2.7]", 2525), HopHost("[IPv6:2001:db8::7]"))
    zone = Zone(addresses={"a.sm.org": ["192.0.2.1"]})
    found = find(zone, smarthosts(*row))
    assert [(hop.host, hop.port, hop.addresses) for hop in found.hops] == [
        ("a.sm.org", 587, ("192.0.2.1",)),
        ("192.0.2.7", 2525, ("192.0.2.7",)),
        ("2001:db8::7", 25, ("2001:db8::7",)),
    ]
    assert hosts(find(zone, smarthosts(*row, share=True))) == ["2001:db8::7", "192.0.2.7", "a.sm.org"]


@pytest.mark.parametrize("answer", ["nxdomain", "nodata", "temporary"])
def test_a_next_hop_of_ours_that_does_not_resolve_is_our_fault_and_never_final(answer: str) -> None:
    found = find(Zone(addresses={"sm.org": answer}), smarthosts(HopHost("sm.org")))
    assert refusal(found) == (451, "4.3.5", True)


def test_one_dead_smarthost_of_two_is_passed_over() -> None:
    zone = Zone(addresses={"b.org": ["192.0.2.1"]})
    assert hosts(find(zone, smarthosts(HopHost("a.org"), HopHost("b.org")))) == ["b.org"]


def test_a_row_that_points_at_this_server_is_our_fault() -> None:
    assert refusal(find(Zone(), smarthosts(HopHost("[192.0.2.99]", 25)))) == (451, "4.3.5", True)


def test_a_row_that_rejects_says_its_words() -> None:
    route = Route("reject", reply=Reply(550, "5.7.1", "not from here"))
    assert refusal(find(Zone(), route)) == (550, "5.7.1", False)
