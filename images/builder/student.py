"""The command ``script/image``: make the student image, if anything it is made of changed."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import base, inputs
from .engine import Engine, find_docker
from .failure import ImageError
from .steps import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAME = "idl-hub/student:latest"
LABEL = "idlhub.inputs"
CERTIFICATES = Path("/usr/local/share/ca-certificates")
REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED_BYTES = {"cpu": 6_000_000_000, "gpu": 18_000_000_000}
OTHER_BUILD_SECONDS = 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is missing; return the exit status (130 when interrupted)."""
    parser = argparse.ArgumentParser(
        prog="script/image", description=f"Build the image {NAME}, unless it is up to date."
    )
    parser.add_argument("--gpu", action="store_true", help="TensorFlow for NVIDIA GPUs (CPU only otherwise)")
    parser.add_argument("--force", action="store_true", help="build everything anew, the base image too")
    parser.add_argument(
        "--keep-previous", action="store_true", help="keep the image that is replaced, under the tag previous"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but failures")
    options = parser.parse_args(arguments)
    reporter = Reporter(quiet=options.quiet)
    try:
        with _alone(reporter):
            build(
                reporter,
                "gpu" if options.gpu else "cpu",
                fresh=options.force,
                keep_previous=options.keep_previous,
            )
    except ImageError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run it again and it goes on after the last finished step.", file=sys.stderr)
        return 130
    return 0


def build(reporter: Reporter, tensorflow: str, *, fresh: bool, keep_previous: bool = False) -> None:
    """Bring the student image up to date.

    Parameters
    ----------
    tensorflow
        ``cpu`` or ``gpu``: which build of TensorFlow goes in.
    fresh
        Make everything anew, whether or not it changed.
    keep_previous
        Keep the image that is replaced, under the tag ``previous``.

    Raises
    ------
    ImageError
        With the cause and the remedy.
    """
    started = time.monotonic()
    engine = Engine(find_docker(), reporter)
    engine.check(needed_bytes=0)
    context = inputs.student_context(REPOSITORY, CERTIFICATES)
    build_args = {"TENSORFLOW": tensorflow}

    known_base = engine.image_id(base.NAME)
    if known_base and not fresh:
        wanted = inputs.fingerprint(context, build_args, known_base)
        if engine.label(NAME, LABEL) == wanted:
            reporter.say(f"The image {NAME} is up to date.")
            return
    reporter.say(f"Building the image {NAME} ({tensorflow} build of TensorFlow):")
    engine.check(NEEDED_BYTES[tensorflow])
    wanted = inputs.fingerprint(context, build_args, base.ensure(engine, fresh=fresh))
    with engine.replacing(NAME, LABEL, keep=keep_previous):
        what, packed = "Build the student image", inputs.as_tar(context)
        engine.build(what, NAME, packed, build_args, f"{LABEL}={wanted}", fresh=fresh)
    size_bytes = int(engine.ask("image", "inspect", "--format", "{{.Size}}", NAME) or 0)
    seconds = time.monotonic() - started
    reporter.say(f"The image {NAME} is ready: {size_bytes / 1e9:.1f} GB, {seconds:.0f} s.")


@contextlib.contextmanager
def _alone(reporter: Reporter) -> Iterator[None]:
    """Let one build at a time go on in this checkout; the lock goes with the process, however it ends."""
    folder = os.open(REPOSITORY / "images" / "student", os.O_RDONLY)
    deadline = time.monotonic() + OTHER_BUILD_SECONDS
    told = False
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ImageError(
                        "Another script/image has been building for an hour; end it and try again."
                    ) from None
                if not told:
                    reporter.say("Another script/image is at work here; waiting for it.")
                    told = True
                time.sleep(0.5)
        yield
    finally:
        os.close(folder)
