"""Years of a hub in an hour: upgrades, one of which fails, new secrets, a server that leaves, and the end.

A student's kernel runs from the first day to the last but one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible.chain import Chain, open_notebook, run_cell
from ansible.inventories import DOMAIN

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
_IMAGE = "idl-hub/hub:latest"
_PACKAGE = "/opt/idl_hub/venv/lib/python3.11/site-packages/idl_hub"
_TABLES_OF_A_NEW_VERSION = (
    'revision = "9999"\\ndown_revision = "{newest}"\\nbranch_labels = None\\ndepends_on = None\\n'
    'def upgrade():\\n    from alembic import op\\n    op.execute("create table novelty (id integer)")\\n'
)
_LATER = ("-e", "upgrade_packages=false", "-e", "hub_start_seconds=60")


@pytest.fixture(scope="module")
def chain(start_chain: Callable[..., Chain]) -> Chain:
    return start_chain(count=2)


def test_a_fleet_with_a_student_at_work(chain: Chain) -> None:
    with chain.step("a fleet with a student at work"):
        chain.play("site.yml")
        student = chain.start_with_gpu("student1")
        open_notebook(student.page)
        assert run_cell(student, "kept = 41; print(kept)") == "41"


def test_an_upgrade_brings_the_new_hub_and_the_kernel_does_not_notice(chain: Chain) -> None:
    with chain.step("an upgrade brings the new hub and the kernel does not notice"):
        _make_hub_image(chain, "LABEL version=new")
        chain.play("upgrade.yml", *_LATER)
        assert _label(chain) == "new"
        assert _undrained(chain)
        assert run_cell(chain.people["student1"], "print('still', kept)") == "still 41"


def test_an_upgrade_that_breaks_the_hub_is_rolled_back_with_the_tables(chain: Chain) -> None:
    with chain.step("an upgrade that breaks the hub is rolled back with the tables"):
        before = _hub(chain, "docker", "container", "inspect", "--format", "{{.Id}}", "idl-hub-hub")
        tables = _TABLES_OF_A_NEW_VERSION.format(newest=chain.rows("select version_num from alembic_version")[0][0])
        _make_hub_image(
            chain,
            f"RUN printf '{tables}' > {_PACKAGE}/db/history/versions/9999_novelty.py",
            "LABEL version=broken",
            'CMD ["sleep", "infinity"]',
        )
        played = chain.machines.play("upgrade.yml", *_LATER)

        assert played.status != 0
        assert "the former one runs again" in played.output
        assert "those from before the upgrade" in " ".join(played.output.split())
        assert _hub(chain, "docker", "container", "inspect", "--format", "{{.Id}}", "idl-hub-hub") == before
        assert chain.rows("select count(*) from pg_tables where tablename = 'novelty'") == [["0"]]
        assert _label(chain) == "new"
        assert run_cell(chain.people["student1"], "print('still', kept)") == "still 41"
        chain.play("smoke.yml")


def test_an_upgrade_that_was_cut_off_is_named_and_taken_back(chain: Chain) -> None:
    with chain.step("an upgrade that was cut off is named and taken back"):
        _hub(chain, "mkdir", "--mode=0700", "/var/lib/idl_hub-upgrade")
        _hub(chain, "touch", "/var/lib/idl_hub-upgrade/former.json")
        played = chain.machines.play("upgrade.yml", *_LATER)
        assert played.status != 0
        assert "upgrade_roll_back=true" in played.output
        _hub(chain, "rm", "-r", "/var/lib/idl_hub-upgrade")


def test_new_secrets_everywhere_and_the_old_ones_open_nothing(chain: Chain) -> None:
    with chain.step("new secrets everywhere, and the old ones open nothing"):
        files = ("/etc/idl_hub/proxy.env", "/var/lib/idl_hub/web-token", "/etc/idl_hub/agents/gpu01.token")
        files += ("/etc/idl_hub/pki/hub.pem", "/etc/idl_hub/pki/ca.pem")
        before = {file: _hub(chain, "cat", file) for file in files}
        password = (chain.machines.inventory / "secrets" / "restic-password").read_text()

        parts = "proxy,pages,agents,certificates,backup,authority"
        chain.play("rotate-secrets.yml", "-e", f"rotate_parts={parts}")

        assert [file for file in files if _hub(chain, "cat", file) == before[file]] == []
        assert (chain.machines.inventory / "secrets" / "restic-password").read_text() != password
        old = before["/var/lib/idl_hub/web-token"].strip()
        ask = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
        ask += ["--header", f"Authorization: token {old}", "http://127.0.0.1:8000/hub/api/users"]
        assert _hub(chain, *ask) == "403"
        chain.play("backup.yml")
        chain.play("smoke.yml")
        assert run_cell(chain.people["student1"], "print('still', kept)") == "still 41"


def test_a_server_leaves_and_its_student_is_told(chain: Chain) -> None:
    with chain.step("a server leaves and its student is told"):
        server = chain.server_of("student1")
        kept = chain.machines.take_out(server)
        chain.play("remove-server.yml", "-e", f"server={server}", "-e", "remove_end_sessions=true")

        assert chain.rows("select server from lease where phase <> 'ended'") == []
        assert server not in _hub(chain, "cat", "/etc/idl_hub/settings/servers.yml")
        assert kept.address not in chain.machines.machine(_other(server)).exec("nft", "list", "ruleset")
        assert set(chain.play("site.yml").changed.values()) == {0}
        chain.play("smoke.yml")


def test_afterwards_the_machines_are_usable_and_homes_and_databases_are_there(chain: Chain) -> None:
    with chain.step("afterwards the machines are usable, and homes and databases are there"):
        homes = chain.home_hashes()
        assert chain.machines.play("uninstall.yml").status != 0, "it asks for the domain"
        chain.play("uninstall.yml", "-e", f"uninstall_really={DOMAIN}")

        assert chain.home_hashes() == homes
        assert ["student1"] in chain.rows("select name from users", "jupyterhub")
        for machine in chain.machines.machines.values():
            assert machine.exec("docker", "ps", "--quiet") == ""
            assert "idl_hub" not in machine.exec("nft", "list", "tables")
            machine.exec("test", "!", "-e", "/etc/idl_hub")


def _make_hub_image(chain: Chain, *lines: str) -> None:
    """Make another version of the hub's image on the hub's machine."""
    text = "\n".join([f"FROM {_IMAGE}", *lines])
    words = ["sh", "-c", 'printf "%s\\n" "$1" | docker build --quiet --tag "$2" -', "sh", text, _IMAGE]
    chain.machines.machine("hub").exec(*words)


def _hub(chain: Chain, *command: str) -> str:
    return chain.machines.machine("hub").exec(*command)


def _label(chain: Chain) -> str:
    """Return which version of the hub runs."""
    shown = '{{index .Config.Labels "version"}}'
    return _hub(chain, "docker", "container", "inspect", "--format", shown, "idl-hub-hub").strip()


def _undrained(chain: Chain) -> bool:
    return chain.rows("select target from out_of_service where ended_at is null") == []


def _other(server: str) -> str:
    return {"gpu01": "gpu02", "gpu02": "gpu01"}[server]
