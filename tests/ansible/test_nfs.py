"""Role homes: who may do what with students' files over NFS.

This kernel has no NFS. So the export that the role writes is served by nfs-ganesha, whose settings come from the same
variables, and used through libnfs; what it writes for the kernel's server is read by the kernel's exportfs, and what
it writes for the machines' mounts by systemd.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.nfs_fleet import HOMES, SNAPSHOTS, NFSFleet

STUDENT = 1000
NOBODY = 65534


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NFSFleet]:
    with NFSFleet(tmp_path_factory.mktemp("nfs")) as made:
        played = made.play(["gpu01", "gpu02"])
        assert played.status == 0, played.output
        home = Path(HOMES, "anna")
        made.boxes["files"].exec("install", "-d", "-m", "0700", "-o", str(STUDENT), "-g", str(STUDENT), str(home))
        yield made


def _owner(fleet: NFSFleet, path: str) -> int:
    return int(fleet.boxes["files"].exec("stat", "-c", "%u", path))


def test_the_hub_makes_folders_and_gives_files_away(fleet: NFSFleet) -> None:
    steps = (["mkdir", "/bob"], ["write", "/bob/first", "of the hub"], ["chown", "/bob/first", STUDENT, STUDENT])
    assert fleet.use("hub", HOMES, 0, *steps) == [None] * 4
    assert _owner(fleet, f"{HOMES}/bob") == 0
    assert _owner(fleet, f"{HOMES}/bob/first") == STUDENT


def test_a_student_finds_the_same_files_on_every_server(fleet: NFSFleet) -> None:
    assert fleet.use("gpu01", HOMES, STUDENT, ["write", "/anna/notebook", "print(1)"]) == [None, None]
    assert fleet.use("gpu02", HOMES, STUDENT, ["read", "/anna/notebook", "print(1)"]) == [None, None]
    assert fleet.use("hub", HOMES, 0, ["read", "/anna/notebook", "print(1)"]) == [None, None]
    assert _owner(fleet, f"{HOMES}/anna/notebook") == STUDENT


def test_root_of_a_server_is_nobody(fleet: NFSFleet) -> None:
    fleet.use("hub", HOMES, 0, ["write", "/anna/secret", "mine"], ["chown", "/anna/secret", STUDENT, STUDENT])
    tries = (["read", "/anna/secret", "mine"], ["mkdir", "/carol"], ["chown", "/anna/secret", NOBODY, NOBODY])
    mounted, *refused = fleet.use("gpu01", HOMES, 0, *tries)
    assert mounted is None
    assert all("NFS4ERR_ACCESS" in (answer or "") or "NFS4ERR_PERM" in (answer or "") for answer in refused), refused
    assert fleet.boxes["files"].exec("ls", HOMES).split() == ["anna", "bob"]


def test_who_is_not_of_the_fleet_gets_nothing(fleet: NFSFleet) -> None:
    for export in (HOMES, SNAPSHOTS):
        (answer,) = fleet.use("stranger", export, STUDENT, ["read", "/anna/notebook", "print(1)"])
        assert answer is not None
        assert "mount" in answer


def test_a_server_only_reads_earlier_versions(fleet: NFSFleet) -> None:
    files = fleet.boxes["files"]
    files.exec("install", "-d", "-o", str(STUDENT), "-g", str(STUDENT), f"{SNAPSHOTS}/anna")
    written = fleet.use("hub", SNAPSHOTS, 0, ["write", "/anna/old", "then"], ["chown", "/anna/old", STUDENT, STUDENT])
    assert written == [None] * 3
    mounted, read, write = fleet.use(
        "gpu01", SNAPSHOTS, STUDENT, ["read", "/anna/old", "then"], ["write", "/anna/new", "forged"]
    )
    assert (mounted, read) == (None, None)
    assert "NFS4ERR_ROFS" in (write or "")


def test_the_kernels_server_is_told_the_same(fleet: NFSFleet) -> None:
    address = {name: box.address for name, box in fleet.boxes.items()}
    exports = fleet.exports()
    machines = [address[name] for name in ("hub", "gpu01", "gpu02")]
    assert set(exports) == {(folder, machine) for folder in (HOMES, SNAPSHOTS) for machine in machines}
    for folder in (HOMES, SNAPSHOTS):
        assert {"rw", "no_root_squash", "sync", "secure"} <= exports[folder, address["hub"]]
    for server in (address["gpu01"], address["gpu02"]):
        assert {"rw", "root_squash", "sync"} <= exports[HOMES, server]
        assert {"ro", "root_squash"} <= exports[SNAPSHOTS, server]
        assert all("no_root_squash" not in exports[folder, server] for folder in (HOMES, SNAPSHOTS))


def test_systemd_can_use_the_mounts_of_a_server(fleet: NFSFleet) -> None:
    server = fleet.boxes["gpu01"]
    for folder in (HOMES, SNAPSHOTS):
        unit = server.exec("systemd-escape", "--path", "--suffix=mount", folder)
        # The helper of NFS is what mounts; systemd says here what it cannot read.
        said = server.exec("systemd-analyze", "verify", f"/etc/systemd/system/{unit}", check=False)
        assert not said, said
        text = server.exec("cat", f"/etc/systemd/system/{unit}")
        assert f"What={fleet.boxes['files'].address}:{folder}" in text.splitlines()
        (options,) = (line.removeprefix("Options=") for line in text.splitlines() if line.startswith("Options="))
        assert {"vers=4.2", "hard", "nosuid", "nodev", "_netdev", "nofail"} <= set(options.split(","))


def test_a_server_that_left_the_fleet_is_let_in_no_more(fleet: NFSFleet) -> None:
    played = fleet.play(["gpu01"], "--limit=files")
    assert played.status == 0, played.output
    assert "changed" not in played.output.split("TASK [homes : Folders]")[1].split("TASK")[0]
    assert fleet.use("gpu02", HOMES, STUDENT, ["read", "/anna/notebook", "print(1)"])[0] is not None
    assert fleet.use("gpu01", HOMES, STUDENT, ["read", "/anna/notebook", "print(1)"]) == [None, None]
