"""The REST interface. Each address says who may call it; `openapi.yaml` says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idl_hub.db.commands import ASKED
from idl_hub.people import WRITE_FLEET, WRITE_LINE, WRITE_SESSIONS
from idl_hub.web.base import Handler, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idl_hub.gpus.line import Ticket
    from idl_hub.web.records import Held

_OPENAPI = Path(__file__).with_name("openapi.yaml")
_ANSWER_SECONDS = 8
_LONGEST_TEXT = 300
_LATER = "The hub has not got to it yet. It is done as soon as the hub is back, if that is within a minute."


class API(Handler):
    """A request answered with JSON."""

    def need(self, scope: str) -> None:
        """Refuse who does not have this scope for anybody."""
        if not self.visitor.has_some(scope):
            raise Refusal(403, f"You may not do that: it needs the scope {scope}.")

    async def need_for(self, scope: str, user: str) -> None:
        """Refuse who does not have this scope for this user."""
        if not await self.groups.allows(self.visitor, scope, user):
            raise Refusal(403, f"You may not do that for {user}: it needs the scope {scope} for them.")

    def text(self, name: str, otherwise: str) -> str:
        """Return a text from the JSON body, which may be left out."""
        value = self.body().get(name)
        if value is not None and (not isinstance(value, str) or len(value) > _LONGEST_TEXT):
            raise Refusal(400, f"{name} must be a text of at most {_LONGEST_TEXT} characters.")
        return (value or "").strip() or otherwise

    def yes(self, name: str) -> bool:
        """Return a true or false from the JSON body; false when it is left out."""
        value = self.body().get(name, False)
        if not isinstance(value, bool):
            raise Refusal(400, f"{name} must be true or false.")
        return value

    def body(self) -> dict[str, Any]:
        """Return the JSON body; empty when there is none."""
        try:
            body = json.loads(self.request.body or b"{}")
        except ValueError:
            raise Refusal(400, "The body of the request is not JSON.") from None
        if not isinstance(body, dict):
            raise Refusal(400, "The body of the request must be a JSON object.")
        return body

    async def ask(self, kind: str, arguments: Mapping[str, Any]) -> None:
        """Ask the hub to do something, and answer with what came of it."""
        number = await self.commands.ask(kind, arguments, self.visitor.name)
        answer = await self.commands.answer(number, _ANSWER_SECONDS)
        self.set_status(202)
        self.finish({"state": answer.state, "result": _LATER if answer.state == ASKED else answer.result})

    async def lease(self, lease_id: str) -> Held:
        """Return a live lease, or answer 404."""
        await self.live.now(0)
        for lease in self.live.records.leases:
            if lease.id == lease_id:
                return lease
        raise Refusal(404, "There is no such session any more.")

    async def ticket(self, ticket_id: str) -> Ticket:
        """Return a place in the line, or answer 404."""
        await self.live.now(0)
        for ticket in self.live.records.tickets:
            if ticket.id == ticket_id:
                return ticket
        raise Refusal(404, "This place in the line is gone: it ended, or somebody left it.")


class Me(API):
    """`GET api/me`: everybody, about themselves."""

    async def get(self) -> None:
        """Return session, ticket and how many GPUs are free."""
        self.finish(await self.live.about(self.visitor.name, self.get_argument("server_name", None)))


class MyRequest(API):
    """`POST api/me/keep`, `extend`, `leave-line`, `elsewhere`: everybody, for themselves."""

    async def post(self, verb: str) -> None:
        """Find what it is about, and ask the hub."""
        about = await self.live.about(self.visitor.name, self.get_argument("server_name", None), oldest_seconds=0)
        if verb == "leave-line":
            if about["ticket"] is None:
                raise Refusal(409, "You are not in the line.")
            await self.ask("leave_line", {"ticket_id": about["ticket"]["id"]})
            return
        if verb == "elsewhere":
            if about["silence"] is None:
                raise Refusal(409, "Nothing of yours is on a server that does not answer. Open or start your server.")
            await self.ask("start_elsewhere", {"lease_id": about["silence"]["lease_id"], "risk": self.yes("risk")})
            return
        if about["session"] is None:
            raise Refusal(409, "You have no session.")
        await self.ask(verb, {"lease_id": about["session"]["lease_id"]})


class FleetView(API):
    """`GET api/fleet`: staff (scope custom:idlhub:fleet:read)."""

    async def get(self) -> None:
        """Return servers, GPUs, the line with names, and totals."""
        if not self.visitor.sees_all:
            raise Refusal(403, "Servers, GPUs and names are for the course's staff. Your own GPU is at api/me.")
        self.finish((await self.live.now()).as_json())


class LineView(API):
    """`GET api/line`: everybody; names only for staff."""

    async def get(self) -> None:
        """Return the places in their order."""
        line = (await self.live.now()).line
        if not self.visitor.sees_all:
            mine = self.visitor.name
            line = tuple(
                {"position": place["position"], "state": place["state"], "mine": place["user"] == mine}
                for place in line
            )
        self.finish({"line": line})


class ServerRequest(API):
    """`POST api/servers/NAME/drain` and `undrain`: admins (scope custom:idlhub:fleet:write)."""

    async def post(self, server: str, verb: str) -> None:
        """Ask the hub."""
        self.need(WRITE_FLEET)
        reason = {"reason": self.text("reason", "maintenance")} if verb == "drain" else {}
        await self.ask(verb, {"server": server, **reason})


class GPURequest(API):
    """`POST api/gpus/UUID/exclude`, `include` and `end-orphan`: admins (scope custom:idlhub:fleet:write)."""

    async def post(self, uuid: str, verb: str) -> None:
        """Ask the hub."""
        self.need(WRITE_FLEET)
        reason = {"reason": self.text("reason", "excluded")} if verb == "exclude" else {}
        await self.ask(verb.replace("-", "_"), {"gpu_uuid": uuid, **reason})


class SessionRequest(API):
    """`POST api/sessions/LEASE/end`: admins; lecturers for their students (scope custom:idlhub:sessions:write)."""

    async def post(self, lease_id: str) -> None:
        """Ask the hub, with the message for the person whose session it is."""
        self.need(WRITE_SESSIONS)
        lease = await self.lease(lease_id)
        await self.need_for(WRITE_SESSIONS, lease.user)
        await self.ask("end_session", {"lease_id": lease_id, "message": self.text("message", "no reason given")})


class PlaceRequest(API):
    """`POST api/line/TICKET/front` and `leave`: admins; lecturers for their students (custom:idlhub:line:write)."""

    async def post(self, ticket_id: str, verb: str) -> None:
        """Ask the hub."""
        self.need(WRITE_LINE)
        ticket = await self.ticket(ticket_id)
        await self.need_for(WRITE_LINE, ticket.user)
        await self.ask("to_front" if verb == "front" else "leave_line", {"ticket_id": ticket_id})


class Description(API):
    """`GET openapi.yaml`: everybody."""

    async def get(self) -> None:
        """Return the description of this interface."""
        self.set_header("Content-Type", "application/yaml")
        self.finish(_OPENAPI.read_bytes())


class Nothing(API):
    """Every other address."""

    async def prepare(self) -> None:
        """Answer 404 to everybody alike."""
        raise Refusal(404, "There is nothing at this address.")
