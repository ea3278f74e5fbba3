"""The one settings file: YAML, checked whole before anything starts.

Meaning, default and unit of each key stand in its description below; ``docs/reference/settings.md``
and ``settings.example.yml`` say the same, which a test checks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

SETTINGS_VARIABLE = "IDLHUB_SETTINGS"
DEFAULT_FILE = Path("/etc/idl_hub/settings.yml")

_SIZE_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class SettingsError(Exception):
    """The settings cannot be used; the message is one line for the person who wrote them."""


def parse_size_bytes(value: object) -> int:
    """Return a size in bytes from a number of bytes or text such as ``26GiB``.

    Raises
    ------
    ValueError
        When it is neither, or below zero.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        for unit, factor in _SIZE_UNITS.items():
            if value.endswith(unit):
                number = value.removesuffix(unit).strip()
                if number.replace(".", "", 1).isdigit() and number.isascii():
                    return int(float(number) * factor)
    raise ValueError(f"a size such as 26GiB or 512MiB (units: {', '.join(_SIZE_UNITS)})")


Size = Annotated[int, BeforeValidator(parse_size_bytes)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class HubSettings(_Section):
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
    proxy_api_port: Port = Field(8001, description="Port of the proxy's own API, always on 127.0.0.1.")
    database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy address of the database of leases and accounts; "
        "when left out, a SQLite file in the state directory.",
    )
    hub_database_url: SecretStr | None = Field(
        None, description="SQLAlchemy address of JupyterHub's own database; when left out, a SQLite file."
    )


class LoginSettings(_Section):
    """Who may log in, and how."""

    kind: Literal["demo"] = Field(
        "demo", description="`demo`: named users with one shared password, on this machine's loopback only."
    )
    demo_students: int = Field(5, ge=1, le=500, description="How many demo users student1, student2, ... exist.")
    demo_password_file: Path | None = Field(
        None, description="File with the password of the demo users; required by the demo login."
    )


class GPUSettings(_Section):
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
    server_name: str = Field("this machine", min_length=1, description="Name of this machine where GPUs are shown.")
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

    @model_validator(mode="after")
    def _simulator_is_complete(self) -> GPUSettings:
        if self.simulated and not (self.simulator_library and self.simulator_state):
            raise ValueError("simulator_library and simulator_state as well when simulated is above 0")
        return self


class SpawnerSettings(_Section):
    """What a student's server is and may use."""

    kind: Literal["docker", "process"] = Field(
        "docker",
        description="`docker`: a container per student; `process`: plain processes, which isolate nobody.",
    )
    image: str = Field("idl-hub/student:latest", min_length=1, description="Image of students' containers.")
    home_volume: str = Field(
        "idlhub-home-{username}",
        min_length=1,
        description="Docker volume of a student's home, or a folder when it starts with /; "
        "{username} is the account's name.",
    )
    network: str = Field("idlhub", min_length=1, description="Docker network of students' containers.")
    engine_url: str = Field("unix:///var/run/docker.sock", description="Address of the Docker engine.")
    cpu_guarantee: float = Field(
        2.5, gt=0, le=1024, description="CPU cores a session gets when all are busy; idle cores are anybody's."
    )
    cpu_limit: float | None = Field(
        None, gt=0, le=1024, description="CPU cores a session may never exceed; when left out, no wall."
    )
    memory_limit: Size = Field(26 * 2**30, description="Memory a session may use before it is killed.")
    pids_limit: int = Field(2048, ge=64, description="Processes and threads a session may have.")
    shared_memory: Size = Field(2 * 2**30, description="Size of /dev/shm of a session.")
    start_timeout_seconds: int = Field(300, ge=10, description="After this a start that is not ready is given up.")
    restart_grace_seconds: int = Field(
        60,
        ge=1,
        le=600,
        description="How long a hub that starts waits for an engine before it calls its containers' state unknown.",
    )
    call_timeout_seconds: float = Field(60, gt=0, description="Longest time one call to the engine may take.")
    engine_threads: int = Field(8, ge=1, le=64, description="Calls to one engine that may run at the same time.")
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


class Settings(_Section):
    """All settings of one hub."""

    trial: bool = Field(
        False, description="A trial on one machine: pages say so, and the first exercise lies in homes."
    )
    hub: HubSettings = Field(HubSettings(), description="Where the hub listens and keeps its state.")
    login: LoginSettings = Field(LoginSettings(), description="Who may log in, and how.")
    gpus: GPUSettings = Field(GPUSettings(), description="Which cards there are and when one is passed over.")
    spawner: SpawnerSettings = Field(SpawnerSettings(), description="What a student's server is and may use.")

    @model_validator(mode="after")
    def _demo_stays_at_home(self) -> Settings:
        if self.login.kind == "demo" and self.hub.public_address not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError(
                f"hub.public_address 127.0.0.1 with the demo login, not {self.hub.public_address!r}: "
                "one password for everybody may not face a network"
            )
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
    return [DEFAULT_FILE] if DEFAULT_FILE.exists() else []


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{file}: there is no such file; settings.example.yml is one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "something that is not YAML"
        raise SettingsError(f"{file}: is not valid YAML{place}: {problem}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{file}: must hold keys with values, such as 'hub:', not {_shown(content)}")
    return content


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
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{key} is not a setting; {_neighbours(first['loc'])}{more}"
    value = "" if isinstance(first["input"], _Section | dict) else f" is {_shown(first['input'])}"
    return f"{key}{value}; allowed: {_allowed(first)}{more}"


def _allowed(fault: Any) -> str:
    message = str(fault["msg"])
    for start in ("Value error, ", "Input should be "):
        message = message.removeprefix(start)
    return message


def _neighbours(location: tuple[int | str, ...]) -> str:
    section: Any = Settings
    for part in location[:-1]:
        section = section.model_fields[str(part)].annotation
    return f"allowed here: {', '.join(sorted(section.model_fields))}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
