"""What is done to a fleet over the years: other Debians, upgrades, new secrets, servers that leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


def test_variables_of_running_kernels_survive_an_upgrade(chain: Chain) -> None:
    with chain.step("upgrade"):
        chain.play("upgrade.yml", "-e", "upgrade_force=true")
        _kernels_remember(chain, "student1", "student2")


def test_a_broken_upgrade_rolls_back(chain: Chain, tmp_path: Path) -> None:
    with chain.step("broken upgrade"):
        broken = tmp_path / "broken.py"
        broken.write_text('raise RuntimeError("this configuration is broken on purpose")\n')
        extra = f"{{'hub_extra_configuration': ['{broken}'], 'upgrade_force': true, 'hub_start_seconds': 30}}"
        chain.broken_play("upgrade.yml", "-e", extra)
        _kernels_remember(chain, "student1", "student2")
        visitor = chain.person("student3")
        visitor.log_in()
        visitor.page.wait_for_url("**/hub/spawn**")
        assert "broken on purpose" not in _hub_configuration(chain)


def test_new_secrets_end_no_session(chain: Chain) -> None:
    with chain.step("new secrets"):
        before = _token(chain)
        chain.play("rotate-secrets.yml")
        assert _token(chain) != before
        _kernels_remember(chain, "student1", "student2")
        chain.play("smoke.yml")


def test_a_server_leaves_and_only_its_sessions_end(chain: Chain) -> None:
    with chain.step("a server leaves"):
        chain.machines.take_out("gpu02")
        chain.play("remove-server.yml", "-e", "server=gpu02", "-e", "remove_end_sessions=true")
        _kernels_remember(chain, "student1")
        live = chain.rows("select \"user\", server from lease where phase != 'ended'")
        assert live == [["student1", "gpu01"]]
        assert "gpu02" not in _idl_hub(chain, "servers", "--json")


@pytest.mark.parametrize("how", [{"debian": "trixie"}, {"bare": True}], ids=["Debian 13", "really bare"])
def test_other_machines_become_a_fleet_as_well(how: dict[str, str | bool], start_chain: Callable[..., Chain]) -> None:
    chain = start_chain(count=1, **how)
    chain.play("site.yml")
    assert chain.play("site.yml").changed == {"hub": 0, "gpu01": 0}
    chain.play("smoke.yml")


def _idl_hub(chain: Chain, *words: str) -> str:
    return chain.machines.machine("hub").exec("idl-hub", *words)


def _kernels_remember(chain: Chain, *students: str) -> None:
    for student in students:
        assert run_cell(chain.people[student], "print('still', kept)") == "still 42"


def _token(chain: Chain) -> str:
    return chain.machines.machine("hub").exec("cat", "/etc/idl_hub/agents/gpu01.token")


def _hub_configuration(chain: Chain) -> str:
    extra = "grep -rs . /etc/idl_hub/jupyterhub_config.d /etc/idl_hub/settings || true"
    return chain.machines.machine("hub").exec("sh", "-c", extra)
