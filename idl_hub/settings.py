"""The one settings file: YAML, checked whole before anything starts.

Meaning, default and unit of each key stand in its description below; ``docs/reference/settings.md``
and ``settings.example.yml`` say the same, which a test checks.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator

from idl_hub.settings_base import Port, Section, Size, at_least, fault, parse_size_bytes
from idl_hub.settings_servers import HomeSettings, ImageSettings, QuietSettings, ServerSettings

__all__ = ["SETTINGS_VARIABLE", "Settings", "SettingsError", "load", "parse_size_bytes"]

SETTINGS_VARIABLE = "IDLHUB_SETTINGS"
DEFAULT_FILE = Path("/etc/idl_hub/settings.yml")

# Where pydantic's own words would not help somebody who writes YAML.
_ALLOWED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "path_type": "a path, as text",
    "tuple_type": "a list",
    "missing": "a value; this key may not be left out",
}


class SettingsError(Exception):
    """The settings cannot be used; the message is one line for the person who wrote them."""


def _with_user_name(volume: str) -> str:
    if "{username}" not in volume:
        raise ValueError("a name with {username} in it, or all students would share one home")
    return volume


def _socket(url: str) -> str:
    if not re.fullmatch(r"unix:///[^\s]+", url):
        raise ValueError("a socket such as unix:///var/run/docker.sock; engines elsewhere are named in servers")
    return url


def _origin(url: str) -> str:
    if url and not re.fullmatch(r"https?://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?", url):
        raise ValueError("an address without a path, such as https://hub.example.org, or nothing")
    return url


class HubSettings(Section):
    """Where the hub listens and keeps its state."""

    state_directory: Path = Field(
        Path("/var/lib/idl_hub"), description="Folder of databases, keys and logs; only the hub may read it."
    )
    public_address: str = Field("127.0.0.1", description="Address at which the proxy serves people.")
    public_port: Port = Field(8000, description="Port at which the proxy serves people.")
    internal_address: str = Field(
        "127.0.0.1",
        description="Address at which the hub's API listens; students' servers and the proxy must reach it.",
    )
    internal_port: Port = Field(8081, description="Port of the hub's API.")
    web_port: Port = Field(
        8090,
        description="Port of the GPU pages (`idl-hub web`), at 127.0.0.1 for the proxy and at the internal address "
        "for students' servers.",
    )
    address: Annotated[str, AfterValidator(_origin)] = Field(
        "",
        description="The hub as people type it, such as https://hub.example.org: what doctor and smoke look at.",
    )
    subdomain_host: Annotated[str, AfterValidator(_origin)] = Field(
        "",
        description="Address of the hub with its own domain for each user below it, such as "
        "https://hub.example.org (then alice.hub.example.org and so on must lead here as well); empty: one for all.",
    )
    proxy_api_port: Port = Field(8001, description="Port of the proxy's own API, always on 127.0.0.1.")
    database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy address of the database of leases and accounts; "
        "when left out, a SQLite file in the state directory.",
    )
    hub_database_url: SecretStr | None = Field(
        None, description="SQLAlchemy address of JupyterHub's own database; when left out, a SQLite file."
    )

    @property
    def database_address(self) -> str:
        """SQLAlchemy address of our database, given or by default; it may hold a password."""
        given = self.database_url
        return given.get_secret_value() if given else f"sqlite:///{self.state_directory}/idl_hub.sqlite"


class LoginSettings(Section):
    """Who may log in, and how."""

    kind: Literal["demo"] = Field(
        "demo", description="`demo`: named users with one shared password, on this machine's loopback only."
    )
    demo_students: int = Field(5, ge=1, le=500, description="How many demo users student1, student2, ... exist.")
    demo_password_file: Path | None = Field(
        None, description="File with the password of the demo users; required by the demo login."
    )


class GPUSettings(Section):
    """Which cards there are and when a free one is passed over."""

    simulated: int = Field(
        0, ge=0, le=64, description="How many simulated cards stand in for real ones; 0: the real cards."
    )
    simulator_library: Path | None = Field(
        None, description="The stand-in libnvidia-ml.so.1; required when cards are simulated."
    )
    simulator_state: Path | None = Field(
        None, description="State file of the simulated cards; required when cards are simulated."
    )
    server_name: str = Field(
        "this machine", min_length=1, max_length=255, description="Name of this machine where GPUs are shown."
    )
    busy_utilization_ratio: float = Field(
        0.1,
        gt=0,
        le=1,
        description="A GPU that nobody leased but whose utilization is at or above this is used by somebody "
        "outside the hub and passed over.",
    )
    busy_memory: Size = Field(
        512 * 2**20,
        description="A GPU that nobody leased but with more memory in use than this is passed over.",
    )
    reading_max_age_seconds: float = Field(
        10, gt=0, description="A reading older than this is unknown; unknown GPUs are not given out."
    )

    temperature_limit_celsius: float = Field(
        90,
        ge=40,
        le=120,
        description="A GPU this hot gets no new session until it has been 5 degrees cooler for a minute.",
    )

    @model_validator(mode="after")
    def _simulator_is_complete(self) -> GPUSettings:
        if self.simulated and not (self.simulator_library and self.simulator_state):
            raise fault(
                "gpus.simulated", self.simulated, "above 0 only together with simulator_library and simulator_state"
            )
        return self


class SpawnerSettings(Section):
    """What a student's server is and may use."""

    kind: Literal["docker", "process"] = Field(
        "docker",
        description="`docker`: a container per student; `process`: plain processes, which isolate nobody.",
    )
    image: str = Field("idl-hub/student:latest", min_length=1, description="Image of students' containers.")
    home_volume: Annotated[str, AfterValidator(_with_user_name)] = Field(
        "idlhub-home-{username}",
        description="Docker volume of a student's home, or a folder when it starts with /; "
        "{username} is the account's name.",
    )
    network: str = Field("idlhub", min_length=1, description="Docker network of students' containers.")
    engine_url: Annotated[str, AfterValidator(_socket)] = Field(
        "unix:///var/run/docker.sock", description="Address of this machine's Docker engine, when there are no servers."
    )
    cpu_guarantee: float = Field(
        2.5, ge=0.01, le=256, description="CPU cores a session gets when all are busy; idle cores are anybody's."
    )
    cpu_limit: float | None = Field(
        None, ge=0.01, le=1024, description="CPU cores a session may never exceed; when left out, no wall."
    )
    memory_limit: Annotated[Size, at_least("64MiB")] = Field(
        26 * 2**30, description="Memory a session may use before it is killed."
    )
    pids_limit: int = Field(2048, ge=64, description="Processes and threads a session may have.")
    shared_memory: Annotated[Size, at_least("1MiB")] = Field(2 * 2**30, description="Size of /dev/shm of a session.")
    start_timeout_seconds: int = Field(300, ge=10, description="After this a start that is not ready is given up.")
    restart_grace_seconds: int = Field(
        60,
        ge=1,
        le=600,
        description="How long a hub that starts waits for an engine before it calls its containers' state unknown.",
    )
    call_timeout_seconds: float = Field(60, gt=0, description="Longest time one call to the engine may take.")
    engine_threads: int = Field(8, ge=1, le=64, description="Calls to one engine that may run at the same time.")
    server_lost_minutes: float = Field(
        10,
        gt=0,
        le=240,
        description="A server that does not answer for so long is lost: its students are offered a start elsewhere.",
    )
    temporary_space: Annotated[Size, at_least("64MiB")] = Field(
        8 * 2**30, description="Size of /tmp of a session; it lies in memory and counts as such."
    )
    stop_timeout_seconds: int = Field(
        10, ge=1, le=300, description="Time a session has to save and end before it is killed."
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Further environment variables of students' servers; no secrets."
    )
    first_files: Path | None = Field(
        None,
        description="Folder whose notebooks lie in a student's home from the first start; for kind `process`, "
        "since images bring their own.",
    )
    student_python: Path | None = Field(
        None, description="Python with JupyterLab and TensorFlow for kind `process`; else the hub's own."
    )


