"""Moving in and out: import, export, backup, restore, upgrade.

``sources`` says what mail elsewhere looks like; ``maildirs``, ``mboxes`` and ``imap`` are such sources;
``importing`` carries one into an account, by way of ``staging`` (files made here) and ``access`` (the running
server, or the store itself where none runs; ``serving`` is the server's side of it). ``exporting`` writes an
account out. ``backup``, ``snapshot`` and ``restoring`` keep the whole state elsewhere.
"""
