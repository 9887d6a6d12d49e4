"""The credentials of an account: what a new password becomes, which of them a password proves, when they are
written anew.

Called by :mod:`lorrainemail.sasl.passwords` and the account commands. Pure, but slow: hashing and verifying
belong in a thread. What is written is Argon2id, and a SCRAM verifier beside it (same label) where the
operator chose so. All SCRAM verifiers of an account share salt and iterations, so that in one exchange each
of its passwords can be proved. What was made elsewhere (:mod:`lorrainemail.sasl.foreign`) is verified, then
replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import argon2
import attrs
from argon2.exceptions import InvalidHashError, VerificationError

from lorrainemail.errors import PermanentError, Reply
from lorrainemail.interfaces import Account, Credential
from lorrainemail.sasl import foreign, scram
from lorrainemail.sasl.mechanisms import prepare_password

#: The scheme that is written.
SCHEME: Final = "argon2id"
#: The OWASP minimum: 19 MiB, two passes, one lane; 21 ms on the machine it was measured on.
HASHER: Final = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
#: Credentials of one account that are tried; a table row has no more.
MAX_CREDENTIALS: Final = 32

UNUSABLE_PASSWORD: Final = Reply(
    501, "5.5.2", "The password must be UTF-8 text of at most 1024 octets without control characters"
)


def hash_password(password: bytes, label: str = "") -> Credential:
    """A new Argon2id credential; takes the hash's time in the calling thread.

    :raises PermanentError: where it cannot be a password (empty, not UTF-8, too long, control characters).
    """
    prepared = prepare_password(password)
    if prepared is None:
        raise PermanentError(UNUSABLE_PASSWORD)
    return Credential(scheme=SCHEME, value=HASHER.hash(prepared), label=label)


def new_credentials(
    password: bytes, label: str = "", with_scram: bool = False, kin: Iterable[Credential] = ()
) -> tuple[Credential, ...]:
    """What a new password is stored as.

    :param with_scram: a SCRAM verifier too.
    :param kin: credentials that the account keeps.
    :raises PermanentError: as :func:`hash_password`.
    """
    first = hash_password(password, label)
    if not with_scram:
        return (first,)
    prepared = prepare_password(password)
    assert prepared is not None
    return first, _verifier(prepared, label, kin)


def _verifier(prepared: bytes, label: str, kin: Iterable[Credential]) -> Credential:
    known = scram_verifiers(kin)
    verifier = (
        scram.Verifier.derive(prepared, known[0][1].salt, known[0][1].iterations)
        if known
        else scram.Verifier.derive(prepared)
    )
    return Credential(scram.SCHEME, str(verifier), label)


def scram_verifiers(credentials: Iterable[Credential]) -> list[tuple[Credential, scram.Verifier]]:
    """Those SCRAM verifiers that one exchange can tell from each other: all with the first one's salt."""
    found: list[tuple[Credential, scram.Verifier]] = []
    for credential in credentials:
        if credential.scheme != scram.SCHEME:
            continue
        try:
            verifier = scram.Verifier.parse(credential.value)
        except ValueError:
            continue
        if not found or (found[0][1].salt, found[0][1].iterations) == (verifier.salt, verifier.iterations):
            found.append((credential, verifier))
    return found


def is_ready_for_scram(account: Account) -> bool:
    """Whether each of the account's passwords can be proved by SCRAM, or it cannot log in by any."""
    if not account.enabled or all(foreign.is_locked(credential) for credential in account.credentials):
        return True
    labels = {credential.label for credential, _ in scram_verifiers(account.credentials)}
    return all(credential.label in labels for credential in account.credentials)


def fault(credential: Credential) -> tuple[str, str] | None:
    """Why a password cannot be checked against it, and how to mend that; None where it can."""
    if credential.scheme == scram.SCHEME:
        try:
            scram.Verifier.parse(credential.value)
        except ValueError as error:
            return f"its SCRAM verifier is malformed ({error})", "set a new password"
        return None
    if _is_argon2id(credential) or foreign.is_locked(credential):
        return None
    return foreign.fault(credential)


