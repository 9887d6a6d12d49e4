"""The machine and the server that runs on it: disk, permissions, queue, alarms.

Reads files and what the running server says of itself; blocks for milliseconds, in a thread. Fails never:
what cannot be looked at is a finding of its own.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from typing import Any, Final

from lorrainemail.config.model import Settings
from lorrainemail.setup.doctor.findings import Finding, bad, good, unknown, warn

#: Free part of a file system below which an operator should know.
LOW_DISK: Final = 0.10
#: Files in which secrets are, in the state directory.
_SECRETS: Final = ("accounts", "credentials", "dkim", "tls", "dns", "mail", "queue")
#: Files of one directory that are looked at.
MAX_FILES: Final = 1000
#: Seconds for which what others report is news.
RECENT: Final = 4 * 86400.0
#: Seconds for which a message may wait before the queue is called ill, and how many may wait.
OLD_MAIL: Final = 8 * 3600.0
MUCH_MAIL: Final = 1000


def disk(settings: Settings) -> Iterator[Finding]:
    """Room for mail, and for files."""
    try:
        facts = os.statvfs(settings.state)
    except OSError as error:
        yield unknown("disk.unknown", settings.state, why=error.strerror or error)
        return
    free, whole = facts.f_bavail * facts.f_frsize, max(1, facts.f_blocks * facts.f_frsize)
    if free <= settings.limits.disk_reserve:
        yield bad("disk.full", settings.state, free=megabytes(free))
    elif facts.f_files and facts.f_favail == 0:
        yield bad("disk.no_files", settings.state)
    elif free < whole * LOW_DISK or free < 2 * settings.limits.disk_reserve:
        yield warn("disk.low", settings.state, free=megabytes(free))
    else:
        yield good("disk", settings.state)


def megabytes(octets: int) -> str:
    return f"{octets // 10**6} MB"


def permissions(settings: Settings) -> Iterator[Finding]:
    """Whether other users of this machine could read mail, passwords or keys."""
    open_paths = list(_open_paths(settings.state))
    for path in open_paths[:10]:
        yield bad("permissions.open", path)
    if not open_paths:
        yield good("permissions", settings.state)


def _open_paths(state: str) -> Iterator[str]:
    try:
        if os.stat(state).st_mode & 0o077 == 0:
            return  # nobody else comes in, whatever is inside
    except OSError:
        return
    for name in _SECRETS:
        path = os.path.join(state, name)
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if not stat.S_ISDIR(mode):
            readable = mode & 0o044
        elif name in ("mail", "queue"):
            readable = mode & 0o005
        else:
            readable = 0
            if mode & 0o011:
                yield from _open_keys(path)
        if readable:
            yield path


def _open_keys(directory: str) -> Iterator[str]:
    """Private keys that others may read; certificates may be read by all."""
    for folder, folders, files in os.walk(directory):
        folders[:] = folders[:MAX_FILES]
        for name in files[:MAX_FILES]:
            path = os.path.join(folder, name)
            private = "key" in name or os.path.basename(directory) in ("dkim", "dns")
            try:
                if private and os.stat(path).st_mode & 0o044:
                    yield path
            except OSError:
                continue


def tls_reports(settings: Settings, now: float) -> Iterator[Finding]:
    """What other servers reported of TLS with ours in the last days, where their reports are proved to be
    theirs (anybody can write one)."""
    from lorrainemail.tlspolicy.report_file import FILE, TlsReportFile

    path = os.path.join(settings.state, FILE)
    if not os.path.exists(path):
        return
    file = TlsReportFile(path)
    try:
        rows = [one for one in file.reported(since=int(now - RECENT)) if one.proved]
    except sqlite3.Error as error:
        yield unknown("tls_report.unknown", path, why=error)
        return
    finally:
        file.close()
    for domain in sorted({domain for one in rows for domain in one.domains}):
        mine = [(one.report.organization, policy) for one in rows for policy in one.report.policies]
        mine = [(who, policy) for who, policy in mine if policy.domain == domain]
        count = sum(policy.bad for _, policy in mine)
        if count:
            who = {who for who, policy in mine if policy.bad}
            kinds = {failed.type for _, policy in mine for failed in policy.failures}
            yield warn("tls_report.failing", domain, count=count, who=who, kinds=kinds or "-")
        else:
            yield good("tls_report", domain)


def running(state: str, status: Mapping[str, Any] | None, oldest: float) -> Iterator[Finding]:
    """The server and its queue.

    :param status: what the server says of itself, None where none runs.
    :param oldest: age of the message that has waited longest, in seconds.
    """
    if status is None:
        yield bad("server.down", state)
        return
    for alarm in status.get("alarms", ()):
        yield bad("server.alarm", str(alarm))
    waiting = int(status.get("queued", 0))
    if oldest > OLD_MAIL:
        yield warn("queue.old", state, count=waiting, hours=int(oldest // 3600))
    elif waiting > MUCH_MAIL:
        yield warn("queue.long", state, count=waiting)
    else:
        yield good("queue", state)
