"""The command idl-hub-backup that role backup installs: what is in a backup, and what is told when it is not whole."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cluster_runs
import pytest
from ansible.machine_images import machine_image
from cluster_box import Box
from cluster_disks import CAPABILITIES
from cluster_image import ROOT
from hubs import docker, wait_for

SCRIPT = ROOT / "ansible" / "roles" / "backup" / "files" / "idl_hub_backup.py"
CONFIGURATION = "etc/idl_hub/backup/backup.json"
ROWS = 1234
_FILES = """
set -e
pg_ctlcluster 15 main start
mkdir -p /etc/idl_hub/pki /var/lib/idl_hub /srv/homes/anna/.cache /var/lib/registry /srv/backups /metrics
echo key >/etc/idl_hub/pki/ca-key.pem
echo state >/var/lib/idl_hub/cookie
echo work >/srv/homes/anna/notebook.ipynb
printf 'Signature: 8a477f597d28d172789f06886806bc55' >/srv/homes/anna/.cache/CACHEDIR.TAG
echo again >/srv/homes/anna/.cache/thing
touch /srv/homes/.idl_hub-homes
echo layer >/var/lib/registry/blob
for name in idl_hub jupyterhub; do
    runuser -u postgres -- createdb $name
    runuser -u postgres -- psql -q -d $name -c "CREATE TABLE lease AS SELECT generate_series(1, $1) AS id"
done
"""


@dataclass(frozen=True)
class Hub:
    """A machine with data of a hub, and a repository."""

    box: Box

    def configure(self, repository: str = "/srv/backups/restic", **over: Any) -> None:
        """Write what the role writes, with another repository or other things laid over it."""
        values = {
            "host": "hub",
            "repositories": [repository],
            "environment": {},
            "password_file": "/etc/idl_hub/backup/password",
            "databases": ["idl_hub", "jupyterhub"],
            "dumps": "/var/backups/idl_hub/databases",
            "paths": ["/etc/idl_hub", "/var/lib/idl_hub"],
            "changing": ["/srv/homes", "/var/lib/registry"],
            "excludes": ["/etc/idl_hub/backup"],
            "homes": "/srv/homes",
            "keep": {"last": 3},
            "check_subset": "100%",
            "metrics": "/metrics/idl_hub_backup.prom",
            "lock": "/run/lock/idl-hub-backup",
            "wait_seconds": 0.3,
        }
        self.box.write({CONFIGURATION: json.dumps(values | over).encode()})

    def backup(self, *arguments: str) -> tuple[int, str]:
        """Run the command; return its status and what it said."""
        command = ["docker", "exec", self.box.container, "idl-hub-backup", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        return done.returncode, done.stdout + done.stderr

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command, which can be told to go on by a line."""
        words = ["docker", "exec", "--interactive", self.box.container, "sh", "-c", command]
        return subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def snapshots(self) -> list[dict[str, Any]]:
        """Return all snapshots, oldest first."""
        found: list[dict[str, Any]] = json.loads(self.backup("restic", "snapshots", "--json")[1])
        return found

    def metrics(self, verb: str = "run") -> dict[str, float]:
        """Return what Prometheus is told."""
        lines = self.box.exec("cat", f"/metrics/idl_hub_backup_{verb}.prom").splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def failed(self, verb: str = "run") -> set[str]:
        """Return the steps that failed."""
        steps = {name: value for name, value in self.metrics(verb).items() if "_failed{" in name}
        return {re.findall(r'step="(\w+)"', name)[0] for name, value in steps.items() if value}