class SessionSettings(Section):
    """How long a session may let its GPU idle, and last. Sessions without a GPU are not meant."""

    open_within_minutes: float = Field(
        10, gt=0, description="A server that the line started goes to the next in line when it is not opened in time."
    )
    idle_minutes_while_others_wait: float = Field(
        20, gt=0, description="A GPU idle by NVML for so long is taken back, after a warning, while others wait."
    )
    idle_minutes: float | None = Field(480, gt=0, description="The same while nobody waits; when empty (null), never.")
    idle_warning_minutes: float = Field(
        10, gt=0, description="Time between the warning in JupyterLab and the end of an idle session."
    )
    longest_hours: float | None = Field(
        24, gt=0, description="The longest a session with a GPU may last, training or not; when empty (null), no limit."
    )
    idle_minutes_without_gpu: float | None = Field(
        120,
        gt=0,
        description="A session without a GPU ends when no kernel, terminal or browser was active for so long; "
        "when empty (null), never.",
    )
    most_gpus: dict[str, Annotated[int, Field(ge=1, le=16)]] = Field(
        default_factory=lambda: {"lecturers": 4},
        description="Group -> how many GPUs of one server its members may have in a session; everybody else: 1.",
    )
    extension_hours: float = Field(
        12, gt=0, description="By how much its holder may make a session longer while nobody waits."
    )


