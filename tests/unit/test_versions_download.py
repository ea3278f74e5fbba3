"""Downloads of earlier versions: whole, and not so many at once that others suffer."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from snapshot_homes import World, world
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application

from idl_hub.web import versions
from idl_hub.web.access import Visitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MIB = 2**20
AT_ONCE = 4


class Door(versions.File):
    """Lets everybody in as who they say they are: the hub's part is tested with a hub."""

    async def prepare(self) -> None:
        self.visitor = Visitor(self.request.headers["X-Who"], frozenset())


class Course:
    """Homes with an earlier version of a large file each, and a server that hands them out."""

    def __init__(self, here: World, port: int) -> None:
        self.port = port
        self._copy = here.copies("anna")[0].name

    def path(self) -> str:
        return f"/{self._copy}/file?path=large.bin"

    async def begin(self, who: str) -> tuple[str, asyncio.StreamWriter]:
        """Ask for the file, read the first line of the answer and no more."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1024)
        writer.write(f"GET {self.path()} HTTP/1.1\r\nHost: course\r\nX-Who: {who}\r\n\r\n".encode())
        return (await reader.readline()).decode(), writer


@pytest.fixture
async def course(tmp_path: Path) -> AsyncIterator[Course]:
    here = world(tmp_path)
    for name in ("anna", "ben"):
        with (here.home(name) / "large.bin").open("wb") as file:
            file.write(os.urandom(2 * MIB))
            file.truncate(64 * MIB)  # more than waits on the way
    here.take()
    parts = {"hub_auth": None, "live": None, "commands": None, "groups": None}
    sockets, port = bind_unused_port()
    server = HTTPServer(
        Application([(r"/([^/]+)/file", Door, parts)], idl_hub_versions=versions.Versions(here.settings))
    )
    server.add_socket(sockets)
    yield Course(here, port)
    server.stop()
    await server.close_all_connections()


async def test_a_file_arrives_as_it_was(course: Course, tmp_path: Path) -> None:
    client = AsyncHTTPClient(force_instance=True, max_body_size=100 * MIB)
    answer = await client.fetch(f"http://127.0.0.1:{course.port}{course.path()}", headers={"X-Who": "anna"})
    assert answer.body == (tmp_path / "homes" / "anna" / "large.bin").read_bytes()


async def test_one_person_downloads_a_few_files_at_once_and_keeps_nobody_else_from_it(course: Course) -> None:
    writers = []
    for _ in range(AT_ONCE):
        said, writer = await course.begin("anna")
        assert " 200 " in said
        writers.append(writer)
    assert " 429 " in (await course.begin("anna"))[0]
    assert " 200 " in (await course.begin("ben"))[0]
    writers[0].close()
    async with asyncio.timeout(20):  # the server hears of it a moment later
        while " 200 " not in (again := (await course.begin("anna"))[0]):
            assert " 429 " in again
