"""The DNS records of a domain as a person reads them: a fragment of a zone file, and words for a beginner.

:func:`explained` and :func:`zone_fragment` print what :mod:`lorrainemail.setup.records` computed; called by
``lorrainemail domain dns`` and ``init``. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, Literal

from lorrainemail.setup.records import Facts, Record

Language = Literal["en", "fr"]

#: Each kind of record: what it is for, in one or two sentences.
_TOPICS: Final[dict[str, dict[Language, str]]] = {
    "address": {
        "en": "Where the server is. A is for IPv4, AAAA for IPv6. Without it nobody finds {hostname}.",
        "fr": "Où se trouve le serveur. A pour IPv4, AAAA pour IPv6. Sans lui, personne ne trouve "
        "{hostname}.",
    },
    "mx": {
        "en": "Which server takes the mail of {domain}. Without it nobody can write to you. Remove MX "
        "records "
        "of your former provider: mail would go there.",
        "fr": "Quel serveur reçoit le courrier de {domain}. Sans lui, personne ne peut vous écrire. "
        "Supprimez "
        "les MX de l'ancien fournisseur : le courrier irait chez lui.",
    },
    "ptr": {
        "en": "The way back from the address to the name. You cannot set it at your registrar: ask the "
        "provider "
        'of the server for it (often called "reverse DNS" in its web pages). Without it big providers '
        "refuse "
        "your mail.",
        "fr": "Le chemin inverse, de l'adresse au nom. Il ne se règle pas chez le registraire du domaine : "
        "demandez-le à l'hébergeur du serveur (souvent « reverse DNS » dans ses pages). Sans lui, les "
        "grands "
        "fournisseurs refusent votre courrier.",
    },
    "spf": {
        "en": "Who may send mail for {domain} (SPF): this server and nobody else. A name has one SPF "
        "record; if "
        "there is one already, merge the two.",
        "fr": "Qui a le droit d'envoyer pour {domain} (SPF) : ce serveur et personne d'autre. Un nom n'a "
        "qu'un "
        "enregistrement SPF ; s'il en existe un, fusionnez les deux.",
    },
    "dkim": {
        "en": "The public keys that prove that mail was signed here (DKIM). Some web pages want the text "
        "without quotes and in one piece: then join the strings.",
        "fr": "Les clés publiques qui prouvent que le courrier a été signé ici (DKIM). Certaines pages "
        "veulent "
        "le texte sans guillemets et d'un seul tenant : joignez alors les morceaux.",
    },
    "dmarc": {
        "en": "What others should do with mail that claims to be from {domain} and is not (DMARC): treat "
        "it as "
        "junk, and report.",
        "fr": "Ce que les autres doivent faire du courrier qui se dit de {domain} et ne l'est pas (DMARC) "
        ": le "
        "tenir pour indésirable, et le signaler.",
    },
    "mta_sts": {
        "en": "Says that a policy about encryption can be fetched (MTA-STS). Its id changes with the policy.",
        "fr": "Annonce une politique de chiffrement à consulter (MTA-STS). Son id change avec elle.",
    },
    "mta_sts_host": {
        "en": "Where that policy is fetched: from this server's web door.",
        "fr": "Où cette politique se lit : à la porte web de ce serveur.",
    },
    "tls_rpt": {
        "en": "Where others report that encryption with us failed (TLS-RPT).",
        "fr": "Où les autres signalent un échec de chiffrement avec nous (TLS-RPT).",
    },
    "tlsa": {
        "en": "The key of this server's certificate (DANE). Only for zones that are signed with DNSSEC: "
        "elsewhere leave it out. It must change with the key.",
        "fr": "La clé du certificat de ce serveur (DANE). Seulement pour une zone signée par DNSSEC ; "
        "sinon, "
        "omettez-le. Il doit changer avec la clé.",
    },
    "srv": {
        "en": "Lets mail programs find the server by the address of the user alone.",
        "fr": "Permet aux logiciels de courrier de trouver le serveur d'après la seule adresse de "
        "l'utilisateur.",
    },
    "autoconfig": {
        "en": "Names under which Thunderbird and Outlook look for the settings.",
        "fr": "Noms sous lesquels Thunderbird et Outlook cherchent les réglages.",
    },
}

_HEADS: Final[dict[str, dict[Language, str]]] = {
    "must": {"en": "needed", "fr": "indispensable"},
    "should": {"en": "recommended", "fr": "conseillé"},
    "signed": {"en": "with DNSSEC only", "fr": "avec DNSSEC seulement"},
}

_WORDS: Final[dict[str, dict[Language, str]]] = {
    "zone": {
        "en": "; Records of {domain}, for its zone file.",
        "fr": "; Enregistrements de {domain}, pour son fichier de zone.",
    },
    "ptr": {
        "en": "; To ask the provider of the addresses for (they are not in your zone):",
        "fr": "; À demander à l'hébergeur des adresses (ils ne sont pas dans votre zone) :",
    },
    "no_address": {
        "en": "This machine has no public address of its own that can be seen from here. Give it with "
        "--address, "
        "or as addresses under [dns] in the configuration; the A, AAAA and PTR records are missing below.",
        "fr": "D'ici, cette machine ne montre pas d'adresse publique à elle. Donnez-la par --address, ou "
        "comme "
        "addresses sous [dns] dans la configuration ; A, AAAA et PTR manquent ci-dessous.",
    },
    "no_dkim": {
        "en": 'There are no DKIM keys of {domain} yet: "lorrainemail dkim generate {domain}" makes them.',
        "fr": "Il n'y a pas encore de clés DKIM de {domain} : « lorrainemail dkim generate {domain} » les "
        "crée.",
    },
    "smarthost": {
        "en": "All mail leaves through {smarthosts}. The include in the SPF record is a guess: put there "
        "what that "
        "provider's own pages tell.",
        "fr": "Tout le courrier part par {smarthosts}. L'« include » du SPF est une supposition : "
        "mettez-y ce "
        "qu'indiquent les pages de ce fournisseur.",
    },
    "cname": {
        "en": "Do not give {domain} itself a CNAME: a name with a CNAME can have no MX.",
        "fr": "Ne donnez pas de CNAME à {domain} lui-même : un nom qui a un CNAME ne peut pas avoir de MX.",
    },
}


def word(key: str, language: Language, **facts: object) -> str:
    """One of the sentences around the records."""
    return _WORDS[key][language].format(**facts)


def zone_fragment(facts: Facts, records: Sequence[Record], language: Language) -> Iterator[str]:
    """Lines for a zone file; the PTR records, which belong to others, as comments."""
    yield word("zone", language, domain=facts.domain)
    for topic, group in groupby((r for r in records if r.topic != "ptr"), lambda record: record.topic):
        need = _HEADS[next(r.need for r in records if r.topic == topic)][language]
        yield f"; {topic.upper().replace('_', '-')} ({need})"
        yield from (record.zone_line() for record in group)
    asked = [record for record in records if record.topic == "ptr"]
    if asked:
        yield word("ptr", language)
        yield from (f"; {record.zone_line()}" for record in asked)


def explained(facts: Facts, records: Sequence[Record], language: Language) -> Iterator[str]:
    """For a beginner who types them into a provider's web page: kind by kind, what for, then the values."""
    for number, (topic, group) in enumerate(groupby(records, lambda record: record.topic), 1):
        members = list(group)
        kinds = "/".join(dict.fromkeys(record.type for record in members))
        yield f"{number}. {kinds} ({_HEADS[members[0].need][language]})"
        words = _TOPICS[topic][language].format(domain=facts.domain, hostname=facts.hostname)
        yield f"   {words}"
        for record in members:
            yield f"     {record.name}  {record.type}  {record.data}"
        yield ""
    if facts.smarthosts:
        yield word("smarthost", language, smarthosts=", ".join(facts.smarthosts))
    if not facts.addresses:
        yield word("no_address", language)
    if not facts.dkim:
        yield word("no_dkim", language, domain=facts.domain)
    yield word("cname", language, domain=facts.domain)
