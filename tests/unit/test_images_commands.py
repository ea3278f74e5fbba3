"""What `idl-hub images` refuses, and how it talks to the registry and to the terminal."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from parts import opened, sqlite_url

from idl_hub.cli import main
from idl_hub.db import Database
from idl_hub.images.board import Board
from idl_hub.images.commands import QUIET
from idl_hub.images.offers import Image, Offers
from idl_hub.images.registry import Registry, RegistryError
from idl_hub.settings_servers import DAYS

NAME = "idl-hub/student:latest"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def with_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that writes settings of one server whose engine does not answer."""

    def write(**sections: Any) -> None:
        settings = {
            "hub": {"state_directory": str(tmp_path)},
            "images": {"registry": "127.0.0.1:5000"},
            "spawner": {"engine_url": f"unix://{tmp_path}/no-engine.sock"},
            "quiet": {"deadline": None},
        }
        (tmp_path / "settings.yml").write_text(json.dumps(settings | sections))
        monkeypatch.setenv("IDLHUB_SETTINGS", str(tmp_path / "settings.yml"))
        with opened(sqlite_url(tmp_path)):
            pass

    return write


def published(tmp_path: Path, letter: str = "a", *, offered: bool = False) -> Image:
    image = Image(NAME, f"sha256:{letter * 64}", {"layer": 5}, 0, 0, "root")
    with closing(Database(sqlite_url(tmp_path))) as database:

        async def write() -> None:
            await Offers(database).publish(image)
            if offered:
                await Offers(database).offer(image)

        asyncio.run(write())
    return image


def refused(capsys: pytest.CaptureFixture[str], *words: str, status: int = 1) -> str:
    assert main(["images", *words]) == status
    return capsys.readouterr().err


