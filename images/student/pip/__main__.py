"""pip, with a word of explanation where the course's fixed versions stand in a student's way.

Takes the place of pip's own ``__main__``, so that ``pip``, ``python -m pip`` and ``%pip`` all come
through here. What may be installed is decided by pip itself, from the ``pip.conf`` of this environment.
"""

import os
import sys

if __name__ == "__main__" and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - no import before this
    sys.path.pop(0)  # as pip does: a file of the working directory must not pass for a package

import logging

from pip._internal.cli.main import main as pip_main

BLOCKED_BY_THE_COURSE = ("(constraint)", "lack sys.path precedence")
EXPLANATION = """
Nothing was installed: this would have replaced a package whose version the course fixes.

TensorFlow, NumPy, Jupyter and everything that belongs to them stay at one version
(listed in /opt/idl_hub/constraints.txt), so that every notebook runs, and is graded, the same
way for everybody. Packages that get along with these versions can be installed as usual.

To use another version, make an environment of your own; there everything is allowed:

    python -m venv ~/my-environment
    ~/my-environment/bin/pip install ipykernel PACKAGE
    ~/my-environment/bin/python -m ipykernel install --user --name my-environment

Then reload JupyterLab and choose the kernel "my-environment" for your notebook.
"""

blocked = False


def watch_what_pip_says(*args: object, **kwargs: object) -> logging.LogRecord:
    """Make a log record as usual and remember whether it names the course's constraints."""
    global blocked  # noqa: PLW0603 - pip offers no other way to learn why it failed
    record = logging.LogRecord(*args, **kwargs)
    blocked = blocked or any(sign in record.getMessage() for sign in BLOCKED_BY_THE_COURSE)
    return record


def main() -> int:
    """Run pip and explain a failure that came from the course's constraints."""
    # In a virtual environment pip refuses to remove or upgrade what lies outside of it, which is all that a
    # student owns. For pip this is therefore an ordinary Python with a user's site-packages.
    sys.base_prefix = sys.prefix
    logging.setLogRecordFactory(watch_what_pip_says)
    code = pip_main()
    if code and blocked:
        print(EXPLANATION, file=sys.stderr)
    return code


if __name__ == "__main__":
    if os.environ.pop("PYTHONNOUSERSITE", None):
        # Started "without my packages": pip must still see them, to mend or remove them.
        os.execv(sys.executable, [sys.executable, "-m", "pip", *sys.argv[1:]])  # noqa: S606
    sys.exit(main())
