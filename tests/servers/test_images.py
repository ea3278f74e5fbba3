"""A new image on several servers: published, brought to all, offered, taken back, removed; and no registry."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import REGISTRY_PORT, Cluster, ClusterHub, Server
from hubs import docker, wait_for
from images_shell import build, images, run_images
from light import light_image
from registries import Certificate, RegistryServer
from students import Student

_LOOK_OFTEN = "from idl_hub.images import keeper\nkeeper.LOOK_EVERY_SECONDS = 0.5\n"
_STUDENTS = ("student1", "student2", "student3", "student4")


@dataclass(frozen=True)
class Fleet:
    """Two servers with two GPUs each, a hub and a registry."""

    cluster: Cluster
    hub: ClusterHub
    registry: RegistryServer
    name: str
    folder: Path

    def publish(self) -> str:
        """Build and publish a version; return what an engine calls it."""
        build(self.name, self.folder / secrets.token_hex(4))
        images(self.hub, "publish")
        return self.reference(max(self.listed(), key=lambda image: image["published_at"])["digest"])

    def listed(self) -> list[dict[str, Any]]:
        return json.loads(images(self.hub, "list", "--json"))["images"]  # type: ignore[no-any-return]

    def reference(self, digest: str) -> str:
        return f"{self.registry.address}/{self.name.split(':')[0]}@{digest}"

    def offered(self) -> str:
        [digest] = [image["digest"] for image in self.listed() if image["state"] == "offered"]
        return self.reference(digest)

    def on(self, server: Server) -> set[str]:
        """Return the images of the registry that a server has."""
        listed = server.docker("images", "--digests", "--format", "{{.Repository}}@{{.Digest}}").split()
        return {line for line in listed if line.startswith(self.registry.address)}

    def everywhere(self) -> list[set[str]]:
        return [self.on(server) for server in self.cluster.servers]

    def runs(self, student: str) -> tuple[str, str]:
        """Return on which server a student's container runs, and from which image."""
        [lease] = [lease for lease in self.hub.leases(live=True) if lease.user == student]
        name = self.cluster.containers(self.hub.hub_id)[str(lease.container_id)]
        shown = self.cluster.server(name).docker("inspect", "-f", "{{.Config.Image}}", str(lease.container_id))
        return name, shown

    def stop(self, *students: str) -> None:
        for student in students:
            self.hub.api("DELETE", f"/users/{student}/server")
        gone = lambda: not {lease.user for lease in self.hub.leases(live=True)} & set(students)  # noqa: E731
        wait_for(gone, "the servers to be gone")


@contextmanager
def trusted(registry: str, authority: Path) -> Iterator[None]:
    """Have this machine's engine trust a registry; its folder is root's, so a container writes there."""
    mount = ["--volume", "/etc/docker:/engine", "--user", "0", "--interactive", light_image(), "sh", "-c"]
    write = f"mkdir -p '/engine/certs.d/{registry}' && cat > '/engine/certs.d/{registry}/ca.crt'"
    subprocess.run(["docker", "run", "--rm", *mount, write], input=authority.read_bytes(), check=True, timeout=60)
    try:
        yield
    finally:
        docker("run", "--rm", *mount, f"rm -r '/engine/certs.d/{registry}'")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("images")
    name = f"idl-hub/rolled-{secrets.token_hex(4)}:test"
    with Cluster(folder / "cluster", count=2, gpus=2) as cluster:
        pki = cluster.pki
        certificate = Certificate(pki / "ca.pem", pki / "registry.pem", pki / "registry-key.pem")
        with (
            RegistryServer(folder / "registry", cluster.hub_address, REGISTRY_PORT, certificate) as registry,
            trusted(registry.address, certificate.authority),
        ):
            settings = {
                "images": {"registry": registry.address, "kept": 1},
                "quiet": {"deadline": None},
                "spawner": {"image": name, "call_timeout_seconds": 3},
            }
            with cluster.hub(folder / "hub", students=4, settings=settings, config=_LOOK_OFTEN) as hub:
                try:
                    fleet = Fleet(cluster, hub, registry, name, folder)
                    fleet.publish()
                    images(hub, "rollout")
                    yield fleet
                finally:
                    subprocess.run(["docker", "rmi", name], capture_output=True, timeout=60)


