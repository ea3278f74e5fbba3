"""What every request goes through: who asks is known before anything else happens."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from jupyterhub.services.auth import HubOAuth, HubOAuthenticated
from sqlalchemy.exc import SQLAlchemyError
from tornado import web

from idl_hub.homes.snapshots import kept_by
from idl_hub.web.access import HubAwayError, Visitor

if TYPE_CHECKING:
    from jinja2 import Environment

    from idl_hub.db.commands import Commands
    from idl_hub.settings import Settings
    from idl_hub.web.access import Groups
    from idl_hub.web.live import Live

log = logging.getLogger("idl_hub.web")
_SECURITY = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
WORDS = {
    400: "The request is not understood. Load the page again.",
    403: "This is not open to you. You may be signed in under another name than you think.",
    404: "There is nothing at this address.",
    405: "This address does not take that kind of request.",
    500: "Something went wrong in idl-hub web; its log says what. Nothing of yours is lost. Try again.",
    502: "The hub does not answer right now. Nothing was changed. Try again in a minute.",
    503: "The hub or its database does not answer right now. Nothing was changed. Try again in a minute.",
}


class Handler(HubOAuthenticated, web.RequestHandler):
    """A request of somebody whom the hub knows."""

    def initialize(self, hub_auth: HubOAuth, live: Live, commands: Commands, groups: Groups) -> None:
        """Take what all requests share."""
        self.hub_auth = hub_auth
        self.live = live
        self.commands = commands
        self.groups = groups

    @property
    def shared(self) -> Settings:
        """The hub's settings."""
        found: Settings = self.application.settings["idl_hub_settings"]
        return found

    @property
    def templates(self) -> Environment:
        """The pages."""
        found: Environment = self.application.settings["idl_hub_templates"]
        return found

    def set_default_headers(self) -> None:
        """Forbid what no page of ours needs."""
        self.clear_header("Server")
        for name, value in _SECURITY.items():
            self.set_header(name, value)

    async def prepare(self) -> None:
        """Ask the hub who this is, without holding up anybody else; refuse who may not come in."""
        try:
            model = await self.hub_auth.get_user(self, sync=False)
        except web.HTTPError as error:  # the hub did not answer, or not as it should
            raise Refusal(503, WORDS[503]) from error
        self._hub_auth_user_cache = model
        if model is None:
            self.refuse_stranger()
            return
        self.visitor = Visitor.of_model(model)
        if not self.visitor.may_enter:
            raise web.HTTPError(403)
        # After the identity is known: who brings a token needs no XSRF token, a browser does.
        self.check_xsrf_cookie()

    def refuse_stranger(self) -> None:
        """Answer somebody who did not say who they are."""
        raise web.HTTPError(403, reason="Not signed in")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error in words, as JSON."""
        cause = kwargs.get("exc_info", (None, None))[1]
        self.finish({"status": status_code, "message": words_for(status_code, cause)})

    def _handle_request_exception(self, error: BaseException) -> None:
        if isinstance(error, SQLAlchemyError | HubAwayError):
            log.warning("%s %s: %s", self.request.method, self.request.path, error)
            error = web.HTTPError(503)
        super()._handle_request_exception(error)


class Page(Handler):
    """A page for a browser; strangers sign in first."""

    def refuse_stranger(self) -> None:
        """Lead to the hub's login and back."""
        self.redirect(self.get_login_url())

    def show(self, template: str, **values: Any) -> None:
        """Render a template with what every page needs."""
        hub = self.hub_auth.hub_host + self.hub_auth.hub_prefix
        self.finish(
            self.templates.get_template(template).render(
                prefix=self.hub_auth.base_url,
                hub=hub,
                user=self.visitor.name if hasattr(self, "visitor") else "",
                xsrf=self.xsrf_token.decode() if isinstance(self.xsrf_token, bytes) else self.xsrf_token,
                trial=self.shared.trial,
                simulated=bool(self.shared.gpus.simulated),
                isolated=self.shared.spawner.kind != "process",
                versions=kept_by(self.shared.homes),
                **values,
            )
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error as a page."""
        cause = kwargs.get("exc_info", (None, None))[1]
        self.show("trouble.html", status=status_code, words=words_for(status_code, cause))


class Refusal(web.HTTPError):
    """An error whose words are for the person who asked."""

    def __init__(self, status_code: int, words: str) -> None:
        super().__init__(status_code)
        self.words = words


def words_for(status: int, cause: BaseException | None) -> str:
    """Return what to tell a person about an error."""
    if isinstance(cause, Refusal):
        return cause.words
    return WORDS.get(status, WORDS[500] if status >= 500 else WORDS[400])
