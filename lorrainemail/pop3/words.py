"""What the POP3 door says to people, in the languages that it speaks (RFC 6856 §3).

The door's own words are English; :func:`translated` finds the same in another language, response codes in
brackets kept. What it does not know (words of the store or of a login) stays English. Pure.
"""

from __future__ import annotations

import re
from typing import Final

DEFAULT: Final = "en"
LANGUAGES: Final = {"en": "English", "fr": "Français"}

#: Numbers stand as {}.
_WORDS: Final = {
    "fr": {
        "This language is spoken now": "Cette langue est parlée désormais",
        "That language is not spoken here": "Cette langue n'est pas parlée ici",
        "Goodbye": "Au revoir",
        "Line too long": "Ligne trop longue",
        "Unknown command": "Commande inconnue",
        "Log in first": "Identifiez-vous d'abord",
        "Already logged in": "Vous êtes déjà identifié",
        "Wrong number of arguments": "Nombre d'arguments incorrect",
        "Too many errors, goodbye": "Trop d'erreurs, au revoir",
        "Internal error, try again later": "Erreur interne, réessayez plus tard",
        "Some deleted messages were not removed": "Des messages supprimés n'ont pas pu être effacés",
        "TLS is active already": "TLS est déjà actif",
        "TLS is not available": "TLS n'est pas disponible",
        "Begin TLS negotiation": "La négociation TLS peut commencer",
        "Logging in needs TLS: use STLS first": "L'identification demande TLS : utilisez d'abord STLS",
        "UTF-8 is welcome": "UTF-8 est le bienvenu",
        "USER needs a name": "USER demande un nom",
        "USER comes first": "USER vient d'abord",
        "Send PASS": "Envoyez PASS",
        "Name or password is wrong": "Nom ou mot de passe incorrect",
        "{} messages ({} octets)": "{} messages ({} octets)",
        "Unique ids follow": "Suivent les identifiants uniques",
        "Top of message follows": "Suit le début du message",
        "Message {} deleted": "Message {} supprimé",
        "Message {} is deleted": "Le message {} est supprimé",
        "No such message, only {} in the maildrop": "Ce message n'existe pas, la boîte en a {}",
        "Not a number": "Ce n'est pas un nombre",
    },
}
_CODE = re.compile(r"\[[A-Z0-9/-]+\] ")
_NUMBER = re.compile(r"[0-9]+")


def translated(text: bytes, language: str) -> bytes:
    """The words in that language, as UTF-8."""
    words = _WORDS.get(language, {})
    plain = text.decode("utf-8", "replace")
    code = _CODE.match(plain)
    head = code.group() if code else ""
    rest = plain[len(head) :]
    found = words.get(rest)
    if found is None:
        found = words.get(_NUMBER.sub("{}", rest))
        if found is None:
            return text
        found = found.format(*_NUMBER.findall(rest))
    return (head + found).encode("utf-8")
