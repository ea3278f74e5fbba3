"""A student whose server's image is not there yet watches it come; without the registry starts go on or say why not."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_door import EngineDoor
from hubs import Hub, docker, wait_for
from images_shell import build, images, run_images
from registries import RegistryServer
from students import Student

from idl_hub.db import Database
from idl_hub.images.offers import Image, Offers, find, path_of
from idl_hub.images.registry import Registry

BALLAST_MB = 48
# The hub would bring the image by itself, perhaps before the student comes.
_ONLY_STUDENTS_PULL = "from idl_hub.images import keeper\nkeeper.LOOK_EVERY_SECONDS = 3600\n"


@dataclass(frozen=True)
class Course:
    """A hub with a registry and a door to its engine; images have a name of their own."""

    hub: Hub
    door: EngineDoor
    registry: RegistryServer
    name: str
    folder: Path

    def publish(self, size_bytes: int = 1000) -> Image:
        """Build and publish a version; afterwards it lies in the registry alone."""
        build(self.name, self.folder / secrets.token_hex(4), size_bytes)
        assert "is in the registry as sha256:" in images(self.hub, "publish")
        docker("rmi", self.name)
        return self.latest()

    def latest(self) -> Image:
        """Return the image that was published last."""
        found: Image = self._table(self._latest)
        return found

    def offer(self, image: Image) -> None:
        """Offer an image that the server does not have, as when it was away during the rollout."""
        self._table(lambda offers: offers.offer(image))

    def _table(self, work: Any) -> Any:
        with closing(Database(f"sqlite:///{self.hub.database}")) as database:
            return asyncio.run(work(Offers(database)))

    async def _latest(self, offers: Offers) -> Image:
        return find(await offers.of(self.name), "latest")

    def reference(self, image: Image) -> str:
        return image.reference(self.registry.address)

    def on_server(self) -> set[str]:
        """Return the images of the registry that lie on the server."""
        listed = docker("images", "--digests", "--format", "{{.Repository}}@{{.Digest}}").split()
        return {line for line in listed if line.startswith(self.registry.address)}

    def stop_all(self) -> None:
        for user in self.hub.api("GET", "/users").json():
            if user["servers"] or user["pending"]:
                self.hub.api("DELETE", f"/users/{user['name']}/server")
        wait_for(lambda: not self.hub.leftovers(), "every server to be gone", 45)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    folder = tmp_path_factory.mktemp("images")
    name = f"idl-hub/pulled-{secrets.token_hex(4)}:test"
    with (
        RegistryServer(folder / "registry") as registry,
        tempfile.TemporaryDirectory() as short,
        EngineDoor(Path(short) / "engine.sock") as door,
    ):
        settings = {
            "images": {"registry": registry.address, "kept": 1},
            "quiet": {"deadline": None},
            "spawner": {"image": name, "engine_url": door.url, "call_timeout_seconds": 10, "stop_timeout_seconds": 2},
        }
        with Hub(folder / "hub", students=4, settings=settings, config=_ONLY_STUDENTS_PULL) as hub:
            course = Course(hub, door, registry, name, folder)
            try:
                yield course
            finally:
                course.stop_all()
                for image in course.on_server():
                    docker("rmi", image)
                subprocess.run(["docker", "rmi", name], capture_output=True, timeout=60)


class ProgressPage:
    """What a student's progress page shows, from the beginning."""

    def __init__(self, student: Student) -> None:
        page = student.request("GET", f"/hub/api/users/{student.name}/server/progress", stream=True)
        assert page.ok, page.status_code
        self._lines = page.iter_lines(decode_unicode=True)
        self.events: list[dict[str, Any]] = []

    def read(self, until: str = "") -> list[dict[str, Any]]:
        """Read on to the end, or to a message that begins with `until`; return all events so far."""
        for line in self._lines:
            if line.startswith("data:"):
                self.events.append(json.loads(line[5:]))
                if until and self.events[-1]["message"].startswith(until):
                    break
        return self.events


