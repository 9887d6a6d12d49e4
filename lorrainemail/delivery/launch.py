"""Runs one command under limits: ``python -I -S launch.py MEMORY SECONDS PROGRAM ARGUMENT...``

A program of its own, of the standard library alone: between fork and exec of the server nothing of Python may
run, so limits are set here, in the child's first program, before the command begins. Its own session (so that
all of it can be ended at once), no core, few files, files for the user alone. What cannot be started is a
fault of configuration and counts as temporary (EX_TEMPFAIL of sysexits.h).
"""

import os
import resource
import sys

#: Files that a command may have open.
MAX_FILES = 256
EX_TEMPFAIL = 75


def main() -> None:
    memory, seconds, *words = sys.argv[1:]
    try:
        os.setsid()
    except PermissionError:
        pass  # the head of a group already
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    try:
        os.execv(words[0], words)
    except OSError as error:
        os.write(2, f"{words[0]} cannot be run: {error.strerror}\n".encode())
        os._exit(EX_TEMPFAIL)


if __name__ == "__main__":
    main()
