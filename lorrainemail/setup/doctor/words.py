"""The doctor's words, in English and in French: for each case what, why it matters, what to do.

:func:`words_of` makes the three sentences of a finding; :func:`line_of` the one line that is printed. Pure.
A case without words of its own and whose name ends in "unknown" has the common ones.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from lorrainemail.setup.doctor.findings import Finding, Language, Level


class Words(NamedTuple):
    """What, why it matters, what to do."""

    what: str
    why: str
    mend: str


_LEVELS: Final[dict[Language, dict[Level, str]]] = {
    "en": {"bad": "BAD", "warn": "could be better", "unknown": "not known", "good": "good"},
    "fr": {"bad": "MAUVAIS", "warn": "à améliorer", "unknown": "inconnu", "good": "bon"},
}
#: The names of the checks that found nothing wrong.
_CHECKS: Final[dict[Language, dict[str, str]]] = {
    "en": {
        "address": "addresses in the DNS",
        "blocklist": "no blocklist has it",
        "certificate": "certificate",
        "clock": "clock",
        "disk": "room on the disk",
        "dkim": "DKIM keys in the DNS",
        "dmarc": "DMARC",
        "door": "door open",
        "mta_sts": "MTA-STS",
        "mx": "MX",
        "outgoing": "mail can leave",
        "permissions": "permissions",
        "ptr": "PTR, confirmed in both directions",
        "queue": "queue",
        "relay": "no open relay",
        "servers": "name servers",
        "spf": "SPF",
        "srv": "SRV records",
        "tls_report": "what others report of TLS",
        "tls_rpt": "TLS-RPT",
        "tlsa": "TLSA",
    },
    "fr": {
        "address": "adresses dans le DNS",
        "blocklist": "sur aucune liste noire",
        "certificate": "certificat",
        "clock": "horloge",
        "disk": "place sur le disque",
        "dkim": "clés DKIM dans le DNS",
        "dmarc": "DMARC",
        "door": "porte ouverte",
        "mta_sts": "MTA-STS",
        "mx": "MX",
        "outgoing": "le courrier peut partir",
        "permissions": "droits des fichiers",
        "ptr": "PTR, confirmé dans les deux sens",
        "queue": "file d'attente",
        "relay": "pas de relais ouvert",
        "servers": "serveurs de noms",
        "spf": "SPF",
        "srv": "enregistrements SRV",
        "tls_report": "ce que d'autres rapportent de TLS",
        "tls_rpt": "TLS-RPT",
        "tlsa": "TLSA",
    },
}
_JOINTS: Final[dict[Language, tuple[str, str]]] = {
    "en": ("Why it matters:", "What to do:"),
    "fr": ("Pourquoi c'est important :", "Que faire :"),
}


def words_of(finding: Finding, language: Language) -> Words:
    """The three sentences; of a good finding the first alone."""
    if finding.level == "good":
        return Words(_CHECKS[language].get(finding.check, finding.check), "", "")
    known = WORDS.get(finding.case) or WORDS["unknown"]
    facts = {"subject": finding.subject, **dict(finding.facts)}
    return Words(*(text.format_map(_Facts(facts)) for text in known[language]))


def line_of(finding: Finding, language: Language) -> str:
    """One line."""
    what, why, mend = words_of(finding, language)
    head = f"{_LEVELS[language][finding.level]}: {finding.subject}: {what}"
    if not why:
        return head
    because, do = _JOINTS[language]
    return f"{head}. {because} {why} {do} {mend}"


class _Facts(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def _case(what: str, why: str, mend: str, quoi: str, pourquoi: str, faire: str) -> dict[Language, Words]:
    return {"en": Words(what, why, mend), "fr": Words(quoi, pourquoi, faire)}


_DEEP_EN: Final = (
    "the record stands at {host}",
    "The provider's web page has added the domain once more, so nobody finds it at {subject}.",
    "In that web page leave the domain out of the name (or put a dot after it).",
)
_DEEP_FR: Final = (
    "l'enregistrement se trouve à {host}",
    "La page de l'hébergeur a ajouté le domaine une fois de trop : personne ne le trouve à {subject}.",
    "Dans cette page, n'écrivez pas le domaine dans le nom (ou mettez un point à la fin).",
)

WORDS: Final[dict[str, dict[Language, Words]]] = {
    "unknown": _case(
        "could not be looked at just now",
        "What cannot be asked may be well or ill.",
        "Try again later; if it stays so, look at the resolver under [dns] and at the network.",
        "n'a pas pu être examiné pour l'instant",
        "Ce qui ne répond pas peut aller bien ou mal.",
        "Réessayez plus tard ; si cela dure, voyez le résolveur sous [dns] et le réseau.",
    ),
    "check.late": _case(
        "this check did not end in time",
        "Something answers too slowly, on purpose or not.",
        "Try again later.",
        "cet examen n'a pas fini à temps",
        "Quelque chose répond trop lentement, exprès ou non.",
        "Réessayez plus tard.",
    ),
    "check.failed": _case(
        "this check failed in itself",
        "The fault is the doctor's; what it should look at may be well.",
        "The log has the details; please report it.",
        "cet examen a échoué de lui-même",
        "La faute est au docteur ; ce qu'il devait voir va peut-être bien.",
        "Le journal a les détails ; merci de les signaler.",
    ),
    "resolver.mute": _case(
        "no resolver answers",
        "Without DNS no mail leaves, and nothing of it could be looked at.",
        "See resolvers under [dns] in the configuration, or /etc/resolv.conf.",
        "aucun résolveur ne répond",
        "Sans DNS aucun courrier ne part, et rien n'a pu en être examiné.",
        "Voyez resolvers sous [dns] dans la configuration, ou /etc/resolv.conf.",
    ),
    # -- the zone
    "servers.none": _case(
        "no name server in the world answers for this domain",
        "Nobody can write to it: the domain is not registered, has run out, or is not delegated.",
        "Look at your registrar whether it is paid and which name servers it has.",
        "aucun serveur de noms au monde ne répond pour ce domaine",
        "Personne ne peut lui écrire : il n'est pas enregistré, a expiré, ou n'est pas délégué.",
        "Voyez chez le registraire s'il est payé et quels serveurs de noms il a.",
    ),
    "servers.lame": _case(
        "this name server does not answer for {name} ({fault})",
        "Whoever asks it waits, or finds nothing: mail is late or lost by turns.",
        "Mend the zone on that server, or take it out of the NS records.",
        "ce serveur de noms ne répond pas pour {name} ({fault})",
        "Qui l'interroge attend ou ne trouve rien : le courrier tarde ou se perd, par moments.",
        "Réparez la zone sur ce serveur, ou retirez-le des NS.",
    ),
    "servers.one": _case(
        "the zone has one name server only",
        "While it is down nobody can write to you.",
        "Have a second one; most providers offer it.",
        "la zone n'a qu'un serveur de noms",
        "S'il tombe, personne ne peut vous écrire.",
        "Ayez-en un deuxième ; presque tous les hébergeurs l'offrent.",
    ),
    "servers.serials": _case(
        "the name servers have different versions of the zone ({serials})",
        "Some people see old records.",
        "Wait a while; if it stays so, mend the transfer between the name servers.",
        "les serveurs de noms ont des versions différentes de la zone ({serials})",
        "Certains voient d'anciens enregistrements.",
        "Attendez un peu ; si cela dure, réparez le transfert entre les serveurs de noms.",
    ),
    "servers.differ": _case(
        "the name servers say different things ({servers} unlike the first)",
        "What others see depends on chance, so mail works by turns.",
        "Have all name servers load the same zone.",
        "les serveurs de noms ne disent pas la même chose ({servers} autrement que le premier)",
        "Ce que voient les autres tient au hasard : le courrier marche par moments.",
        "Faites charger la même zone à tous les serveurs de noms.",
    ),
    "servers.loop": _case(
        "its CNAME records lead round in a circle",
        "The name has no end, so it is as if it did not exist.",
        "Replace the CNAME by the record itself.",
        "ses CNAME tournent en rond",
        "Le nom n'a pas de fin : c'est comme s'il n'existait pas.",
        "Remplacez le CNAME par l'enregistrement lui-même.",
    ),
    "servers.too_many": _case(
        "was left out: this check-up has asked very many questions already",
        "The zone has many servers, or makes work on purpose.",
        'Look at this domain alone: "lorrainemail doctor --domain NAME".',
        "n'a pas été vu : cet examen a déjà posé bien trop de questions",
        "La zone a beaucoup de serveurs, ou fait travailler exprès.",
        "Examinez ce domaine seul : « lorrainemail doctor --domain NOM ».",
    ),
    # -- mail in
    "mx.missing": _case(
        "there is no MX record",
        "Nobody can write to this domain.",
        "Publish at this name: MX {data}",
        "il n'y a pas de MX",
        "Personne ne peut écrire à ce domaine.",
        "Publiez à ce nom : MX {data}",
    ),
    "mx.doubled": _case(
        "the MX names {host}",
        "The domain was added once more, so mail finds no such host.",
        "Write the host with a dot at its end: {right}",
        "le MX nomme {host}",
        "Le domaine a été ajouté une fois de trop : le courrier ne trouve pas cette machine.",
        "Écrivez le nom avec un point final : {right}",
    ),
    "mx.null": _case(
        "its MX says that this domain takes no mail",
        "Others refuse at once to write to it.",
        'Replace the MX "." by this server\'s name.',
        "son MX dit que ce domaine ne reçoit pas de courrier",
        "Les autres refusent aussitôt de lui écrire.",
        "Remplacez le MX « . » par le nom de ce serveur.",
    ),
    "mx.address": _case(
        "an MX names the address {host}",
        "An MX must name a host; many servers cannot use an address.",
        "Put this server's name there.",
        "un MX donne l'adresse {host}",
        "Un MX doit donner un nom ; bien des serveurs ne savent que faire d'une adresse.",
        "Mettez-y le nom de ce serveur.",
    ),
    "mx.elsewhere": _case(
        "its MX names {hosts}, not {hostname}",
        "Mail for this domain goes elsewhere.",
        "Let the MX name {hostname}, and remove those of the former provider.",
        "son MX nomme {hosts}, pas {hostname}",
        "Le courrier de ce domaine va ailleurs.",
        "Que le MX nomme {hostname} ; supprimez ceux de l'ancien fournisseur.",
    ),
    "mx.others": _case(
        "there are further MX hosts: {hosts}",
        "Some mail goes there; if those are not yours, it is lost to you.",
        "Remove them, unless they are your own backup.",
        "il y a d'autres MX : {hosts}",
        "Une part du courrier va chez eux ; s'ils ne sont pas à vous, elle est perdue.",
        "Supprimez-les, sauf si c'est votre secours.",
    ),
    "mx.cname": _case(
        "the MX names an alias (CNAME)",
        "That is forbidden; some servers then refuse to deliver.",
        "Give the name A and AAAA records instead of the CNAME.",
        "le MX nomme un alias (CNAME)",
        "C'est interdit ; certains serveurs refusent alors de livrer.",
        "Donnez à ce nom des A et AAAA à la place du CNAME.",
    ),
    "mx.domain_cname": _case(
        "the domain itself is an alias for {target}",
        "A name with a CNAME has no MX, SPF or anything else of its own.",
        "Replace the CNAME by A and AAAA records; then add the MX.",
        "le domaine lui-même est un alias de {target}",
        "Un nom qui a un CNAME n'a ni MX, ni SPF, ni rien à lui.",
        "Remplacez le CNAME par des A et AAAA, puis ajoutez le MX.",
    ),
    "address.unknown": _case(
        "this machine does not know its public addresses",
        "The records that depend on them cannot be looked at.",
        'Name them in the configuration: [dns] addresses = ["192.0.2.7"]',
        "cette machine ne connaît pas ses adresses publiques",
        "Les enregistrements qui en dépendent ne peuvent être vus.",
        'Indiquez-les dans la configuration : [dns] addresses = ["192.0.2.7"]',
    ),
    "address.missing": _case(
        "it has no {kind} record for {address}",
        "Others do not find this server there.",
        "Publish: {subject} {kind} {address}",
        "il lui manque un {kind} pour {address}",
        "Les autres n'y trouvent pas ce serveur.",
        "Publiez : {subject} {kind} {address}",
    ),
    "address.wrong": _case(
        "its {kind} record says {address}, which is not an address of this server",
        "Mail that goes there is late, or lost to a stranger.",
        "Remove that record (or, if the address is yours, name it in [dns] addresses).",
        "son {kind} dit {address}, qui n'est pas une adresse de ce serveur",
        "Le courrier qui va là tarde, ou se perd chez un inconnu.",
        "Supprimez-le (ou, si l'adresse est à vous, indiquez-la dans [dns] addresses).",
    ),
    "ptr.missing": _case(
        "this address has no PTR record",
        "Big providers refuse mail from nameless addresses.",
        'Ask the provider of the server to set the "reverse DNS" to {hostname}.',
        "cette adresse n'a pas de PTR",
        "Les grands fournisseurs refusent le courrier d'adresses sans nom.",
        "Demandez à l'hébergeur du serveur de mettre le « reverse DNS » à {hostname}.",
    ),
    "ptr.missing6": _case(
        "this IPv6 address has no PTR record; mail leaves by IPv4 meanwhile",
        "Big providers refuse mail from nameless IPv6 addresses.",
        'Ask the provider of the server to set the "reverse DNS" of the IPv6 address to {hostname}.',
        "cette adresse IPv6 n'a pas de PTR ; en attendant le courrier part en IPv4",
        "Les grands fournisseurs refusent le courrier d'adresses IPv6 sans nom.",
        "Demandez à l'hébergeur de mettre le « reverse DNS » de l'adresse IPv6 à {hostname}.",
    ),
    "ptr.other": _case(
        "its PTR says {names}, not {hostname}",
        "Name and address do not confirm each other, as of a machine that was taken over.",
        'Ask the provider of the server to set the "reverse DNS" to {hostname}.',
        "son PTR dit {names}, pas {hostname}",
        "Nom et adresse ne se confirment pas, comme ceux d'une machine piratée.",
        "Demandez à l'hébergeur du serveur de mettre le « reverse DNS » à {hostname}.",
    ),
    "ptr.several": _case(
        "it has several PTR records: {names}",
        "Others take one of them by chance.",
        "Keep the one that is the server's name.",
        "elle a plusieurs PTR : {names}",
        "Les autres en prennent un au hasard.",
        "Gardez celui qui est le nom du serveur.",
    ),
    # -- mail out
    "spf.missing": _case(
        "there is no SPF record",
        "Anybody may send in this name, and big providers distrust what comes.",
        "Publish at this name: TXT {data}",
        "il n'y a pas de SPF",
        "N'importe qui peut envoyer sous ce nom, et les grands fournisseurs se méfient.",
        "Publiez à ce nom : TXT {data}",
    ),
    "spf.several": _case(
        "there are {count} SPF records",
        "With more than one none counts.",
        "Merge them into one: what stands between v=spf1 and -all, one after the other.",
        "il y a {count} SPF",
        "Dès qu'il y en a plus d'un, aucun ne compte.",
        "Fusionnez-les : ce qui est entre v=spf1 et -all, à la suite.",
    ),
    "spf.broken": _case(
        "the SPF record cannot be used: {why}",
        "A faulty record is none, or makes others refuse your mail.",
        'Mend it; "lorrainemail domain dns" shows one that works.',
        "le SPF est inutilisable : {why}",
        "Un SPF fautif n'en est pas un, ou fait refuser votre courrier.",
        "Corrigez-le ; « lorrainemail domain dns » en montre un bon.",
    ),
    "spf.everybody": _case(
        "the SPF record allows everybody (+all)",
        "Whoever forges your name is believed.",
        "Write -all at its end.",
        "le SPF autorise tout le monde (+all)",
        "Qui contrefait votre nom est cru.",
        "Écrivez -all à la fin.",
    ),
    "spf.not_us": _case(
        "the SPF record does not allow this server's address {address} ({result})",
        "Your own mail looks forged.",
        'Add the word "mx" to the record (or ip4:, ip6: with the address).',
        "le SPF n'autorise pas l'adresse {address} de ce serveur ({result})",
        "Votre propre courrier paraît contrefait.",
        "Ajoutez le mot « mx » (ou ip4:, ip6: et l'adresse).",
    ),
    "dkim.no_keys": _case(
        "this domain has no DKIM keys",
        "Its mail is not signed, and big providers refuse or distrust it.",
        '"lorrainemail dkim generate {subject}", then publish what it prints.',
        "ce domaine n'a pas de clés DKIM",
        "Son courrier n'est pas signé ; les grands fournisseurs le refusent ou s'en méfient.",
        "« lorrainemail dkim generate {subject} », puis publiez ce qui s'affiche.",
    ),
    "dkim.missing": _case(
        "the public key is not in the DNS",
        "Signatures cannot be verified, so mail counts as unsigned.",
        "Publish at this name: TXT {data}",
        "la clé publique n'est pas dans le DNS",
        "Les signatures ne peuvent être vérifiées : le courrier compte comme non signé.",
        "Publiez à ce nom : TXT {data}",
    ),
    "dkim.waits": _case(
        "a new key waits to be in the DNS",
        "Until then the old one signs, which grows older.",
        'Publish at this name: TXT {data}, then "lorrainemail dkim activate DOMAIN".',
        "une nouvelle clé attend d'être dans le DNS",
        "D'ici là c'est l'ancienne qui signe, et elle vieillit.",
        "Publiez à ce nom : TXT {data}, puis « lorrainemail dkim activate DOMAINE ».",
    ),
    "dkim.several": _case(
        "{count} records stand at the name of one key",
        "Verifiers take one by chance, or none.",
        'Keep the one that "lorrainemail dkim record" prints.',
        "{count} enregistrements au nom d'une seule clé",
        "Les vérificateurs en prennent un au hasard, ou aucun.",
        "Gardez celui que montre « lorrainemail dkim record ».",
    ),
    "dkim.cut": _case(
        "the published key is cut off",
        "Every signature fails. Many web pages cut a text after 255 characters.",
        "Enter it in strings of at most 255 characters each, or ask for the long form.",
        "la clé publiée est coupée",
        "Toute signature échoue. Bien des pages coupent un texte à 255 caractères.",
        "Entrez-la en morceaux de 255 caractères au plus, ou demandez la forme longue.",
    ),
    "dkim.quotes": _case(
        "the published key has quotes or backslashes inside",
        "Every signature fails: the web page has added its own around yours.",
        "Enter the text without any quotes.",
        "la clé publiée contient des guillemets ou des barres inverses",
        "Toute signature échoue : la page a ajouté les siens aux vôtres.",
        "Entrez le texte sans aucun guillemet.",
    ),
    "dkim.broken": _case(
        "the published record is no DKIM key",
        "Every signature fails.",
        'Publish what "lorrainemail dkim record" prints.',
        "l'enregistrement publié n'est pas une clé DKIM",
        "Toute signature échoue.",
        "Publiez ce que montre « lorrainemail dkim record ».",
    ),
    "dkim.another": _case(
        "the DNS has another key than the one that signs",
        "Every signature fails, which is worse than none.",
        'Publish what "lorrainemail dkim record" prints.',
        "le DNS a une autre clé que celle qui signe",
        "Toute signature échoue, ce qui est pire qu'aucune.",
        "Publiez ce que montre « lorrainemail dkim record ».",
    ),
    "dmarc.missing": _case(
        "there is no DMARC record",
        "Big providers want one, and forgers go unpunished.",
        "Publish at this name: TXT {data}",
        "il n'y a pas de DMARC",
        "Les grands fournisseurs en veulent un, et les faussaires restent impunis.",
        "Publiez à ce nom : TXT {data}",
    ),
    "dmarc.several": _case(
        "there are {count} DMARC records",
        "With more than one none counts.",
        "Keep one.",
        "il y a {count} DMARC",
        "Dès qu'il y en a plus d'un, aucun ne compte.",
        "N'en gardez qu'un.",
    ),
    "dmarc.broken": _case(
        "the DMARC record cannot be used: {text}",
        "It counts as none.",
        "It must begin with v=DMARC1; and have p=none, p=quarantine or p=reject.",
        "le DMARC est inutilisable : {text}",
        "Il compte comme absent.",
        "Il doit commencer par v=DMARC1; et avoir p=none, p=quarantine ou p=reject.",
    ),
    "dmarc.none": _case(
        "the DMARC record asks for nothing (p=none)",
        "Forged mail in your name is delivered.",
        "When your own mail passes everywhere, write p=quarantine.",
        "le DMARC ne demande rien (p=none)",
        "Le courrier contrefait à votre nom est remis.",
        "Quand votre propre courrier passe partout, écrivez p=quarantine.",
    ),
    # -- encryption between servers
    "mta_sts.no_policy": _case(
        "the DNS announces an MTA-STS policy, and this server serves none",
        "Others look for the policy and may hold back mail until they forget the old one.",
        "Remove the record, or open the https door.",
        "le DNS annonce une politique MTA-STS, et ce serveur n'en sert pas",
        "Les autres la cherchent et peuvent retenir le courrier jusqu'à oublier l'ancienne.",
        "Supprimez l'enregistrement, ou ouvrez la porte https.",
    ),
    "mta_sts.missing": _case(
        "there is no MTA-STS record",
        "Others cannot know that mail to you must be encrypted.",
        "Publish at this name: TXT {data}",
        "il n'y a pas d'enregistrement MTA-STS",
        "Les autres ne peuvent savoir que le courrier vers vous doit être chiffré.",
        "Publiez à ce nom : TXT {data}",
    ),
    "mta_sts.several": _case(
        "there are {count} MTA-STS records",
        "With more than one none counts.",
        "Keep one.",
        "il y a {count} enregistrements MTA-STS",
        "Dès qu'il y en a plus d'un, aucun ne compte.",
        "N'en gardez qu'un.",
    ),
    "mta_sts.old_id": _case(
        "the MTA-STS record has the id of another policy",
        "Others do not notice that the policy has changed.",
        "Publish at this name: TXT {data}",
        "l'enregistrement MTA-STS porte l'id d'une autre politique",
        "Les autres ne remarquent pas que la politique a changé.",
        "Publiez à ce nom : TXT {data}",
    ),
    "mta_sts.unreachable": _case(
        "the MTA-STS policy cannot be fetched there ({why})",
        "Others do not see it, and one that they have seen before is not renewed.",
        "See that the https door is open and reached on port 443.",
        "la politique MTA-STS ne peut être lue ici ({why})",
        "Les autres ne la voient pas, et celle qu'ils ont vue n'est pas renouvelée.",
        "Voyez si la porte https est ouverte et joignable par le port 443.",
    ),
    "mta_sts.certificate": _case(
        "the certificate shown there is for {names}",
        "Others do not believe a policy that comes under another name.",
        "Have a certificate issued for {subject} (ACME does so once the name leads here).",
        "le certificat montré ici est pour {names}",
        "Les autres ne croient pas une politique servie sous un autre nom.",
        "Faites émettre un certificat pour {subject} (ACME le fait dès que le nom mène ici).",
    ),
    "mta_sts.no_host": _case(
        "the host of the MTA-STS policy has no address",
        "The policy is announced and cannot be fetched.",
        "Publish at this name: {data}",
        "la machine de la politique MTA-STS n'a pas d'adresse",
        "La politique est annoncée et ne peut être lue.",
        "Publiez à ce nom : {data}",
    ),
    "tls_rpt.missing": _case(
        "there is no TLS-RPT record",
        "Nobody tells you when encryption with you fails.",
        "Publish at this name: TXT {data}",
        "il n'y a pas de TLS-RPT",
        "Personne ne vous dit quand le chiffrement avec vous échoue.",
        "Publiez à ce nom : TXT {data}",
    ),
    "tls_rpt.broken": _case(
        "the TLS-RPT record cannot be used: {text}",
        "It counts as none.",
        "Publish at this name, once: TXT {data}",
        "le TLS-RPT est inutilisable : {text}",
        "Il compte comme absent.",
        "Publiez à ce nom, une fois : TXT {data}",
    ),
    "tlsa.missing": _case(
        "the zone is signed and has no TLSA record",
        "Servers that ask DANE cannot verify yours.",
        "Publish at this name: TLSA {data}",
        "la zone est signée et n'a pas de TLSA",
        "Les serveurs qui suivent DANE ne peuvent vérifier le vôtre.",
        "Publiez à ce nom : TLSA {data}",
    ),
    "tlsa.stale": _case(
        "no TLSA record is for the key that this server shows",
        "Servers that ask DANE do not deliver to you at all.",
        "Publish at once at this name: TLSA {data}, and remove the old one.",
        "aucun TLSA n'est celui de la clé que montre ce serveur",
        "Les serveurs qui suivent DANE ne vous livrent plus rien.",
        "Publiez tout de suite à ce nom : TLSA {data}, et supprimez l'ancien.",
    ),
    # -- being found
    "srv.missing": _case(
        "this SRV record is missing",
        "Mail programs have to ask their user for server and port.",
        "Publish at this name: SRV {data}",
        "ce SRV manque",
        "Les logiciels de courrier doivent demander serveur et port à l'utilisateur.",
        "Publiez à ce nom : SRV {data}",
    ),
    "srv.wrong": _case(
        "this SRV record leads elsewhere: {there}",
        "Mail programs set themselves up wrongly.",
        "Publish at this name: SRV {data}",
        "ce SRV mène ailleurs : {there}",
        "Les logiciels de courrier se règlent de travers.",
        "Publiez à ce nom : SRV {data}",
    ),
    # -- reputation
    "blocklist.listed": _case(
        "this address stands in the blocklist {list}: {why}",
        "Many servers refuse its mail.",
        "Find out who sent what (lorrainemail trace), stop it, then ask that list to remove the address.",
        "cette adresse est sur la liste noire {list} : {why}",
        "Bien des serveurs refusent son courrier.",
        "Trouvez qui a envoyé quoi (lorrainemail trace), arrêtez-le, puis demandez le retrait à cette liste.",
    ),
    # -- doors
    "door.no_smtp": _case(
        "no smtp door is open",
        "No mail can come in.",
        "Open it in the configuration: [listen] smtp",
        "aucune porte smtp n'est ouverte",
        "Aucun courrier ne peut entrer.",
        "Ouvrez-la dans la configuration : [listen] smtp",
    ),
    "door.closed": _case(
        "nothing answers there ({why})",
        "Who comes to this door finds it shut.",
        "See that the server runs and that no firewall shuts the port.",
        "rien n'y répond ({why})",
        "Qui vient à cette porte la trouve close.",
        "Voyez si le serveur tourne et si aucun pare-feu ne ferme le port.",
    ),
    "door.nat": _case(
        "cannot be tried from here, as the address is not this machine's own ({why})",
        "Whether others reach it only somebody outside can tell.",
        "Try from another machine, and see that the router passes the port on.",
        "ne peut être essayée d'ici, car l'adresse n'est pas celle de la machine ({why})",
        "Seul quelqu'un du dehors peut dire si les autres y arrivent.",
        "Essayez d'une autre machine, et voyez si le routeur transmet ce port.",
    ),
    "door.refuses": _case(
        "the server there greets with {code}",
        "Other servers go away again.",
        "See the log for the reason.",
        "le serveur y salue par {code}",
        "Les autres serveurs repartent.",
        "Voyez la raison dans le journal.",
    ),
    "door.other": _case(
        "another server answers there: {name}, not {hostname}",
        "Mail comes to that one.",
        "Stop it (an old Postfix or Exim?), or mend the forwarding of the port.",
        "un autre serveur y répond : {name}, pas {hostname}",
        "Le courrier arrive chez lui.",
        "Arrêtez-le (un vieux Postfix ou Exim ?), ou corrigez la redirection du port.",
    ),
    "certificate.none": _case(
        "this door shows no certificate ({why})",
        "Nobody can encrypt.",
        "See [tls] in the configuration and the log.",
        "cette porte ne montre pas de certificat ({why})",
        "Personne ne peut chiffrer.",
        "Voyez [tls] dans la configuration, et le journal.",
    ),
    "certificate.broken": _case(
        "what this door shows is no certificate",
        "Nobody can encrypt.",
        "See [tls] in the configuration.",
        "ce que montre cette porte n'est pas un certificat",
        "Personne ne peut chiffrer.",
        "Voyez [tls] dans la configuration.",
    ),
    "certificate.name": _case(
        "the certificate is for {names}, not for {hostname}",
        "Mail programs warn their user, and strict servers do not deliver.",
        "Get a certificate for {hostname}.",
        "le certificat est pour {names}, pas pour {hostname}",
        "Les logiciels de courrier avertissent leur utilisateur, et les serveurs stricts ne livrent pas.",
        "Obtenez un certificat pour {hostname}.",
    ),
    "certificate.ended": _case(
        "the certificate ended on {date}",
        "Mail programs refuse to connect.",
        "Renew it now; see the log why that did not happen by itself.",
        "le certificat a expiré le {date}",
        "Les logiciels de courrier refusent de se connecter.",
        "Renouvelez-le tout de suite ; voyez dans le journal pourquoi cela ne s'est pas fait.",
    ),
    "certificate.ends": _case(
        "the certificate ends in {days} days",
        "It should have been renewed by now; after that mail programs refuse to connect.",
        "See the log why it was not renewed.",
        "le certificat expire dans {days} jours",
        "Il devrait déjà être renouvelé ; ensuite les logiciels de courrier refusent de se connecter.",
        "Voyez dans le journal pourquoi il ne l'a pas été.",
    ),
    "certificate.self_signed": _case(
        "the certificate is signed by this server itself",
        "Mail programs warn their user, and others cannot verify the server.",
        "Have one issued (ACME), or put your own under [tls].",
        "le certificat est signé par ce serveur lui-même",
        "Les logiciels de courrier avertissent leur utilisateur, et les autres ne peuvent vérifier le "
        "serveur.",
        "Faites-en émettre un (ACME), ou mettez le vôtre sous [tls].",
    ),
    "relay.open": _case(
        "this server takes mail from strangers for strangers ({words})",
        "Within hours it will send spam and stand in every blocklist.",
        "Take wide networks out of relay_networks, and proxies out of trust.",
        "ce serveur accepte d'inconnus du courrier pour des inconnus ({words})",
        "En quelques heures il enverra du spam et sera sur toutes les listes noires.",
        "Retirez les réseaux larges de relay_networks, et la confiance aux mandataires.",
    ),
    "relay.wide": _case(
        "relay_networks has this network, a good part of the world",
        "All these strangers may send through you without a login.",
        "Name your own networks only; users log in.",
        "relay_networks a ce réseau, une bonne part du monde",
        "Tous ces inconnus peuvent envoyer par vous sans s'identifier.",
        "N'indiquez que vos propres réseaux ; les utilisateurs s'identifient.",
    ),
    "outgoing.blocked": _case(
        "no mail server of {domains} is reached on port 25",
        "Your provider seems to block it: mail to others waits and comes back.",
        "Ask the provider to open port 25 outwards, or let all mail go through a smarthost ([relay]).",
        "aucun serveur de {domains} n'est joignable par le port 25",
        "L'hébergeur semble le bloquer : le courrier vers les autres attend, puis revient.",
        "Demandez-lui d'ouvrir le port 25 en sortie, ou passez par un relais ([relay]).",
    ),
    "outgoing.smarthost": _case(
        "this smarthost does not answer",
        "All mail to others waits.",
        "See its name and port under [relay], and ask its provider.",
        "ce relais ne répond pas",
        "Tout le courrier vers les autres attend.",
        "Voyez son nom et son port sous [relay], et demandez à son fournisseur.",
    ),
    "tls_report.failing": _case(
        "{who} could not use TLS with this server {count} times ({kinds})",
        "Mail of servers that keep to your policy waits, and comes back if this goes on.",
        '"lorrainemail tls-report show {subject}" says what failed, and where.',
        "{who} n'ont pas pu utiliser TLS avec ce serveur, {count} fois ({kinds})",
        "Le courrier des serveurs qui suivent votre politique attend, et reviendra si cela dure.",
        "« lorrainemail tls-report show {subject} » dit ce qui a échoué, et où.",
    ),
    "tls_report.unknown": _case(
        "the received TLS reports cannot be read: {why}",
        "What others could not do with this server stays unknown.",
        "Move the file away; reports that come are kept in a new one.",
        "les rapports TLS reçus ne peuvent être lus : {why}",
        "Ce que d'autres n'ont pas pu faire avec ce serveur reste inconnu.",
        "Déplacez ce fichier ; les prochains rapports iront dans un nouveau.",
    ),
    # -- the machine
    "clock.wrong": _case(
        "the clock is wrong by {seconds} seconds",
        "Signatures and certificates seem too old or too new, and mail has wrong dates.",
        'Let the system keep the time: "timedatectl set-ntp true".',
        "l'horloge est décalée de {seconds} secondes",
        "Signatures et certificats paraissent trop vieux ou trop neufs, et le courrier est mal daté.",
        "Laissez le système tenir l'heure : « timedatectl set-ntp true ».",
    ),
    "disk.full": _case(
        "only {free} are free, less than the reserve",
        "No mail is taken until there is room.",
        "Make room, or give the server a larger disk.",
        "il ne reste que {free}, moins que la réserve",
        "Aucun courrier n'est accepté tant qu'il n'y a pas de place.",
        "Faites de la place, ou donnez un plus grand disque au serveur.",
    ),
    "disk.no_files": _case(
        "the file system has no room for further files",
        "No mail is taken, however many octets are free.",
        "Remove small files that nobody needs, or move the state directory.",
        "le système de fichiers n'a plus de place pour de nouveaux fichiers",
        "Aucun courrier n'est accepté, même s'il reste des octets.",
        "Supprimez les petits fichiers inutiles, ou déplacez le dossier d'état.",
    ),
    "disk.low": _case(
        "only {free} are free",
        "When the reserve is reached no mail is taken.",
        "Make room in time.",
        "il ne reste que {free}",
        "Quand la réserve est atteinte, aucun courrier n'est accepté.",
        "Faites de la place à temps.",
    ),
    "permissions.open": _case(
        "other users of this machine may read it",
        "Mail, passwords or keys are in it.",
        "chmod go= {subject}",
        "d'autres utilisateurs de cette machine peuvent le lire",
        "Il contient du courrier, des mots de passe ou des clés.",
        "chmod go= {subject}",
    ),
    "server.down": _case(
        "no server runs on this state directory",
        "No mail comes in or goes out.",
        "Start it: systemctl start lorrainemail (or twistd -n lorrainemail).",
        "aucun serveur ne tourne sur ce dossier d'état",
        "Aucun courrier n'entre ni ne sort.",
        "Démarrez-le : systemctl start lorrainemail (ou twistd -n lorrainemail).",
    ),
    "server.alarm": _case(
        "the server raises this alarm",
        "Something that it needs does not work.",
        "See the log.",
        "le serveur donne cette alarme",
        "Une chose dont il a besoin ne marche pas.",
        "Voyez le journal.",
    ),
    "queue.old": _case(
        "{count} messages wait, the oldest for {hours} hours",
        "Their senders believe that they have arrived.",
        '"lorrainemail queue list" says why they wait.',
        "{count} messages attendent, le plus vieux depuis {hours} heures",
        "Leurs auteurs les croient arrivés.",
        "« lorrainemail queue list » dit pourquoi ils attendent.",
    ),
    "queue.long": _case(
        "{count} messages wait",
        "Perhaps somebody sends spam through an account, or a destination is down.",
        '"lorrainemail queue list" shows from whom and to whom.',
        "{count} messages attendent",
        "Quelqu'un envoie peut-être du spam par un compte, ou une destination est en panne.",
        "« lorrainemail queue list » montre de qui et vers qui.",
    ),
}
# The same words for records that stand one domain too deep.
for _check in ("dkim", "dmarc"):
    WORDS[f"{_check}.doubled"] = {"en": Words(*_DEEP_EN), "fr": Words(*_DEEP_FR)}
