"""The featherweight image for tests that start many servers."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

IMAGE = "idl-hub/light:test"
_BUILD_SECONDS = 300
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@cache
def light_image() -> str:
    """Return the image's name, once it is made; the engine's build cache makes that quick when nothing changed."""
    command = ["docker", "build", "--quiet", "--network=host", "--tag", IMAGE]
    for variable in _PROXY_VARIABLES:
        if variable in os.environ:
            command += ["--build-arg", variable]
    folder = Path(__file__).with_name("light_image")
    built = subprocess.run(
        [*command, str(folder)],
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
    )
    assert built.returncode == 0, f"{IMAGE} could not be built (script/image makes its base):\n{built.stderr}"
    return IMAGE
