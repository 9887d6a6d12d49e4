"""lorrainemail: a complete mail server on Twisted (SMTP, POP3, IMAP4) in one process.

Start reading at ``lorrainemail.service``, which composes the server in the order of a message's way.
"""

from lorrainemail.version import VERSION as __version__

__all__ = ["__version__"]