def test_everybody_who_waits_for_the_image_sees_the_one_pull_that_brings_it(course: Course) -> None:
    image = course.publish(BALLAST_MB * 10**6)
    course.offer(image)
    students = [Student(course.hub, "student1"), Student(course.hub, "student2")]
    course.door.hold("/images/create")
    for student in students:
        assert student.submit_start().status_code == 302
    pages = [ProgressPage(student) for student in students]
    for page in pages:
        page.read(until="Fetching the image")
    assert course.door.held.wait(20), "nothing is pulled"
    course.door.open()

    for student, page in zip(students, pages, strict=True):
        shown = page.read()
        said = [event["message"] for event in shown]
        assert shown[-1].get("ready"), said
        assert "Fetching the image: asking for what is missing" in said
        of = [
            line
            for line in said
            if re.search(rf"(Fetching|Unpacking) the image: \d+ of {BALLAST_MB} MB \(\d+ %\)", line)
        ]
        assert of, said
        assert any(re.match(rf"The image is here: {BALLAST_MB} MB in \d+ s", line) for line in said), said
        assert [event["progress"] for event in shown] == sorted(event["progress"] for event in shown)
        [lease] = [lease for lease in course.hub.leases(live=True) if lease.user == student.name]
        assert docker("inspect", "-f", "{{.Config.Image}}", str(lease.container_id)) == course.reference(image)
    log = (course.registry.folder / "log").read_text()
    ballast = list(image.layers)[-1]
    assert len(re.findall(rf'"GET /v2/\S+/blobs/sha256:{ballast}', log)) == 1, "one pull for both"


def test_without_the_registry_starts_work_where_the_image_is_and_say_why_not_elsewhere(course: Course) -> None:
    course.stop_all()
    present = course.publish()
    images(course.hub, "rollout")
    missing = course.publish()
    course.registry.stop()
    try:
        Student(course.hub, "student1").started()
        course.offer(missing)
        message = Student(course.hub, "student2").start()["message"]
        assert "has to be fetched there first, and the registry does not answer" in message, message
        images(course.hub, "rollout", present.short)  # who has an image needs no registry for it
        failed = run_images(course.hub, "rollout", missing.short)
        assert failed.status == 1
        assert "no server has it (this machine: the registry does not answer)" in failed.text
    finally:
        course.registry.start()
    course.offer(missing)
    Student(course.hub, "student2").started()


def test_the_image_that_was_published_last_is_pushed_again_only_when_the_registry_lost_it(course: Course) -> None:
    build(course.name, course.folder / secrets.token_hex(4))
    images(course.hub, "publish")
    image = course.latest()
    pushed = course.registry.pushed()
    assert "as it was before" in images(course.hub, "publish")
    assert course.registry.pushed() == pushed
    Registry(course.registry.address).remove(path_of(course.registry.address, course.name), image.digest)
    assert "as it was before" in images(course.hub, "publish"), "the same bytes"
    assert course.registry.pushed() > pushed
    docker("rmi", course.name)


def test_what_nobody_uses_any_more_goes_from_server_and_registry_and_its_space_is_freed(course: Course) -> None:
    course.stop_all()
    old = course.publish(BALLAST_MB * 10**6)
    images(course.hub, "rollout")
    Student(course.hub, "student1").started()
    kept = course.publish()
    images(course.hub, "rollout")
    new = course.publish()
    images(course.hub, "rollout")
    assert "still used" in images(course.hub, "prune")
    assert {course.reference(image) for image in (old, kept, new)} <= course.on_server(), "a session runs the old one"

    course.stop_all()
    assert "1 image removed" in images(course.hub, "prune")
    assert course.on_server() == {course.reference(kept), course.reference(new)}
    before = course.registry.stored_bytes()
    course.registry.collect_garbage()
    assert before - course.registry.stored_bytes() > BALLAST_MB * 10**6
    docker("rmi", course.reference(new))
    Student(course.hub, "student1").started()
    assert course.reference(new) in course.on_server(), "what stays in the registry can still be pulled"
