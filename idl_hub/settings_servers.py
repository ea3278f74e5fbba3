"""Settings of what a fleet is made of: servers with engine and agent, homes, images, quiet hours."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from idl_hub.settings_base import Section, Size, at_least, fault

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _agent_address(url: str) -> str:
    if not re.fullmatch(r"(https://[^/?#@\s]+|http://(127\.0\.0\.1|\[::1\]|localhost)(:\d+)?)/?", url):
        raise ValueError("an address such as https://10.0.0.5:9810, with plain http only on this machine")
    return url


def _engine_address(url: str) -> str:
    if not re.fullmatch(r"unix:///[^\s]+|tcp://[^/?#@\s]+:\d{1,5}", url):
        raise ValueError("an address such as tcp://10.0.0.5:2376 or unix:///var/run/docker.sock")
    return url


def _server_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise ValueError("up to 63 letters, digits, '.', '-' and '_', a letter or digit first")
    return name


def _ip_address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("an IP address such as 10.0.0.5") from None
    if "%" in text:
        raise ValueError("an IP address without the name of an interface, such as fd00::5")
    if address.is_unspecified:
        raise ValueError("one address of the server; students' ports may not be open at all of them")
    return text


def _absolute(path: Path | None) -> Path | None:
    if path is not None and (not path.is_absolute() or ".." in path.parts or path == Path("/")):
        raise ValueError("a folder's path that begins with / and has no '..'")
    return path


def _registry_address(address: str | None) -> str | None:
    if address is not None and not re.fullmatch(r"[a-z0-9.-]+:\d{1,5}", address):
        raise ValueError("a host and a port, such as 10.0.0.1:5000")
    return address


def _weekly(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(rf"({'|'.join(DAYS)}) ([01]\d|2[0-3]):[0-5]\d", text):
        raise ValueError("a day and a time, such as Sunday 18:00")
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("a time zone's name, such as Europe/Berlin") from None
    return name


Folder = Annotated[Path | None, AfterValidator(_absolute)]


class AgentSettings(Section):
    """Where the agent of a GPU server answers, and how the hub and it know each other."""

    url: Annotated[str, AfterValidator(_agent_address)] = Field(
        description="Such as https://10.0.0.5:9810; plain http only on this machine.",
    )
    token_file: Path = Field(description="File with the token that the agent was given.")
    ca_file: Path | None = Field(
        None, description="PEM file of who vouches for the agent's certificate; required with https."
    )

    @model_validator(mode="after")
    def _https_needs_an_authority(self) -> AgentSettings:
        if self.url.startswith("https:") and self.ca_file is None:
            raise fault("agent.ca_file", None, "a file, since the agent's address is an https one")
        return self


class EngineSettings(Section):
    """Where a server's Docker engine answers, and how the hub and it know each other."""

    url: Annotated[str, AfterValidator(_engine_address)] = Field(
        description="Such as tcp://10.0.0.5:2376, or unix:///var/run/docker.sock for this machine's own.",
    )
    ca_file: Path | None = Field(None, description="PEM file of who vouches for the engine's certificate.")
    certificate_file: Path | None = Field(None, description="PEM file of the hub's own certificate.")
    key_file: Path | None = Field(None, description="PEM file of the key of that certificate.")

    @model_validator(mode="after")
    def _a_network_needs_certificates(self) -> EngineSettings:
        if self.url.startswith("tcp:"):
            for key in ("ca_file", "certificate_file", "key_file"):
                if getattr(self, key) is None:
                    raise fault(f"engine.{key}", None, "a file: who reaches an engine without one is root there")
        return self


class ServerSettings(Section):
    """A server that students' sessions run on."""

    name: Annotated[str, AfterValidator(_server_name)] = Field(
        description="As its agent calls itself, and as people read it.",
    )
    address: Annotated[str, AfterValidator(_ip_address)] | None = Field(
        None,
        description="Address inside the cluster at which students' containers are reached; required with "
        "spawner.kind docker.",
    )
    engine: EngineSettings | None = Field(None, description="Its Docker engine; required with spawner.kind docker.")
    agent: AgentSettings | None = Field(
        None, description="Who reads its GPUs; when left out, the server has none and takes sessions without GPU."
    )
    gpus: int | None = Field(
        None,
        ge=0,
        le=64,
        description="How many GPUs it has, for `idl-hub doctor` to compare; when left out, it does not.",
    )


Kept = Literal["hours", "days", "weeks"]


def _kept() -> dict[Kept, int]:
    return {"hours": 48, "days": 14, "weeks": 8}


class HomeSettings(Section):
    """Where students' files lie."""

    directory: Folder = Field(
        None,
        description="Folder of all homes, at the same path on the hub's machine and on every server; when left out, "
        "homes are Docker volumes (spawner.home_volume) of one server.",
    )
    uid: int = Field(1000, ge=1, le=60_000, description="Number of the user who owns the files, as in the image.")
    gid: int = Field(1000, ge=1, le=60_000, description="Number of the group who owns the files, as in the image.")
    quota: Annotated[Size, at_least("64MiB")] | None = Field(
        None, description="Space of one student; when left out, only the disk ends."
    )
    snapshots: Folder = Field(
        None, description="Folder of the hourly copies of all homes, mounted like the homes; when left out, none."
    )
    snapshots_kept: dict[Kept, Annotated[int, Field(ge=0, le=400)]] = Field(
        default_factory=_kept,
        description="How many hourly, daily and weekly copies are kept.",
    )
    fence_command: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="Program, with its arguments, that cuts a server which does not answer off from the homes; called "
        "with `fence SERVER ACCOUNT` and, when all is well again, `unfence SERVER ACCOUNT`, and done when it ends "
        "with 0. When empty, students who start elsewhere take the risk of two writers.",
    )
    fence_seconds: float = Field(30, gt=0, le=600, description="Longest time that program may take.")


class ImageSettings(Section):
    """Where students' images come from."""

    registry: Annotated[str | None, AfterValidator(_registry_address)] = Field(
        None,
        description="Host and port of the course's registry; when left out, images are taken as they lie on the "
        "servers.",
    )
    kept: int = Field(2, ge=1, le=20, description="How many earlier images stay on the servers, to go back to.")


class QuietSettings(Section):
    """The hours before the weekly deadline, in which no server is drained and no image rolled out."""

    deadline: Annotated[str | None, AfterValidator(_weekly)] = Field(
        "Sunday 18:00", description="The weekly deadline, as a day and a time; when empty (null), there is none."
    )
    time_zone: Annotated[str, AfterValidator(_zone)] = Field("Europe/Berlin", description="Where that time is read.")
    hours: float = Field(6, ge=0, le=168, description="How long before the deadline the quiet begins.")
