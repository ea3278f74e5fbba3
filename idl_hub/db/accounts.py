"""Names of people: what a login provider says, and what we call the same person here.

nbgrader keeps a student's name in every path and row for ever, so the mapping is settled once per person:

* A login of 1 to 30 of the characters a-z, 0-9, ``-``, ``_`` that starts with a letter or digit stays as it is.
* Everything else (capitals aside, which most providers do not tell apart; odd characters, other scripts,
  long names) becomes its readable remainder, cut short, a dash and 10 hexadecimal digits of its SHA-256.
* A login that itself ends like such a hash is treated as odd, so nobody can log in under another's name.
* So is the name under which `idl-hub smoke` tries out the hub: nobody else may have that home.

The home's folder carries the hub name; a container's name is made from it by the spawner.
"""

from __future__ import annotations

import hashlib
import re
import time
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from idl_hub.db.tables import AccountRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from idl_hub.db.database import Database

SMOKE_TEST = "idlhub-smoke"
"""The account of `idl-hub smoke`: made, tried out and removed again; no person gets this name."""
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"
"""Every hub name matches this; it is safe as a path, in a URL and in a container's name."""

_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,29}")
_LIKE_HASHED = re.compile(r".*-[0-9a-f]{10}")
_KEPT_LENGTH = 20
_LONGEST_LOGIN = 512
"""In characters; with four bytes each it still fits into a row of a Postgres index."""
_ALONE = ("\N{KELVIN SIGN}", "\N{GREEK QUESTION MARK}", "\N{GREEK VARIA}")
"""All that NFC and small letters would turn from something else into ASCII: into a k, a semicolon, a backtick."""
_ALONE_PATTERN = re.compile(f"([{''.join(_ALONE)}])")


class AccountError(ValueError):
    """A login that cannot become an account; the message is for the person who tried."""


@dataclass(frozen=True, slots=True)
class Account:
    """A person's names."""

    provider: str
    login: str
    name: str

    @property
    def home(self) -> str:
        """Name of the folder or volume of the person's files."""
        return self.name


def canonical_login(login: str, *, case_sensitive: bool = False) -> str:
    """Return the one spelling of a login: NFC, without surrounding blanks, in small letters unless they matter.

    Nothing else is made alike: what a provider can tell apart (ß and ss, the long s and s, the Kelvin sign
    and k) are different people here.

    Raises
    ------
    AccountError
        When nothing is left, it is longer than 512 characters, or it holds control characters.
    """
    typed = login.strip()
    folded = (part if part in _ALONE else _fold(part, case_sensitive) for part in _ALONE_PATTERN.split(typed))
    spelled = "".join(folded)
    if not spelled:
        raise AccountError("The name is empty. Type the name you were given.")
    if max(len(typed), len(spelled)) > _LONGEST_LOGIN:
        raise AccountError(f"The name has more than {_LONGEST_LOGIN} characters. Type the name you were given.")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in spelled):
        raise AccountError("The name holds characters that cannot be printed. Type it again.")
    return spelled


def _fold(text: str, case_sensitive: bool) -> str:
    composed = unicodedata.normalize("NFC", text)
    return composed if case_sensitive else unicodedata.normalize("NFC", composed.lower())


def hub_name(login: str) -> str:
    """Return the hub name of a canonical login; different logins get different names."""
    if _PLAIN.fullmatch(login) and not _LIKE_HASHED.fullmatch(login) and login != SMOKE_TEST:
        return login
    readable = unicodedata.normalize("NFKD", login).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9]+", "-", readable).strip("-")[:_KEPT_LENGTH].strip("-")
    digest = hashlib.sha256(login.encode()).hexdigest()[:10]
    return f"{readable or 'user'}-{digest}"


class Accounts:
    """The table of names; a name once given stays with its login."""

    def __init__(self, database: Database, *, case_sensitive: bool = False) -> None:
        self._database = database
        self._case_sensitive = case_sensitive

    async def of_login(self, provider: str, login: str) -> Account:
        """Return the account of a login, entering it at the first time.

        Raises
        ------
        AccountError
            When the login cannot be used, or its name already belongs to somebody from another provider.
        """
        spelled = canonical_login(login, case_sensitive=self._case_sensitive)
        return await self._database.run(lambda session: _enter(session, provider, spelled))

    async def of_name(self, name: str) -> Account | None:
        """Return the account behind a hub name, or None when nobody has it."""

        def look_up(session: Session) -> Account | None:
            row = session.get(AccountRow, name)
            return Account(row.provider, row.login, row.name) if row else None

        return await self._database.run(look_up)


def _enter(session: Session, provider: str, login: str) -> Account:
    known = session.scalar(select(AccountRow).where(AccountRow.provider == provider, AccountRow.login == login))
    if known:
        return Account(known.provider, known.login, known.name)
    name = hub_name(login)
    holder = session.get(AccountRow, name)
    if holder:
        raise AccountError(
            f"The name {name} already belongs to a person who logs in through {holder.provider!r}. "
            "Ask the course's admins to sort it out; nothing was changed."
        )
    session.add(AccountRow(name=name, provider=provider, login=login, created_at=time.time()))
    return Account(provider, login, name)
