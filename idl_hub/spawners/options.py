"""What a student may choose when starting a server, and the form that asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from idl_hub.gpus.placement import GPUStanding, State
from idl_hub.homes.space import State as HomeState
from idl_hub.homes.words import remainder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from idl_hub.homes.store import Home

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent.parent / "web" / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
)


class OptionsError(ValueError):
    """Options nobody offers; the message is for the person who sent them."""


@dataclass(frozen=True, slots=True)
class Options:
    """How many GPUs a session asks for, and whether the student's own packages are used."""

    gpu_count: int = 1
    my_packages: bool = True


def parse(options: Mapping[str, Any], most_gpus: int = 1) -> Options:
    """Read stored or submitted options; what is left out gets its default.

    Parameters
    ----------
    most_gpus
        How many GPUs this person may ask for: `gpu` may then also be "2", "3" and so on.

    Raises
    ------
    OptionsError
        For a value that is not offered.
    """
    counts = gpu_counts(most_gpus)
    gpu = options.get("gpu", "one")
    if not isinstance(gpu, str) or gpu not in counts:
        offered = " or ".join(repr(value) for value in sorted(counts, key=lambda value: (counts[value] != 1, value)))
        raise OptionsError(f"The option gpu is {str(gpu)[:40]!r}; it may be {offered}. Choose on the start page.")
    packages = options.get("my_packages", "yes")
    if packages not in ("yes", "no"):
        raise OptionsError(f"The option my_packages is {str(packages)[:40]!r}; it may be 'yes' or 'no'.")
    return Options(gpu_count=counts[gpu], my_packages=packages == "yes")


def gpu_counts(most_gpus: int) -> dict[str, int]:
    """Return the values that the option gpu may have, and how many GPUs each means."""
    return {"one": 1, "none": 0} | {str(count): count for count in range(2, most_gpus + 1)}


def from_form(form: Mapping[str, Sequence[str]], most_gpus: int = 1) -> dict[str, str]:
    """Turn submitted fields (or query arguments) into stored options.

    Raises
    ------
    OptionsError
        As `parse` does.
    """
    chosen = {key: form[key][-1] for key in ("gpu", "my_packages") if form.get(key)}
    parse(chosen, most_gpus)
    return chosen


def form(
    standings: Sequence[GPUStanding],
    *,
    simulated: bool,
    last: Mapping[str, Any],
    most_gpus: int = 1,
    waiting: int = 0,
    home: Home | None = None,
) -> str:
    """Render the form: what is free now, what is out of order and why, and the choices.

    Parameters
    ----------
    last
        The last choice, which is preset.
    most_gpus
        How many GPUs this person may ask for.
    waiting
        How many wait in the line.
    home
        The viewer's own, where it is known.
    """
    free = [standing for standing in standings if standing.state is State.FREE]
    out_of_order = [standing for standing in standings if standing.state in (State.SICK, State.UNKNOWN, State.CLOSED)]
    try:
        preset = parse(last, most_gpus)
    except OptionsError:
        preset = Options()
    return _TEMPLATES.get_template("options_form.html").render(
        free=len(free),
        total=len(standings),
        out_of_order=out_of_order,
        simulated=simulated,
        kind=" or ".join(dict.fromkeys(standing.gpu.name for standing in standings if standing.gpu.name)),
        preset=preset,
        counts=[count for count in gpu_counts(most_gpus).values() if count > 1],
        waiting=waiting,
        room=remainder(home) if home else "",
        home_is_full=home is not None and home.state is HomeState.FULL,
    )
