"""The commands of ACL (RFC 4314 §3): a mailbox, an identifier, rights."""

from __future__ import annotations

from typing import Any

from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault


def _identifier(scanner: Scanner) -> str:
    scanner.space()
    try:
        return scanner.astring().decode("utf-8")
    except UnicodeError:
        raise SyntaxFault("an identifier is UTF-8") from None


def of_mailbox(scanner: Scanner) -> tuple[Any, ...]:
    """GETACL, MYRIGHTS."""
    scanner.space()
    return (scanner.mailbox(),)


def of_identifier(scanner: Scanner) -> tuple[Any, ...]:
    """DELETEACL, LISTRIGHTS."""
    (name,) = of_mailbox(scanner)
    return name, _identifier(scanner)


def set_acl(scanner: Scanner) -> tuple[Any, ...]:
    """SETACL."""
    name, identifier = of_identifier(scanner)
    scanner.space()
    return name, identifier, scanner.astring().decode("ascii", "replace")
