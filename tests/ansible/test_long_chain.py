"""Other machines: both Debians in one fleet, Debian 13 alone, and machines without a single package of ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible.chain import Chain, open_notebook, run_cell

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def chain(start_chain: Callable[..., Chain]) -> Chain:
    """A hub and a server on Debian 12, one server on Debian 13."""
    chain = start_chain(count=1)
    chain.machines.add("gpu02", debian="trixie")
    return chain


def test_a_fleet_of_both_debians_is_set_up_and_a_second_run_changes_nothing(chain: Chain) -> None:
    with chain.step("mixed fleet"):
        chain.play("site.yml")
        assert chain.play("site.yml").changed == {"hub": 0, "gpu01": 0, "gpu02": 0}


def test_sessions_run_on_both(chain: Chain) -> None:
    with chain.step("sessions on both Debians"):
        for student, server, closed in (("student1", "gpu01", "gpu02"), ("student2", "gpu02", "gpu01")):
            _idl_hub(chain, "drain", closed, "--force", "--reason", f"the next session is for {server}")
            person = chain.start_with_gpu(student)
            assert chain.server_of(student) == server
            open_notebook(person.page)
            assert run_cell(person, "kept = 42; print(kept)") == "42"
            _idl_hub(chain, "undrain", closed)


@pytest.mark.parametrize("how", [{"debian": "trixie"}, {"bare": True}], ids=["Debian 13", "really bare"])
def test_other_machines_become_a_fleet_as_well(how: dict[str, str | bool], start_chain: Callable[..., Chain]) -> None:
    chain = start_chain(count=1, **how)
    chain.play("site.yml")
    assert chain.play("site.yml").changed == {"hub": 0, "gpu01": 0}
    chain.play("smoke.yml")


def _idl_hub(chain: Chain, *words: str) -> str:
    return chain.machines.machine("hub").exec("idl-hub", *words)