def test_an_image_goes_from_publication_to_removal_without_disturbing_a_session(fleet: Fleet) -> None:
    first = fleet.offered()
    for student in _STUDENTS[:2]:
        Student(fleet.hub, student).started()
        assert fleet.runs(student)[1] == first
    assert [image["sessions"] for image in fleet.listed()] == [2]

    # One server cannot have the second image: it is named, the other one has it, and nothing is offered.
    gpu02 = fleet.cluster.server("gpu02")
    trust = f"/etc/docker/certs.d/{fleet.registry.address}"
    gpu02.exec("mv", trust, "/root/trust")
    second = fleet.publish()
    assert fleet.everywhere() == [{first}] * 2, "publishing brings nothing to students' servers"
    refused = run_images(fleet.hub, "rollout")
    assert refused.status == 1
    assert "gpu02 lacks it, since it does not trust the registry's certificate" in refused.text
    assert [second in there for there in fleet.everywhere()] == [True, False]
    assert fleet.offered() == first
    gpu02.exec("mv", "/root/trust", trust)
    told = images(fleet.hub, "rollout")
    assert "gpu01  has it already" in told
    assert "gpu02  has it now" in told
    Student(fleet.hub, "student3").started()
    assert fleet.runs("student3")[1] == second
    assert fleet.runs("student1")[1] == first, "who works keeps what they have"

    # The second is bad: back to the first, which is still everywhere.
    images(fleet.hub, "back")
    Student(fleet.hub, "student4").started()
    assert fleet.runs("student4")[1] == first
    assert run_images(fleet.hub, "back").status == 1, "there is nothing before the first"

    # A third and a fourth: beyond the one that is kept, images go once nobody runs them, and nothing else does.
    images(fleet.hub, "rollout", second.partition("@")[2])
    third = fleet.publish()
    images(fleet.hub, "rollout")
    images(fleet.hub, "prune")
    # Three of the four GPUs run the first, so both servers do.
    assert fleet.everywhere() == [{first, second, third}] * 2
    fleet.stop("student1", "student2", "student4")
    wait_for(lambda: fleet.everywhere() == [{second, third}] * 2, "the hub to remove the first by itself")
    assert all(
        light_image() in server.docker("images", "--format", "{{.Repository}}:{{.Tag}}")
        for server in fleet.cluster.servers
    )
    images(fleet.hub, "prune")
    assert {fleet.reference(image["digest"]) for image in fleet.listed()} == {second, third}
    fleet.stop("student3")


def test_a_server_that_was_away_during_the_rollout_gets_the_image_when_it_is_back(fleet: Fleet) -> None:
    gpu02 = fleet.cluster.server("gpu02")
    new = fleet.publish()
    gpu02.pause_engine()
    told = images(fleet.hub, "rollout")
    assert "gpu02 (no answer)" in told
    assert fleet.offered() == new
    gpu02.resume_engine()
    wait_for(lambda: new in fleet.on(gpu02), "the hub to bring the image to gpu02", 60)


def test_without_the_registry_starts_go_where_the_image_is_and_say_what_is_missing_elsewhere(fleet: Fleet) -> None:
    gpu02 = fleet.cluster.server("gpu02")
    offered = fleet.offered()
    fleet.registry.stop()
    try:
        gpu02.docker("rmi", offered)
        log = fleet.hub.folder / "hub.log"
        wait_for(lambda: f"gpu02: {offered} cannot be pulled" in log.read_text(), "the hub to miss it on gpu02")
        for student in _STUDENTS[:2]:
            Student(fleet.hub, student).started()
            assert fleet.runs(student) == ("gpu01", offered)
        message = Student(fleet.hub, "student3").start()["message"]
        assert "cannot start on gpu02: the image that it runs has to be fetched there first" in message, message
        assert "the registry does not answer" in message
    finally:
        fleet.registry.start()
    wait_for(lambda: offered in fleet.on(gpu02), "the hub to bring the image to gpu02", 60)
    Student(fleet.hub, "student3").started()
    assert fleet.runs("student3") == ("gpu02", offered)
