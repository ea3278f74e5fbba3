"""What can go wrong while an image is built, in words that help."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Remedy:
    """What to do when a failed command wrote something that matches ``pattern``."""

    pattern: str
    advice: str


NOT_ALLOWED = Remedy(
    r"permission denied[^\n]*docker (daemon|api)|docker\.sock[^\n]*permission denied",
    "You may not talk to the Docker engine: its socket belongs to the group docker.\n"
    "Join it with `sudo usermod -aG docker $USER` and log in anew, or run this command with sudo.",
)
NO_ENGINE = Remedy(
    r"cannot connect to the docker daemon|error during connect|connection refused.*docker",
    "No Docker engine answers.\n"
    "Start it with `sudo systemctl start docker` (script/server installs and starts one), then run this again.",
)
NO_ROOM = Remedy(
    r"no space left on device|disk quota exceeded",
    "The disk is full.\n"
    "Make room (`docker system df` shows what Docker holds, `docker image prune` frees what is not in use), "
    "then run this again.",
)
NOT_TRUSTED = Remedy(
    r"certificate verify failed|invalid peer certificate|unknown ?issuer|self.signed certificate",
    "A download's certificate is not trusted, as behind a proxy that reads traffic.\n"
    "Put the proxy's CA certificate as NAME.crt into /usr/local/share/ca-certificates, "
    "then run this again: it is taken into the image.",
)
NO_DOWNLOAD = Remedy(
    r"temporary failure|could not resolve|failed to (fetch|download)|unable to fetch|timed out|"
    r"dns error|error sending request|max retries|connection (reset|refused)|no such host|"
    r"name or service not known|proxyerror|no matching distribution",
    "A download failed.\n"
    "Check the network (behind a proxy set HTTP_PROXY and HTTPS_PROXY), then run this again: "
    "it goes on after the last finished step.",
)
# The first that matches counts: the more exact cause stands before the wider one.
REMEDIES = (NOT_ALLOWED, NO_ENGINE, NO_ROOM, NOT_TRUSTED, NO_DOWNLOAD)


class ImageError(Exception):
    """An image cannot be built; the message tells a person the cause and the remedy."""


def explain(what: str, output: str) -> ImageError:
    """Make the error for a failed step.

    Parameters
    ----------
    what
        The step, as it was announced.
    output
        What the failed command wrote; its last lines are shown, all of it is searched for the cause.
    """
    last_lines = "\n".join(f"    {line}" for line in output.strip().splitlines()[-15:])
    for remedy in REMEDIES:
        if re.search(remedy.pattern, output, re.IGNORECASE):
            return ImageError(f"{what}: failed. {remedy.advice}\nThe last lines were:\n{last_lines}")
    return ImageError(
        f"{what}: failed. The cause is not one this script knows; the last lines were:\n{last_lines}\n"
        "Run it again with --force to build from the start."
    )
