"""From bare machines to a running hub, and back from a lost one: the plays as an admin runs them, one after another.

The steps build on each other: one fleet, as few minutes as possible.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from ansible.chain import Chain, open_notebook, run_cell
from ansible.inventories import DOMAIN
from ansible.scrapes import wait_until_all_is_seen
from playwright.sync_api import expect

from ansible import firewall_matrix, guide

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def chain(start_chain: Callable[..., Chain]) -> Chain:
    return start_chain(count=2)


def test_the_admins_guide_leads_from_bare_machines_to_a_fleet_that_works_and_is_backed_up(
    chain: Chain, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with chain.step("the admin's guide leads from bare machines to a fleet"):
        folder = guide.checkout(tmp_path_factory.mktemp("guide"))
        done = guide.follow(folder, chain.machines.inventory)
        chain.seconds |= {f"  {block.command.strip()}": block.seconds for block in done}
        assert [block.command.strip() for block in done if block.status] == []
        # What the guide's own inventory was given on the way, such as the backups' password.
        shutil.copytree(folder / guide.INVENTORY, chain.machines.inventory, dirs_exist_ok=True)
        assert "idlhub-smoke" not in {name for name, _ in chain.users()}
        assert chain.rows("select \"user\" from lease where phase != 'ended'") == []


def test_a_second_run_changes_nothing(chain: Chain) -> None:
    with chain.step("a second run changes nothing"):
        assert chain.play("site.yml").changed == {"hub": 0, "gpu01": 0, "gpu02": 0}


def test_a_student_gets_a_gpu_over_https_and_works(chain: Chain) -> None:
    with chain.step("a student gets a GPU over https and works"):
        student = chain.start_with_gpu("student1")
        assert student.page.url.startswith(f"https://{DOMAIN}/user/student1/lab")
        open_notebook(student.page)
        counted = run_cell(student, "import pynvml; pynvml.nvmlInit(); kept = pynvml.nvmlDeviceGetCount(); print(kept)")
        assert counted == "1"


def test_a_server_joins_while_a_session_runs(chain: Chain) -> None:
    with chain.step("a server joins while a session runs"):
        chain.machines.add("gpu03")
        chain.play("add-server.yml", "-e", "server=gpu03")
        student = chain.people["student1"]
        assert run_cell(student, "print('still', kept)") == "still 1"

        hub = chain.machines.machine("hub")
        for name in ("gpu01", "gpu02"):
            hub.exec("idl-hub", "drain", name, "--force", "--reason", "the next session is for gpu03")
        chain.start_with_gpu("student2").page.context.close()
        assert chain.server_of("student2") == "gpu03"
        for name in ("gpu01", "gpu02"):
            hub.exec("idl-hub", "undrain", name)


def test_prometheus_sees_everything_that_dashboards_and_alerts_ask_for(chain: Chain) -> None:
    with chain.step("Prometheus sees everything"):
        wait_until_all_is_seen(chain.machines.machine("hub"))


def test_nobody_reaches_what_is_not_for_them(chain: Chain) -> None:
    with chain.step("nobody reaches what is not for them"):
        firewall_matrix.check(chain.machines)


def test_a_lost_hub_comes_back_with_users_homes_and_gpu_history(chain: Chain) -> None:
    with chain.step("a lost hub comes back with users, homes and GPU history"):
        student = chain.people["student1"]
        student.page.keyboard.press("Control+s")
        student.page.context.close()
        _end_sessions(chain)
        users, history, homes = chain.users(), chain.history(), chain.home_hashes()
        assert {"student1", "student2"} <= {user for user, _ in users}
        assert {"student1", "student2"} <= {row[1] for row in history}
        assert any(path.startswith("student1/") and path.endswith(".ipynb") for path in homes)
        chain.play("backup.yml")

        for home in chain.machines.homes.iterdir():
            shutil.rmtree(home) if home.is_dir() else home.unlink()
        chain.machines.replace("hub")
        chain.play("restore.yml")

        assert chain.users() == users
        assert chain.history() == history
        assert chain.home_hashes() == homes


def test_after_that_the_student_finds_the_notebook_and_gets_a_gpu_again(chain: Chain) -> None:
    with chain.step("after that the student finds the notebook and gets a GPU again"):
        student = chain.person("student1")
        student.log_in()
        student.choose("With a GPU")
        # JupyterLab opens what was open before.
        expect(student.page.get_by_role("tab", name="Untitled.ipynb")).to_be_visible(timeout=60_000)
        notebook = student.content("Untitled.ipynb")["content"]
        assert "kept = pynvml.nvmlDeviceGetCount()" in "".join(cell["source"] for cell in notebook["cells"])
        assert chain.server_of("student1") in {"gpu01", "gpu02", "gpu03"}


def _end_sessions(chain: Chain) -> None:
    """End all sessions, so that nothing more is written."""
    for name in ("student1", "student2"):
        person = chain.person(name)
        person.log_in()
        person.stop_server()
        person.page.context.close()
    assert chain.rows("select \"user\" from lease where phase != 'ended'") == []