_SECTIONS = frozenset({"hub", "login", "gpus", "sessions", "spawner", "homes", "images", "quiet"})


class Settings(Section):
    """All settings of one hub."""

    trial: bool = Field(
        False, description="A trial on one machine: pages say so, and the first exercise lies in homes."
    )
    hub: HubSettings = Field(HubSettings(), description="Where the hub listens and keeps its state.")
    login: LoginSettings = Field(LoginSettings(), description="Who may log in, and how.")
    gpus: GPUSettings = Field(GPUSettings(), description="Which cards there are and when one is passed over.")
    sessions: SessionSettings = Field(
        SessionSettings(), description="How long a session may let its GPU idle, and last."
    )
    servers: tuple[ServerSettings, ...] = Field(
        (),
        description="The servers that students' sessions run on, each as {name, address, engine: {url, ca_file, "
        "certificate_file, key_file}, agent: {url, token_file, ca_file}, gpus}; without agent: no GPUs. When empty: "
        "this machine alone, under the name gpus.server_name, with the engine at spawner.engine_url.",
    )
    spawner: SpawnerSettings = Field(SpawnerSettings(), description="What a student's server is and may use.")
    homes: HomeSettings = Field(HomeSettings(), description="Where students' files lie, on every server alike.")
    images: ImageSettings = Field(ImageSettings(), description="Where students' images come from.")
    quiet: QuietSettings = Field(
        QuietSettings(), description="The hours before a deadline, in which nothing is changed under the students."
    )

    @model_validator(mode="after")
    def _demo_stays_at_home(self) -> Settings:
        if self.login.kind == "demo" and self.hub.public_address not in {"127.0.0.1", "::1", "localhost"}:
            raise fault(
                "hub.public_address",
                self.hub.public_address,
                "127.0.0.1 with the demo login: one password for everybody may not face a network",
            )
        return self

    @model_validator(mode="after")
    def _servers_differ(self) -> Settings:
        names = [server.name for server in self.servers]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise fault(f"servers.{number}.name", name, "a name that no other server has")
        return self

    @model_validator(mode="after")
    def _servers_have_engines(self) -> Settings:
        if self.spawner.kind != "docker":
            return self
        for number, server in enumerate(self.servers):
            if server.engine is None or server.address is None:
                key = "engine" if server.engine is None else "address"
                raise fault(f"servers.{number}.{key}", None, "a value, since spawner.kind is docker")
        if len(self.servers) > 1 and self.homes.directory is None:
            raise fault("homes.directory", None, "a folder that every server mounts, since there are several servers")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        taken: dict[int, str] = {}
        for name in HubSettings.model_fields:
            if not name.endswith("_port"):
                continue
            port = getattr(self.hub, name)
            if port in taken:
                raise fault(f"hub.{name}", port, f"another port than {taken[port]}")
            taken[port] = f"hub.{name}"
        return self


