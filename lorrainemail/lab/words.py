"""What the lab says to a person, in English and in French: one plain sentence a step."""

from __future__ import annotations

from typing import Final, Literal

Language = Literal["en", "fr"]

WORDS: Final[dict[str, dict[Language, str]]] = {
    "title": {
        "en": "carole@elorac.fr writes to bob@bricoleur.com",
        "fr": "carole@elorac.fr écrit à bob@bricoleur.com",
    },
    "start": {
        "en": "Two complete servers and a DNS start, on this machine alone.",
        "fr": "Deux serveurs complets et un DNS démarrent, sur cette seule machine.",
    },
    "started": {
        "en": "{hostname} at {address}: SMTP {smtp}, submission {submission}, POP3S {pop3s}, IMAPS {imaps}",
        "fr": "{hostname} en {address} : SMTP {smtp}, soumission {submission}, POP3S {pop3s}, IMAPS {imaps}",
    },
    "dns_started": {
        "en": "DNS at 127.0.0.1:{port}, for elorac.fr and bricoleur.com",
        "fr": "DNS en 127.0.0.1:{port}, pour elorac.fr et bricoleur.com",
    },
    "submit": {
        "en": "Carole's mail program gives the message to her own server, under TLS, and says who she is.",
        "fr": "Le logiciel de Carole confie le message à son propre serveur, sous TLS, et dit qui elle est.",
    },
    "queued": {
        "en": "Her server said 250: message {id} is on its disk, in the queue, and cannot be lost.",
        "fr": "Son serveur a dit 250 : le message {id} est sur son disque, dans la file, à l'abri.",
    },
    "mx": {
        "en": "Her server asks the DNS which host takes mail for bricoleur.com (MX), and where it is (A).",
        "fr": "Son serveur demande au DNS qui reçoit le courrier de bricoleur.com (MX), et où c'est (A).",
    },
    "relay": {
        "en": "It hands the message to Bob's server by SMTP. No login here, but TLS, as both can.",
        "fr": "Il le remet au serveur de Bob par SMTP. Sans mot de passe, mais sous TLS : les deux savent.",
    },
    "checked": {
        "en": "(Meanwhile Bob's server asked whether the sender's domain exists:)",
        "fr": "(Entre-temps le serveur de Bob a demandé si le domaine de l'expéditrice existe :)",
    },
    "delivered": {
        "en": "Bob's server has put it into his mailbox, a plain file, before it said 250:",
        "fr": "Le serveur de Bob l'a déposé dans sa boîte, un simple fichier, avant de dire 250 :",
    },
    "pop3": {
        "en": "Bob collects his mail by POP3: list, fetch, and leave it there.",
        "fr": "Bob relève son courrier par POP3 : lister, prendre, et le laisser là.",
    },
    "imap": {
        "en": "And he reads it by IMAP, where the mailbox stays on the server, which knows what he has seen.",
        "fr": "Puis il le lit par IMAP, où la boîte reste sur le serveur, qui sait ce qui a été lu.",
    },
    "done": {
        "en": "Bob read what Carole wrote, octet for octet. ({seconds:.1f} s)",
        "fr": "Bob a lu ce que Carole a écrit, à l'octet près. ({seconds:.1f} s)",
    },
    "failed": {"en": "FAILED at step {step}: {why}", "fr": "ÉCHEC à l'étape {step} : {why}"},
    "no_start": {"en": "the lab did not start: {why}", "fr": "le laboratoire n'a pas démarré : {why}"},
    "not_same": {
        "en": "what Bob read by {protocol} is not what Carole wrote",
        "fr": "ce que Bob a lu par {protocol} n'est pas ce que Carole a écrit",
    },
    "too_long": {"en": "nothing came in {seconds:.0f} s", "fr": "rien n'est venu en {seconds:.0f} s"},
    "not_queued": {
        "en": "nothing was accepted for the way to bricoleur.com",
        "fr": "rien n'a été accepté vers bricoleur.com",
    },
    "kept": {
        "en": "Both servers go on until Ctrl-C; all is in {directory}. Try them with your own program:",
        "fr": "Les deux serveurs restent jusqu'à Ctrl-C ; tout est dans {directory}. À vous :",
    },
    "kept_account": {
        "en": "{account}, password {password}: send to {address}:{submission} (STARTTLS), "
        "read IMAPS {imaps} or POP3S {pop3s}",
        "fr": "{account}, mot de passe {password} : envoi par {address}:{submission} (STARTTLS), "
        "lecture IMAPS {imaps} ou POP3S {pop3s}",
    },
    "kept_try": {"en": "For example:", "fr": "Par exemple :"},
    "gone": {"en": "All of it is gone again.", "fr": "Tout a de nouveau disparu."},
    "body": {
        "en": "Hello Bob,\r\n\r\nthe shelf holds. Come and see it on Sunday!\r\n.\r\nCarole\r\n",
        "fr": "Bonjour Bob,\r\n\r\nl'étagère tient. Viens la voir dimanche !\r\n.\r\nCarole\r\n",
    },
    "subject": {"en": "The shelf", "fr": "L'étagère"},
}


class Voice:
    """Says it in one language."""

    def __init__(self, language: Language) -> None:
        self.language = language

    def __call__(self, key: str, **facts: object) -> str:
        return WORDS[key][self.language].format(**facts)
