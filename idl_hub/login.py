"""Who may log in, and under which name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from jupyterhub.auth import Authenticator
from jupyterhub.authenticators.shared import SharedPasswordAuthenticator
from tornado import web

from idl_hub.db.accounts import AccountError, canonical_login

if TYPE_CHECKING:
    from idl_hub.db.accounts import Accounts
    from idl_hub.db.events import Events


class AccountNamesMixin(Authenticator):
    """Put before an authenticator class; people then go by their account's name, whatever the provider calls them."""

    accounts: ClassVar[Accounts]
    """Set once, by the hub's configuration, before the first login."""
    events: ClassVar[Events]
    """Set with `accounts`: where logins are written down."""
    provider: ClassVar[str]
    """Name of the login provider in the table of accounts."""

    def normalize_username(self, username: str) -> str:
        """Leave the name alone: the account's mapping is the one place where names change."""
        return username

    async def authenticate(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:
        """Let the provider check, then replace its login by the account's name."""
        found = await super().authenticate(handler, data)
        if not found:
            return None
        model: dict[str, Any] = {"name": found} if isinstance(found, str) else dict(found)
        try:
            account = await self.accounts.of_login(self.provider, model["name"])
        except AccountError as error:
            raise web.HTTPError(403, str(error)) from error
        return {**model, "name": account.name}

    async def get_authenticated_user(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:
        """Write down who was let in, for the question "why?" later."""
        model: dict[str, Any] | None = await super().get_authenticated_user(handler, data)
        if model is not None:
            await self.events.note("login", f"logged in ({self.provider})", user=model["name"])
        return model


class DemoAuthenticator(AccountNamesMixin, SharedPasswordAuthenticator):
    """Named demo users with one password, for a trial on this machine alone."""

    provider = "demo"

    async def authenticate(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:
        """Let only the named users try, so that nobody else gets an account."""
        try:
            login = canonical_login(data["username"])
        except AccountError as error:
            raise web.HTTPError(403, str(error)) from error
        return await super().authenticate(handler, data) if login in self.allowed_users else None
