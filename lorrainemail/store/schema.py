"""The tables of a home's index; a change raises :data:`SCHEMA_VERSION` and needs a way from the last one."""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = 3

SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE folders (
    id INTEGER PRIMARY KEY,
    directory TEXT NOT NULL UNIQUE,      -- "" is INBOX
    mailbox_id TEXT NOT NULL,            -- RFC 8474
    uid_validity INTEGER NOT NULL,
    uid_next INTEGER NOT NULL,
    uid_reserved INTEGER NOT NULL,       -- no UID up to this is ever given again
    modseq INTEGER NOT NULL,             -- HIGHESTMODSEQ
    modseq_reserved INTEGER NOT NULL,
    recent INTEGER NOT NULL DEFAULT 0,   -- UIDs up to this were \\Recent to somebody
    keywords TEXT NOT NULL DEFAULT '',   -- words, in the order of their bits
    special_use TEXT NOT NULL DEFAULT '',
    new_seen INTEGER NOT NULL DEFAULT 0, -- mtime (ns) of new/ and cur/ at the last complete scan, 0 unknown
    cur_seen INTEGER NOT NULL DEFAULT 0,
    mirrored INTEGER NOT NULL DEFAULT 0  -- the next UID that dovecot-uidlist promises, 0 where there is none
);
-- id is folder << 32 | uid
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    folder INTEGER NOT NULL,
    base TEXT NOT NULL,                  -- the locator: a Maildir base name
    place INTEGER NOT NULL,              -- 0 new/, 1 cur/
    info TEXT NOT NULL,                  -- the rest of the file's name
    modseq INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    size INTEGER NOT NULL,               -- octets with CRLF; -1 until the message was looked at
    internal_date INTEGER NOT NULL,      -- -1 until then
    save_date INTEGER NOT NULL,
    message_id TEXT NOT NULL             -- EMAILID, RFC 8474
);
CREATE UNIQUE INDEX messages_base ON messages (folder, base);
CREATE TABLE wire (
    id INTEGER PRIMARY KEY,
    envelope BLOB NOT NULL,
    structure BLOB NOT NULL,
    header_octets INTEGER NOT NULL,
    sent INTEGER,
    base_subject TEXT NOT NULL,
    header_id BLOB NOT NULL,             -- Message-ID
    in_reply_to BLOB NOT NULL,
    refs BLOB NOT NULL,                  -- References, joined by spaces
    marks INTEGER NOT NULL               -- lorrainemail.message.summary
);
CREATE TABLE expunged (id INTEGER PRIMARY KEY, folder INTEGER NOT NULL, modseq INTEGER NOT NULL);
CREATE INDEX expunged_modseq ON expunged (folder, modseq);
CREATE TABLE views (
    folder INTEGER PRIMARY KEY,
    modseq INTEGER NOT NULL,             -- of the folder when the copy was made; it is true while these are
    uid_next INTEGER NOT NULL,
    packed BLOB NOT NULL                 -- zlib: all UIDs (32 bits), all MODSEQs, all flags (64 bits)
);
"""

#: From the version before. To 2: what is known of messages is found anew, UIDs and MODSEQs stay.
UPGRADES: Final = {
    1: """
DELETE FROM wire;
ALTER TABLE wire ADD COLUMN marks INTEGER NOT NULL DEFAULT 0;
""",
    2: """
CREATE TABLE views (
    folder INTEGER PRIMARY KEY, modseq INTEGER NOT NULL, uid_next INTEGER NOT NULL, packed BLOB NOT NULL
);
""",
}

#: The same in words for operators.
CHANGES: Final = {
    1: "what is known of messages is found anew at their next reading; UIDs and flags stay",
    2: "room for a copy of the list of messages",
}
