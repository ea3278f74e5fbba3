"""Set-up continues where an interrupted run stopped, and two runs do not get into each other's way."""

import os
import stat
import subprocess
import sys

import pytest

from script.lib.console import SetupError, Step
from script.lib.locks import only_server, only_setup
from script.lib.places import ROOT, prepare, write_private
from script.lib.stamps import Stamp, digest


def hold_lock_elsewhere(code: str) -> subprocess.Popen[str]:
    """Start another process that takes a lock, says so, and holds it until its input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_finished_step_is_not_done_again_until_its_inputs_change(tmp_path):
    lock_file = tmp_path / "hub.txt"
    lock_file.write_text("tornado==6.6.1\n")
    stamp = Stamp(tmp_path / "venv" / "hub.stamp")

    stamp.begin()
    stamp.finish(digest([lock_file], "Python 3.11.2"))

    assert stamp.is_current(digest([lock_file], "Python 3.11.2"))
    assert not stamp.is_current(digest([lock_file], "Python 3.13.5"))
    lock_file.write_text("tornado==6.6.2\n")
    assert not stamp.is_current(digest([lock_file], "Python 3.11.2"))


def test_a_step_that_was_interrupted_is_not_taken_for_finished(tmp_path):
    stamp = Stamp(tmp_path / "hub.stamp")
    stamp.begin()
    stamp.finish("inputs")

    stamp.begin()

    assert stamp.was_interrupted()
    assert not stamp.is_current("inputs")


def test_moving_text_from_one_input_to_the_next_changes_the_digest(tmp_path):
    assert digest([], "ab", "c") != digest([], "a", "bc")


def test_a_second_server_on_the_same_state_is_refused_and_told_who_runs(tmp_path):
    code = (
        "import sys; from pathlib import Path; from script.lib.locks import only_server\n"
        f"with only_server(Path({str(tmp_path)!r})):\n    print('held', flush=True); sys.stdin.read()"
    )
    with hold_lock_elsewhere(code) as other:
        with pytest.raises(SetupError) as refused, only_server(tmp_path):
            pass
        other.communicate()

    assert f"process {other.pid}" in refused.value.what
    assert "--state" in refused.value.remedy


def test_the_lock_of_a_killed_server_is_free_again(tmp_path):
    code = (
        "import sys; from pathlib import Path; from script.lib.locks import only_server\n"
        f"with only_server(Path({str(tmp_path)!r})):\n    print('held', flush=True); sys.stdin.read()"
    )
    with hold_lock_elsewhere(code) as other:
        other.kill()
        other.wait()

    with only_server(tmp_path):
        pass


def test_a_set_up_that_never_ends_is_waited_for_only_until_the_deadline(tmp_path):
    code = (
        "import sys; from pathlib import Path; from script.lib.console import Step\n"
        "from script.lib.locks import only_setup\n"
        f"with only_setup(Path({str(tmp_path)!r}), Step('first')):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    step = Step("Other runs")
    with hold_lock_elsewhere(code) as other:
        with pytest.raises(SetupError, match=f"process {other.pid}"), only_setup(tmp_path, step, 0.3):
            pass
        other.communicate()

    assert str(other.pid) in step.status


def test_state_is_private_to_the_user_who_started_the_hub(tmp_path):
    places = prepare(tmp_path / "checkout", tmp_path / "state")

    assert stat.S_IMODE(places.state.stat().st_mode) == 0o700
    assert stat.S_IMODE(places.tools.stat().st_mode) == 0o700


def test_a_private_file_is_never_readable_for_others_and_is_replaced_whole(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("old")
    secret.chmod(0o644)
    old_umask = os.umask(0)
    try:
        write_private(secret, "new")
    finally:
        os.umask(old_umask)

    assert secret.read_text() == "new"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [secret]


def test_a_state_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(SetupError) as refused:
        prepare(tmp_path / "checkout", tmp_path / "file" / "state")

    assert "file/state" in refused.value.what
    assert "--state" in refused.value.remedy