def test_without_registry_or_containers_there_is_nothing_to_do(
    with_settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with_settings(images={})
    assert "images.registry is not set" in refused(capsys, "list")
    with_settings(spawner={"kind": "process"})
    assert "without containers there are no images" in refused(capsys, "rollout")


def test_what_was_not_published_cannot_be_offered_and_nothing_leads_back(
    with_settings: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with_settings()
    assert "no image has been published yet" in refused(capsys, "rollout")
    assert "Nothing of idl-hub/student:latest was offered before" in refused(capsys, "back")
    published(tmp_path, offered=True)
    assert "no published image begins with 'beef'" in refused(capsys, "rollout", "beef")
    assert "Nothing of idl-hub/student:latest was offered before" in refused(capsys, "back")


def test_nothing_is_rolled_out_in_quiet_hours_unless_forced(
    with_settings: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=2)
    quiet = {"deadline": f"{DAYS[soon.weekday()]} {soon:%H:%M}", "time_zone": "UTC", "hours": 6}
    with_settings(quiet=quiet)
    published(tmp_path, "b", offered=True)
    image = published(tmp_path)
    said = refused(capsys, "rollout", status=QUIET)
    assert "until then nothing is changed under them. Nothing was changed. Do it afterwards, or use --force." in said

    assert main(["images", "rollout", "--force"]) == 0
    told = capsys.readouterr()
    assert "Going on, since it is forced" in told.err
    assert "Warning: no server has it (this machine: The Docker engine of this machine does not answer" in told.err
    assert f"Offered: students' next servers run {image.short}" in told.out


def test_quiet_hours_do_not_keep_the_first_image_from_the_course(
    with_settings: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=2)
    quiet = {"deadline": f"{DAYS[soon.weekday()]} {soon:%H:%M}", "time_zone": "UTC", "hours": 6}
    with_settings(quiet=quiet)
    published(tmp_path)
    assert "aaaaaaaaaaaa is not offered: no server has it" in refused(capsys, "rollout")


def test_an_image_that_no_server_can_get_is_not_offered(
    with_settings: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with_settings()
    published(tmp_path)
    said = refused(capsys, "rollout")
    assert "aaaaaaaaaaaa is not offered: no server has it" in said
    assert main(["images", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [image["state"] for image in listed["images"]] == ["published"]
    assert list(listed["silent"]) == ["this machine"]


def test_a_silent_server_keeps_prune_from_the_registry(with_settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with_settings()
    assert main(["images", "prune"]) == 1
    assert "127.0.0.1:5000: left as it is, since not every server told what it still has" in capsys.readouterr().out


def test_publishing_without_an_engine_says_so(with_settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with_settings()
    assert "this machine's Docker engine does not do it" in refused(capsys, "publish")


# -- the registry -------------------------------------------------------------------------------------------


@contextmanager
def answering(answers: dict[str, tuple[int, str, Any]]) -> Iterator[str]:
    """Serve answers by method and path; yield host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = answers.get(f"{self.command} {self.path}", (404, "text/plain", "unknown"))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

        do_DELETE = do_GET  # noqa: N815 - the name is the class's

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_the_sizes_of_layers_come_from_the_manifest_or_from_that_of_the_first_machine(tmp_path: Path) -> None:
    docker, oci = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.index.v1+json"
    manifest = {"layers": [{"digest": f"sha256:{'1' * 64}", "size": 7}, {"digest": f"sha256:{'2' * 64}", "size": 5}]}
    index = {
        "manifests": [
            {"digest": "sha256:note", "platform": {"os": "unknown"}},
            {"digest": "sha256:amd", "platform": {"os": "linux"}},
        ]
    }
    answers = {
        "GET /v2/idl-hub/student/manifests/sha256:amd": (200, docker, manifest),
        "GET /v2/idl-hub/student/manifests/sha256:all": (200, oci, index),
    }
    with answering(answers) as address:
        registry = Registry(address, tmp_path)
        for digest in ("sha256:amd", "sha256:all"):
            assert registry.layers("idl-hub/student", digest) == {"1" * 12: 7, "2" * 12: 5}
        with pytest.raises(RegistryError, match="does not show idl-hub/student@sha256:no: HTTP 404 unknown"):
            registry.layers("idl-hub/student", "sha256:no")


def test_an_image_is_known_by_its_configuration_or_by_its_manifest(tmp_path: Path) -> None:
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    answers = {"GET /v2/i/manifests/sha256:a": (200, kind, {"config": {"digest": "sha256:c"}})}
    with answering(answers) as address:
        registry = Registry(address, tmp_path)
        assert [registry.holds("i", "sha256:a", name) for name in ("sha256:c", "sha256:a", "sha256:b")] == [
            True,
            True,
            False,
        ]
        assert not registry.holds("i", "sha256:gone", "sha256:c")


def test_a_registry_that_does_not_let_images_be_removed_says_which_setting_is_missing(tmp_path: Path) -> None:
    answers = {
        "DELETE /v2/i/manifests/sha256:a": (405, "text/plain", ""),
        "DELETE /v2/i/manifests/sha256:b": (500, "text/plain", "disk"),
        "DELETE /v2/i/manifests/sha256:c": (202, "text/plain", ""),
    }
    with answering(answers) as address:
        registry = Registry(address, tmp_path)
        with pytest.raises(RegistryError, match=r"storage\.delete\.enabled: true"):
            registry.remove("i", "sha256:a")
        with pytest.raises(RegistryError, match="does not remove i@sha256:b: HTTP 500 disk"):
            registry.remove("i", "sha256:b")
        registry.remove("i", "sha256:c")
        registry.remove("i", "sha256:gone-already")


def test_beyond_loopback_a_registry_is_asked_with_tls_and_the_authority_that_engines_trust(tmp_path: Path) -> None:
    with answering({}) as address:
        (tmp_path / address).mkdir()
        (tmp_path / address / "ca.crt").write_text("no certificate")
        with pytest.raises(RegistryError):
            Registry(address, tmp_path).remove("i", "sha256:a")
        (tmp_path / address / "ca.crt").unlink()
        Registry(address, tmp_path).remove("i", "sha256:a")


def test_a_registry_that_is_gone_is_named_with_the_page_that_helps(tmp_path: Path) -> None:
    with answering({}) as address:
        pass
    with pytest.raises(RegistryError, match=rf"{address} does not answer .* “The registry is gone”"):
        Registry(address, tmp_path).layers("i", "sha256:a")


# -- the terminal ---------------------------------------------------------------------------------------------


def test_a_terminal_shows_one_line_a_server_rewritten_in_place() -> None:
    out = Terminal()
    board = Board(["gpu01", "gpu10"], out)
    board.tell("gpu10", "waits for its turn")
    board.tell("gpu01", "x" * 500)
    first, second = out.getvalue().split("\x1b[2A")
    assert first == "gpu01  \x1b[K\ngpu10  waits for its turn\x1b[K\n"
    assert second.count("\n") == 2
    assert len(second.split("\x1b[K")[0]) < 500, "a line that wraps would put the others out of place"


def test_a_file_gets_the_first_word_the_outcome_and_little_between() -> None:
    out = io.StringIO()
    board = Board(["gpu01"], out)
    for number in range(100):
        board.tell("gpu01", f"{number} of 100 MB")
    board.tell("gpu01", "has it now", last=True)
    assert out.getvalue() == "gpu01  0 of 100 MB\ngpu01  has it now\n"
