"""The image that a build replaces stays, so that an upgrade has a way back."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator

import pytest

from images.builder import base, inputs
from images.builder.engine import Engine, find_docker
from images.builder.steps import Reporter

LABEL = "idlhub.previous-test"


@pytest.fixture
def name() -> Iterator[str]:
    repository = f"idl-hub/replaced-{secrets.token_hex(4)}"
    yield f"{repository}:latest"
    for tag in ("latest", "previous"):
        subprocess.run([find_docker(), "image", "rm", f"{repository}:{tag}"], capture_output=True, timeout=60)


def test_the_replaced_image_is_called_previous_and_those_before_it_go(name: str) -> None:
    engine = Engine(find_docker(), Reporter(quiet=True))
    base.ensure(engine, fresh=False)
    dockerfile = inputs.as_tar(
        [inputs.ContextFile("Dockerfile", executable=False, content=b"FROM idl-hub/base:bookworm")]
    )

    def build(version: str, *, keep: bool = True) -> str | None:
        with engine.replacing(name, LABEL, keep=keep):
            engine.build("Build", name, dockerfile, {}, f"{LABEL}={version}{name}", fresh=False)
        return engine.image_id(name)

    previous = name.replace(":latest", ":previous")
    first = build("1")
    assert engine.image_id(previous) is None
    second = build("2")
    assert engine.image_id(previous) == first
    third = build("3")
    assert engine.image_id(previous) == second
    assert first is not None
    assert engine.image_id(first) is None
    build("3")
    assert engine.image_id(previous) == second, "what was built anew and is the same replaces nothing"
    build("4", keep=False)
    assert engine.image_id(previous) == second
    assert third is not None
    assert engine.image_id(third) is None
