"""What a smoke test may try, where, and what must have come of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from idl_hub.gpus.fleet import Fleet
from idl_hub.gpus.members import Member
from idl_hub.gpus.placement import Choice, Closed, NoGPU, Rules, Wish
from idl_hub.gpus.reading import GPU, HEALTHY, ServerReading
from idl_hub.settings import Settings
from idl_hub.settings_servers import ServerSettings
from idl_hub.smoke import work
from idl_hub.smoke.commands import place, plans_for
from idl_hub.smoke.failure import NotNowError, SmokeError
from idl_hub.smoke.traces import Situation

AGENT = {"url": "https://10.0.0.1:9810", "token_file": "/t", "ca_file": "/c"}
GPU01 = Member("gpu01", ServerSettings.model_validate({"name": "gpu01", "agent": AGENT}))
PLAIN = Member("cpu01", ServerSettings.model_validate({"name": "cpu01"}))


def asked(**more: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"server": "", "force": False, "no_train": False, "address": None} | more))


def plans(now: Situation, **more: Any) -> list[tuple[str, int]]:
    return [(plan.server, plan.gpus) for plan in plans_for(Settings(), asked(**more), now)]


def situation(waiting: int = 0, *drained: str) -> Situation:
    return Situation((GPU01, PLAIN), waiting, frozenset(drained))


def test_each_server_is_tried_with_what_it_has() -> None:
    assert plans(situation()) == [("", 1)]
    assert plans(situation(), server="cpu01") == [("cpu01", 0)]
    assert plans(situation(), server="all") == [("gpu01", 1), ("cpu01", 0)]
    with pytest.raises(ValueError, match=r"there is no server gpu99; the hub has gpu01, cpu01"):
        plans(situation(), server="gpu99")


def test_no_gpu_is_taken_that_somebody_in_line_could_have() -> None:
    for server in ("", "gpu01", "all"):
        with pytest.raises(NotNowError, match="2 students wait for a GPU"):
            plans(situation(2), server=server)
    assert plans(situation(2), force=True) == [("", 1)]
    assert plans(situation(2, "gpu01"), server="gpu01") == [("gpu01", 1)]  # nobody else gets it
    assert plans(situation(2), server="cpu01") == [("cpu01", 0)]


def test_the_test_goes_to_the_address_that_people_type(tmp_path: Path) -> None:
    hub: dict[str, Any] = {"state_directory": str(tmp_path)}

    def where(given: str | None = None, **more: str) -> tuple[str, str]:
        found = place(Settings.model_validate({"hub": hub | more}), asked(address=given, ca_file=None))
        return found.address, found.server_address

    assert where() == ("http://127.0.0.1:8000",) * 2
    assert where(address="https://hub.example.org") == ("https://hub.example.org",) * 2
    assert where("https://other.example.org/", address="https://hub.example.org") == ("https://other.example.org",) * 2
    assert where(subdomain_host="https://hub.example.org") == (
        "https://hub.example.org",
        "https://idlhub-smoke.hub.example.org",
    )


def test_a_test_may_have_a_gpu_of_a_drained_server_and_of_that_one_alone() -> None:
    class Reads:
        def __init__(self, server: str) -> None:
            self.server = server

        def latest(self) -> ServerReading:
            return ServerReading(self.server, 100.0, HEALTHY, (GPU(f"GPU-{self.server}", 0, HEALTHY, "card"),))

    names = ("gpu01", "gpu02")
    fleet = Fleet({name: Reads(name) for name in names}, Rules(), lambda: 100.0, lambda: Closed({"gpu02": "repair"}))
    hosts = frozenset(names)
    usual = fleet.choose({}, 1, hosts)
    assert isinstance(usual, Choice)
    assert usual.server == "gpu01"
    tried = fleet.choose({}, 1, hosts, Wish(servers=frozenset({"gpu02"}), drained_too=True))
    assert isinstance(tried, Choice)
    assert [gpu.uuid for gpu in tried.gpus] == ["GPU-gpu02"]
    assert isinstance(fleet.choose({}, 1, hosts, Wish(servers=frozenset({"gpu02"}))), NoGPU)
    silent = hosts - {"gpu02"}
    assert isinstance(fleet.choose({}, 1, silent, Wish(servers=frozenset({"gpu02"}), drained_too=True)), NoGPU)


def test_the_container_must_see_the_reserved_gpus_and_no_others() -> None:
    work.check_gpus(work.gpus_in('a word\n["GPU-2", "GPU-1"]\n'), ("GPU-1", "GPU-2"))
    for seen in ((), ("GPU-1", "GPU-2"), ("GPU-3",)):
        with pytest.raises(SmokeError, match="the hub reserved GPU-1"):
            work.check_gpus(seen, ("GPU-1",))


def test_training_must_see_the_gpu_and_learn() -> None:
    good = work.training_in('{"tensorflow": "2.19.1", "gpus": 1, "losses": [0.7, 0.5]}')
    work.check_training(good, gpus=1)
    with pytest.raises(SmokeError, match="sees 1 GPUs, but the session has 2"):
        work.check_training(good, gpus=2)
    for losses in ((0.5, 0.7), (0.5, float("nan"))):
        with pytest.raises(SmokeError, match="learned nothing"):
            work.check_training(work.Training("2.19.1", 1, losses), gpus=1)
    with pytest.raises(SmokeError, match="without a word"):
        work.training_in("\n")