@pytest.fixture(scope="module")
def machine() -> Iterator[Hub]:
    run = f"idlhub-backup-{secrets.token_hex(4)}"
    command = ["run", "--detach", "--init", "--network=none", "--hostname=hub", *cluster_runs.labels(run)]
    box = Box("hub", "", "")
    try:
        box.container = docker(*command, *CAPABILITIES, "--entrypoint=sleep", machine_image(), "infinity")
        box.exec("sh", "-c", _FILES, "sh", str(ROWS))
        box.write({"etc/idl_hub/backup/password": b"a password"})
        box.write({"usr/local/sbin/idl-hub-backup": SCRIPT.read_bytes()}, mode=0o755)
        yield Hub(box)
    finally:
        cluster_runs.remove(run)


@pytest.fixture
def hub(machine: Hub) -> Hub:
    """A machine with an empty repository."""
    machine.box.exec("sh", "-c", "rm -rf /srv/backups/* /metrics/*")
    machine.configure()
    status, said = machine.backup("restic", "init")
    assert status == 0, said
    return machine


def test_a_backup_holds_databases_settings_state_images_and_homes(hub: Hub) -> None:
    status, said = hub.backup("run")
    assert status == 0, said
    (snapshot,) = hub.snapshots()
    assert {"idl-hub", "complete"} == set(snapshot["tags"])
    stored = hub.backup("restic", "ls", "latest")[1].splitlines()
    assert {
        "/etc/idl_hub/pki/ca-key.pem",
        "/var/lib/idl_hub/cookie",
        "/srv/homes/anna/notebook.ipynb",
        "/srv/homes/.idl_hub-homes",
        "/var/lib/registry/blob",
    } <= set(stored)
    assert "/etc/idl_hub/backup/password" not in stored, "what opens the backup is not in it"
    assert "/srv/homes/anna/.cache/thing" not in stored, "a cache"
    assert hub.failed() == set()
    metrics = hub.metrics()
    assert metrics["idlhub_backup_last_success_timestamp_seconds"] > 1e9
    assert metrics['idlhub_backup_size_bytes{repository="1"}'] > 0


def test_databases_come_back_from_a_backup_as_they_were(hub: Hub) -> None:
    assert hub.backup("run")[0] == 0
    assert hub.box.exec("ls", "-A", "/var/backups/idl_hub") == "", "dumps are left lying about"
    restore = """
    set -e
    idl-hub-backup restic restore latest --target /restored --include /var/backups/idl_hub
    runuser -u postgres -- createdb restored
    runuser -u postgres -- pg_restore --exit-on-error --single-transaction -d restored \
        </restored/var/backups/idl_hub/databases/idl_hub.dump
    """
    hub.box.exec("sh", "-c", restore)
    count = hub.box.exec(
        "runuser", "-u", "postgres", "--", "psql", "-At", "-d", "restored", "-c", "SELECT count(*), max(id) FROM lease"
    )
    assert count == f"{ROWS}|{ROWS}"


def test_a_database_that_cannot_be_dumped_fails_the_backup_and_all_else_is_stored(hub: Hub) -> None:
    assert hub.backup("run")[0] == 0
    before = hub.metrics()["idlhub_backup_last_success_timestamp_seconds"]
    hub.configure(databases=["idl_hub", "gone"])
    status, said = hub.backup("run")
    assert status == 1
    assert "The database gone could not be dumped" in said
    assert 'database "gone" does not exist' in said
    assert [snapshot["tags"][1] for snapshot in hub.snapshots()] == ["complete", "incomplete"]
    assert "/srv/homes/anna/notebook.ipynb" in hub.backup("restic", "ls", "latest")[1]
    assert hub.failed() == {"databases"}
    assert hub.metrics()["idlhub_backup_last_success_timestamp_seconds"] == before


def test_homes_that_are_not_mounted_are_no_empty_homes(hub: Hub) -> None:
    hub.box.exec("mv", "/srv/homes/.idl_hub-homes", "/srv/homes/gone")
    try:
        status, said = hub.backup("run")
    finally:
        hub.box.exec("mv", "/srv/homes/gone", "/srv/homes/.idl_hub-homes")
    assert status == 1
    assert "the homes are not mounted" in said
    assert hub.failed() == {"homes"}
    assert hub.snapshots()[0]["tags"][1] == "incomplete"


