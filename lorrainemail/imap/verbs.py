"""The commands of IMAP as a table: each with its states (RFC 3501 §3) and its handler."""

from __future__ import annotations

from typing import Final

from lorrainemail.imap import access, acl, folders, messages, metadata, quota
from lorrainemail.imap.appending import append
from lorrainemail.imap.fetch import fetch
from lorrainemail.imap.multisearch import esearch
from lorrainemail.imap.notify import notify
from lorrainemail.imap.order import sort
from lorrainemail.imap.search import search
from lorrainemail.imap.server import Verb
from lorrainemail.imap.threads import thread

__all__ = ["VERBS", "append"]

_UNAUTH: Final = frozenset({"unauth"})
_AUTH: Final = frozenset({"auth", "select"})
_SELECT: Final = frozenset({"select"})
_ANY: Final = frozenset({"unauth", "auth", "select"})

VERBS: Final[dict[str, Verb]] = {
    "CAPABILITY": Verb(_ANY, access.capability),
    "NOOP": Verb(_ANY, access.noop),
    "LOGOUT": Verb(_ANY, access.logout),
    "ID": Verb(_ANY, access.identify),
    "STARTTLS": Verb(_UNAUTH, access.starttls),
    "LOGIN": Verb(_UNAUTH, access.login),
    "AUTHENTICATE": Verb(_UNAUTH, access.authenticate),
    "COMPRESS": Verb(_AUTH, access.compress),
    "ENABLE": Verb(_AUTH, access.enable),
    "GETQUOTA": Verb(_AUTH, quota.get_quota),
    "GETQUOTAROOT": Verb(_AUTH, quota.get_quota_root),
    "SETQUOTA": Verb(_AUTH, quota.set_quota),
    "SETACL": Verb(_AUTH, acl.set_acl),
    "DELETEACL": Verb(_AUTH, acl.delete_acl),
    "GETACL": Verb(_AUTH, acl.get_acl),
    "LISTRIGHTS": Verb(_AUTH, acl.list_rights),
    "MYRIGHTS": Verb(_AUTH, acl.my_rights),
    "GETMETADATA": Verb(_AUTH, metadata.get_metadata),
    "SETMETADATA": Verb(_AUTH, metadata.set_metadata),
    "NAMESPACE": Verb(_AUTH, folders.namespace),
    "SELECT": Verb(_AUTH, folders.select),
    "EXAMINE": Verb(_AUTH, folders.examine),
    "CREATE": Verb(_AUTH, folders.create),
    "DELETE": Verb(_AUTH, folders.delete),
    "RENAME": Verb(_AUTH, folders.rename),
    "SUBSCRIBE": Verb(_AUTH, folders.subscribe),
    "UNSUBSCRIBE": Verb(_AUTH, folders.unsubscribe),
    "LIST": Verb(_AUTH, folders.list_folders),
    "LSUB": Verb(_AUTH, folders.lsub),
    "STATUS": Verb(_AUTH, folders.status),
    "NOTIFY": Verb(_AUTH, notify),
    "IDLE": Verb(_AUTH, access.idle),
    "CHECK": Verb(_SELECT, messages.check),
    "CLOSE": Verb(_SELECT, messages.close),
    "UNSELECT": Verb(_SELECT, messages.unselect),
    "EXPUNGE": Verb(_SELECT, messages.expunge),
    "STORE": Verb(_SELECT, messages.store),
    "COPY": Verb(_SELECT, messages.copy),
    "MOVE": Verb(_SELECT, messages.move),
    "FETCH": Verb(_SELECT, fetch),
    "SEARCH": Verb(_SELECT, search),
    "ESEARCH": Verb(_AUTH, esearch),
    "SORT": Verb(_SELECT, sort),
    "THREAD": Verb(_SELECT, thread),
}