def load(files: list[Path]) -> Settings:
    """Read and check settings files; keys of later files win.

    Raises
    ------
    SettingsError
        With one line that names file, key, value and what is allowed.
    """
    merged: dict[str, Any] = {}
    for file in files:
        merged = _merge(merged, _read(file))
    names = ", ".join(map(str, files)) or "the defaults"
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(f"{names}: {_in_one_line(error)}") from None


def files_from_environment() -> list[Path]:
    """Return the settings files this process should read: `IDLHUB_SETTINGS` (colon-separated) or the default one."""
    named = os.environ.get(SETTINGS_VARIABLE, "")
    if named:
        return [Path(name) for name in named.split(":") if name]
    try:
        return [DEFAULT_FILE] if DEFAULT_FILE.exists() else []
    except PermissionError:
        return [DEFAULT_FILE]  # it may be there; reading it says why it cannot be read


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise SettingsError(f"{file}: there is no such file; settings.example.yml is one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "something that is not YAML"
        raise SettingsError(f"{file}: is not valid YAML{place}: {_one_line(problem)}") from None
    except ValueError as error:  # such as a date that does not exist
        raise SettingsError(f"{file}: holds a value that cannot be read: {_one_line(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{file}: must hold keys with values, such as 'hub:', not {_shown(content)}")
    # A section of which every line is a comment is an empty one.
    return {key: {} if value is None and key in _SECTIONS else value for key, value in content.items()}


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: the first one would be lost without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                problem = f"the key {key_node.value!r} stands there a second time"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `over` laid over it, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _in_one_line(error: ValidationError) -> str:
    """Say the first fault, with the number of further ones."""
    faults = error.errors(include_url=False)
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    key = _one_line(".".join(str(part) for part in first["loc"]))
    if first["type"] == "together":
        told = first["ctx"]
        return f"{told['key']} is {_shown(told['value'])}; allowed: {told['allowed']}{more}"
    section = _section(first["loc"][:-1])
    if first["type"] in {"extra_forbidden", "invalid_key"} and section is not None:
        return f"{key} is not a setting; allowed here: {', '.join(sorted(section.model_fields))}{more}"
    value = "**********" if _is_secret(first["loc"]) else _shown(first["input"])
    return f"{key} is {value}; allowed: {_allowed(first)}{more}"


def _allowed(fault: Any) -> str:
    if fault["type"] == "model_type":
        section = _section(fault["loc"])
        return f"a section with keys ({', '.join(sorted(section.model_fields))})" if section else "a section"
    if fault["type"] in _ALLOWED:
        return _ALLOWED[fault["type"]]
    message = str(fault["msg"])
    for start in ("Value error, ", "Input should be "):
        message = message.removeprefix(start)
    return _one_line(message)


def _section(location: tuple[int | str, ...]) -> type[Section] | None:
    """Return the section at this place, None when there is none."""
    section: type[Section] = Settings
    for part in location:
        field = section.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            return None
        section = field.annotation
    return section


def _is_secret(location: tuple[int | str, ...]) -> bool:
    section = _section(location[:1])
    field = section.model_fields.get(str(location[1])) if section and len(location) > 1 else None
    return field is not None and "SecretStr" in str(field.annotation)


def _one_line(text: object) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(text))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
