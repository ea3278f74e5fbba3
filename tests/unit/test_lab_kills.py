"""What the server extension makes of the control group's counters, on copies of both versions' files."""

from __future__ import annotations

from pathlib import Path

import pytest

from idl_hub.lab import memory
from idl_hub.lab.kills import KilledKernel, KillWatch
from idl_hub.lab.memory import Memory

GIB = 2**30
LIMIT_BYTES = 26 * GIB
NO_LIMIT_BYTES = 9223372036854771712


def version_1(root: Path, *, kills: int = 0, limit_bytes: int = LIMIT_BYTES, most_used_bytes: int = 0) -> Path:
    """Write what a container on control groups of version 1 sees."""
    folder = root / "memory"
    folder.mkdir(parents=True)
    (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
    (folder / "memory.limit_in_bytes").write_text(f"{limit_bytes}\n")
    (folder / "memory.max_usage_in_bytes").write_text(f"{most_used_bytes}\n")
    (folder / "memory.failcnt").write_text("0\n")
    return root


def version_2(
    folder: Path, *, kills: int = 0, oom: int = 0, limit: str = str(LIMIT_BYTES), peak_bytes: int | None = None
) -> Path:
    """Write what a container on control groups of version 2 sees; old kernels have no memory.peak."""
    folder.mkdir(parents=True, exist_ok=True)
    events = f"low 0\nhigh 0\nmax 17\noom {oom}\noom_kill {kills}\noom_group_kill 0\n"
    (folder / "memory.events").write_text(events)
    (folder / "memory.max").write_text(f"{limit}\n")
    if peak_bytes is not None:
        (folder / "memory.peak").write_text(f"{peak_bytes}\n")
    return folder


def test_a_kill_at_the_session_s_limit_is_told_by_version_1(tmp_path: Path) -> None:
    found = memory.read(version_1(tmp_path, kills=2, most_used_bytes=LIMIT_BYTES - 3 * 2**20))
    assert found == Memory(2, True, LIMIT_BYTES, LIMIT_BYTES - 3 * 2**20)


def test_a_kill_at_the_session_s_limit_is_told_by_version_2(tmp_path: Path) -> None:
    found = memory.read(version_2(tmp_path, kills=1, oom=3, peak_bytes=LIMIT_BYTES))
    assert found == Memory(1, True, LIMIT_BYTES, LIMIT_BYTES)


def test_a_kernel_without_memory_peak_tells_the_rest(tmp_path: Path) -> None:
    assert memory.read(version_2(tmp_path, kills=1, oom=1)) == Memory(1, True, LIMIT_BYTES, None)


@pytest.mark.parametrize("version", [1, 2])
def test_a_kill_far_below_the_session_s_limit_is_the_machine_s_doing(tmp_path: Path, version: int) -> None:
    used = 3 * GIB
    if version == 1:
        found = memory.read(version_1(tmp_path, kills=1, most_used_bytes=used))
    else:
        found = memory.read(version_2(tmp_path, kills=1, peak_bytes=used))
    assert found == Memory(1, False, LIMIT_BYTES, used)


def test_a_container_that_sees_all_control_groups_reads_its_own(tmp_path: Path) -> None:
    version_2(tmp_path / "cgroups" / "system.slice" / "docker-1.scope", kills=1, oom=1)
    (tmp_path / "own").write_text("0::/system.slice/docker-1.scope\n")
    found = memory.read(tmp_path / "cgroups", tmp_path / "own")
    assert found is not None
    assert found.kills == 1


def test_without_a_limit_of_the_session_s_own_nothing_is_told(tmp_path: Path) -> None:
    assert memory.read(version_1(tmp_path / "1", kills=7, limit_bytes=NO_LIMIT_BYTES)) is None
    assert memory.read(version_2(tmp_path / "2", kills=7, limit="max")) is None
    assert memory.read(tmp_path / "nothing", tmp_path / "no-file") is None


class Watched:
    """A watch over a session whose counters and clock the test moves."""

    def __init__(self) -> None:
        self.memory: Memory | None = Memory(0, True, LIMIT_BYTES, LIMIT_BYTES)
        self.now = 1000.0
        self.watch = KillWatch(lambda: self.memory, lambda: self.now)

    def killed(self, kills: int) -> None:
        self.memory = Memory(kills, True, LIMIT_BYTES, LIMIT_BYTES)


def test_a_killed_kernel_is_told_by_the_name_of_its_notebook() -> None:
    session = Watched()
    assert not session.watch.has_news()
    assert session.watch.look(()) is None
    session.killed(1)
    told = session.watch.look([KilledKernel("Untitled.ipynb", 1000.0)])
    assert told is not None
    assert (told.kills, told.kernels, told.at) == (1, ("Untitled.ipynb",), 1000.0)
    assert (told.at_limit, told.most_used_bytes, told.limit_bytes) == (True, LIMIT_BYTES, LIMIT_BYTES)


def test_a_kill_that_no_kernel_explains_is_told_once_a_kernel_would_be_missed() -> None:
    session = Watched()
    session.killed(1)
    assert session.watch.look(()) is None
    session.now += 6
    told = session.watch.look(())
    assert told is not None
    assert (told.kernels, told.at) == ((), 1000.0)


def test_what_the_student_took_note_of_is_not_told_again_but_the_next_kill_is() -> None:
    session = Watched()
    session.killed(1)
    first = KilledKernel("first.ipynb", 1000.0)
    assert session.watch.look([first]) is not None
    session.now += 60
    session.watch.note(1)
    assert not session.watch.has_news()
    assert session.watch.look([first]) is None

    session.now += 60
    session.killed(2)
    told = session.watch.look([first, KilledKernel("second.ipynb", session.now)])
    assert told is not None
    assert (told.kills, told.kernels) == (2, ("second.ipynb",))


def test_where_nothing_is_told_there_is_no_news() -> None:
    session = Watched()
    session.memory = None
    assert not session.watch.has_news()
    assert session.watch.look([KilledKernel("Untitled.ipynb", 1000.0)]) is None