def faults(account: Account) -> list[tuple[str, str]]:
    """What of the account's credentials nobody can log in with, and how to mend it."""
    found = [fault(credential) for credential in account.credentials[:MAX_CREDENTIALS]]
    return list(dict.fromkeys(one for one in found if one is not None))


def to_be_tried(credentials: Sequence[Credential]) -> tuple[Credential, ...]:
    """Those that decide: of a password that has a SCRAM verifier too, the other one."""
    able = [c for c in credentials[:MAX_CREDENTIALS] if fault(c) is None and not foreign.is_locked(c)]
    others = {credential.label for credential in able if credential.scheme != scram.SCHEME}
    return tuple(c for c in able if c.scheme != scram.SCHEME or c.label not in others)


def matches(credential: Credential, prepared: bytes) -> bool:
    """Whether the prepared password is that credential's. For a thread."""
    if credential.scheme == scram.SCHEME:
        return scram.Verifier.parse(credential.value).matches(prepared)
    if not _is_argon2id(credential):
        return foreign.matches(credential, prepared)
    try:
        return HASHER.verify(credential.value, prepared)
    except (VerificationError, InvalidHashError):
        return False


def proved_by(credentials: Iterable[Credential], prepared: bytes) -> Credential | None:
    """The first of the credentials that is the prepared password's. For a thread."""
    return next((credential for credential in credentials if matches(credential, prepared)), None)


def is_stale(credentials: Sequence[Credential], proved: Credential, with_scram: bool) -> bool:
    """Whether :func:`renewed` would change anything for a password that was just proved."""
    verified = any(c.scheme == scram.SCHEME and c.label == proved.label for c in credentials)
    if proved.scheme == scram.SCHEME:
        return not with_scram
    if with_scram and not any(c.label == proved.label for c, _ in scram_verifiers(credentials)):
        return True
    return verified != with_scram or not _is_current(proved)


def renewed(
    credentials: Sequence[Credential], proved: Credential, prepared: bytes, with_scram: bool
) -> tuple[Credential, ...]:
    """The credentials as they should stand now that the password of one of them is known: its hash by today's
    measure, its SCRAM verifier as the operator chose. The others stay. For a thread."""
    if proved not in credentials:
        return tuple(credentials)
    result: list[Credential] = []
    for credential in credentials:
        if credential == proved and proved.scheme != scram.SCHEME:
            fresh = Credential(SCHEME, HASHER.hash(prepared), proved.label)
            result.append(proved if _is_current(proved) else fresh)
        elif credential == proved and not with_scram:
            result.append(Credential(SCHEME, HASHER.hash(prepared), proved.label))
        elif credential.scheme == scram.SCHEME and credential.label == proved.label and credential != proved:
            continue
        else:
            result.append(credential)
    if with_scram and proved.scheme != scram.SCHEME and len(result) < MAX_CREDENTIALS:
        place = next(i for i, c in enumerate(result) if c.label == proved.label and c.scheme == SCHEME) + 1
        others = [c for c in credentials if c.scheme == scram.SCHEME]
        result.insert(place, _verifier(prepared, proved.label, others))
    return tuple(result)


def _is_argon2id(credential: Credential) -> bool:
    # A row without {SCHEME} is "crypt" to Dovecot too, whatever its value then says it is.
    return credential.scheme == SCHEME or credential.value.startswith(f"${SCHEME}$")


def _is_current(credential: Credential) -> bool:
    if not _is_argon2id(credential):
        return False
    try:
        return not HASHER.check_needs_rehash(credential.value)
    except InvalidHashError:
        return False


@attrs.frozen(slots=True)
class Label:
    """What a credential is called, and by which schemes it can be proved: for listings."""

    label: str
    schemes: tuple[str, ...]


def labels(credentials: Iterable[Credential]) -> list[Label]:
    """The credentials as a person sees them: one line for all that have the same label."""
    schemes: dict[str, list[str]] = {}
    for credential in credentials:
        schemes.setdefault(credential.label, []).append(credential.scheme)
    return [Label(label, tuple(of)) for label, of in schemes.items()]
