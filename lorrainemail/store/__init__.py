"""Local mail: Maildir and mbox, one index a home, deliveries, open mailboxes.

From the outside in: ``mailstore`` (the service, :class:`lorrainemail.interfaces.IStore`), ``home`` and
``mailbox`` (the reactor's side: what sessions hold), ``placement`` and ``mbox`` (deliveries), ``strands``
(the threads, each home's jobs in order), and what those jobs do: ``tree`` (one home on disk), ``sync`` (what
other programs did), ``changes`` (flags, expunge, copy), ``folders``; of an mbox ``mboxsync`` and
``mboxrewrite`` over ``mboxfile``, ``mboxoffsets`` and ``mboxjournal``; below them ``index`` (SQLite),
``maildir``, ``flags``, ``paths``, ``reading``, ``dovecot``. ``memory`` is the double for tests.
"""
