"""Which page a request is for: :meth:`Site.answer`.

The door calls it with a :class:`~lorrainemail.http.exchange.Question`; whatever is asked gets an answer, a
failure of a page is the door's to log. Pages are for domains of ours alone. Whether a user exists is told to
nobody: known and unknown addresses of a local domain get the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from twisted.internet.interfaces import IReactorTime

from lorrainemail.http import autoconfig, autodiscover, mobileconfig, mta_sts
from lorrainemail.http.exchange import BAD_REQUEST, NOT_FOUND, PLAIN, Answer, Question, wrong_method
from lorrainemail.http.mta_sts import Policies
from lorrainemail.http.offers import Offer, readable
from lorrainemail.interfaces import ITableService, later
from lorrainemail.net.certificates import Loaded

#: RFC 8555 §8.3.
CHALLENGES: Final = "/.well-known/acme-challenge/"
#: Names in front of a domain that belong to this door.
LABELS: Final = ("mta-sts", "autoconfig", "autodiscover")


class Site:
    """All pages.

    :param offered: the doors that users log in at.
    :param challenges: answers to ACME's questions by token; filled while an order is under way.
    :param signer: a certificate that devices trust, for profiles; None while there is none.
    :param redirect: there is an https door, so that whoever comes in the clear is sent to it.
    """

    def __init__(
        self,
        hostname: str,
        tables: ITableService,
        policies: Policies,
        offered: tuple[Offer, ...],
        challenges: Mapping[str, str],
        clock: IReactorTime,
        signer: Callable[[], Loaded | None] = lambda: None,
        redirect: bool = True,
    ) -> None:
        self.hostname = hostname
        self.policies = policies
        self.offered = offered
        self._tables = tables
        self._challenges = challenges
        self._clock = clock
        self._signer = signer
        self._redirect = redirect

    async def answer(self, question: Question) -> Answer:
        """The answer to any request."""
        path = question.path
        if path.startswith(CHALLENGES):
            return self._challenge(question)
        if not question.secure and self._redirect:
            return await self._to_https(question)
        if path == mta_sts.PATH:
            return await self._policy(question)
        if path in autoconfig.PATHS:
            return await self._autoconfig(question)
        lower = path.lower()
        if lower == autodiscover.PATH:
            return await self._autodiscover(question)
        if lower == autodiscover.JSON_PATH or lower.startswith(f"{autodiscover.JSON_PATH}/v1.0/"):
            return await self._where(question)
        if path in mobileconfig.PATHS:
            return await self._profile(question)
        return NOT_FOUND

    def _challenge(self, question: Question) -> Answer:
        if question.method not in ("GET", "HEAD"):
            return wrong_method("GET", "HEAD")
        answer = self._challenges.get(question.path.removeprefix(CHALLENGES))
        return NOT_FOUND if answer is None else Answer(200, PLAIN, answer.encode())

    async def _to_https(self, question: Question) -> Answer:
        """Never to a name that is not ours: that would be a link to wherever anybody likes."""
        host = question.host
        if not question.path.startswith("/"):
            return NOT_FOUND  # "GET .evil.example/" would go on behind our name
        if host != self.hostname and not await self._local(host) and not await self._domain_below(host):
            return NOT_FOUND
        # The path alone: what a program puts into its query in the clear is an address.
        return Answer(301, PLAIN, b"", (("Location", f"https://{host}{_quoted(question.path)}"),))

    async def _policy(self, question: Question) -> Answer:
        if question.method not in ("GET", "HEAD"):
            return wrong_method("GET", "HEAD")
        label, _, domain = question.host.partition(".")
        if label != "mta-sts" or not await self._local(domain):
            return NOT_FOUND
        return Answer(200, "text/plain", self.policies.text(domain).encode())

    async def _autoconfig(self, question: Question) -> Answer:
        if question.method not in ("GET", "HEAD"):
            return wrong_method("GET", "HEAD")
        given = question.query.get("emailaddress", "")
        if given:
            address = readable(given)
            if address is None or not await self._local(address.domain):
                return NOT_FOUND
            return autoconfig.autoconfig(address.domain, str(address), self.offered)
        domain = await self._domain_below(question.host) or question.host
        if not await self._local(domain):
            return NOT_FOUND
        return autoconfig.autoconfig(domain, "", self.offered)

    async def _autodiscover(self, question: Question) -> Answer:
        now = self._clock.seconds()
        if question.method != "POST":
            return wrong_method("POST")
        try:
            text, schema = autodiscover.asked_for(question.body)
        except autodiscover.Unreadable:
            return autodiscover.error(autodiscover.INVALID_REQUEST, now)
        if not autodiscover.speaks(schema):
            return autodiscover.error(autodiscover.OTHER_SCHEMA, now)
        address = readable(text)
        if address is None or not await self._local(address.domain):
            return autodiscover.error(autodiscover.UNKNOWN_ADDRESS, now)
        return autodiscover.settings(str(address), self.offered)

    async def _where(self, question: Question) -> Answer:
        if question.method not in ("GET", "HEAD"):
            return wrong_method("GET", "HEAD")
        given = question.query.get("email") or question.path.rpartition("/v1.0/")[2]
        address = readable(given)
        if address is None or not await self._local(address.domain):
            return NOT_FOUND
        below = await self._domain_below(question.host)
        return autodiscover.where(
            question.query.get("protocol", ""), question.host if below else self.hostname
        )

    async def _profile(self, question: Question) -> Answer:
        if question.method not in ("GET", "HEAD"):
            return wrong_method("GET", "HEAD")
        given = question.query.get("emailaddress") or question.query.get("email", "")
        if not given:
            return BAD_REQUEST
        address = readable(given)
        if address is None or not await self._local(address.domain):
            return NOT_FOUND
        return mobileconfig.profile(str(address), self.hostname, self.offered, self._signer()) or NOT_FOUND

    async def _local(self, domain: str) -> bool:
        return bool(domain) and await later(self._tables.current().is_local(domain))

    async def _domain_below(self, host: str) -> str:
        """The domain of a name like ``autoconfig.DOMAIN``, "" where it is none of ours."""
        label, _, domain = host.partition(".")
        return domain if label in LABELS and await self._local(domain) else ""


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path, safe="/.-_~@+")