@pytest.mark.parametrize(("place", "fine"), [("/srv/homes/anna/broken", True), ("/etc/idl_hub/broken", False)])
def test_a_file_that_cannot_be_read_fails_the_backup_unless_it_may_just_have_gone(
    hub: Hub, place: str, fine: bool
) -> None:
    # Reading the memory of a process from its first byte on is an error.
    hub.box.exec("sh", "-c", f"touch {place} && mount --bind /proc/1/mem {place}")
    try:
        status, said = hub.backup("run")
    finally:
        hub.box.exec("sh", "-c", f"umount {place} && rm {place}")
    assert status == (0 if fine else 1), said
    assert hub.failed() == (set() if fine else {"files"})
    assert (f"could not read {place}" in said) is not fine
    assert hub.snapshots()[0]["tags"][1] == ("complete" if fine else "incomplete")
    assert hub.metrics()["idlhub_backup_unread_files"] == 1


def test_old_backups_are_let_go_and_a_failed_one_pushes_no_whole_one_out(hub: Hub) -> None:
    hub.configure(keep={"last": 1})
    assert [hub.backup("run")[0] for _ in range(2)] == [0, 0]
    hub.configure(keep={"last": 1}, databases=["gone"])
    assert hub.backup("run")[0] == 1
    assert [snapshot["tags"][1] for snapshot in hub.snapshots()] == ["complete", "incomplete"]


def test_a_second_run_waits_for_the_first_and_gives_up_in_the_end(hub: Hub) -> None:
    with hub.start("flock /run/lock/idl-hub-backup -c 'echo held; read line'") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        status, said = hub.backup("run")
        assert (status, hub.failed()) == (1, {"wait"})
        assert "Another run is still at work" in said
        hub.configure(wait_seconds=60)
        with hub.start("idl-hub-backup run") as waiting:
            assert waiting.stdout is not None
            assert "waiting for it" in waiting.stdout.readline()
            other.communicate("go on\n", timeout=30)
            assert waiting.wait(60) == 0
    assert hub.failed() == set()


def test_a_run_that_is_ended_says_so(hub: Hub) -> None:
    hub.configure(wait_seconds=60)
    with hub.start("flock /run/lock/idl-hub-backup -c 'echo held; read line'") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with hub.start("echo $$; exec idl-hub-backup run") as ended:
            assert ended.stdout is not None
            pid = ended.stdout.readline().strip()
            assert "waiting for it" in ended.stdout.readline()
            hub.box.exec("kill", "-TERM", pid)
            assert "stopped before it was done" in ended.stdout.read()
            assert ended.wait(30) == 1
        other.communicate("go on\n", timeout=30)
    assert hub.failed() == {"files"}


def test_only_locks_of_those_who_are_gone_are_removed(hub: Hub) -> None:
    with hub.start("echo $$; exec idl-hub-backup restic backup --stdin") as other:
        assert other.stdout is not None
        pid = other.stdout.readline().strip()
        wait_for(lambda: hub.box.exec("ls", "/srv/backups/restic/locks"), "the other one's lock")
        status, said = hub.backup("tidy")
        assert (status, hub.failed("tidy")) == (1, {"tidy"})
        assert "repository is already locked" in said
        hub.box.exec("kill", "-KILL", pid)
        other.wait(30)
    assert hub.backup("tidy")[0] == 0
    assert hub.failed("tidy") == set()


def test_what_is_damaged_in_a_repository_is_told(hub: Hub) -> None:
    assert hub.backup("run")[0] == 0
    assert hub.backup("tidy")[0] == 0
    damage = "for pack in /srv/backups/restic/data/*/*; do head -c 64 /dev/urandom | dd of=$pack conv=notrunc; done"
    hub.box.exec("sh", "-c", damage)
    status, said = hub.backup("tidy")
    assert (status, hub.failed("tidy")) == (1, {"tidy"}), said
