"""What students see when an engine, a server or the network of three breaks, and that it heals."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import requests
from cluster import Cluster
from faults import Course, Watch, Work, seconds
from hubs import wait_for

GRACE_SECONDS = 6.0
CUT_SECONDS = 20.0
OWN_SECONDS = 15.0
"""A start or stop on a healthy server is done in far less; a call to a dead one would take longer."""
CALL_SECONDS = 30
WARM = 61
"""A temperature in degrees Celsius that no other GPU has."""


@pytest.fixture(scope="module")
def one_course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    folder = tmp_path_factory.mktemp("faults")
    spawner = {"server_lost_minutes": GRACE_SECONDS / 60, "call_timeout_seconds": CALL_SECONDS}
    settings = {"spawner": spawner | {"restart_grace_seconds": 4}, "quiet": {"deadline": None}}
    with (
        Cluster(folder / "cluster", count=3, gpus=2) as cluster,
        cluster.hub(folder / "hub", students=8, settings=settings) as hub,
    ):
        yield Course(cluster, hub)
        print(hub.log_tail())


@pytest.fixture
def course(one_course: Course) -> Iterator[Course]:
    """Three servers; after each test nothing may be left on any."""
    yield one_course
    one_course.nothing_left()


def test_a_killed_engine_comes_back_and_programs_keep_their_variables(course: Course) -> None:
    first = course.cluster.servers[0]
    works = [course.at_work(name, first) for name in ("student1", "student2")]
    before = [work.number for work in works]
    with Watch(works[0]) as watch:
        away = seconds(first.kill_engine)
        first.restart_engine()
    print(f"the engine was away for {away:.1f} s; the student's server was silent for {watch.silent_seconds:.2f} s")
    assert not watch.seen
    assert [work.number for work in works] == [number + 1 for number in before]
    assert all(work.held for work in works)

    works[1].student.stop()
    wait_for(lambda: not works[1].held, "the stop", OWN_SECONDS)
    again = course.at_work("student2", first)
    assert again.saved == "saved by student2"


def test_a_hanging_engine_delays_nothing_on_the_others_nor_the_sessions_on_it(course: Course) -> None:
    hung, *_ = course.cluster.servers
    stuck = course.at_work("student1", hung)
    leaving = course.at_work("student2", course.cluster.servers[1])
    before = stuck.number
    hung.pause_engine()
    try:
        with Watch(stuck) as watch:
            start = seconds(lambda: course.student("student3").started())
            stop = seconds(leaving.student.stop)
            wait_for(lambda: not leaving.held, "the stop", OWN_SECONDS)
            later = seconds(lambda: course.student("student4").started())
        names = course.hub.rows("select server from lease where user in ('student3', 'student4') and phase = 'running'")
        assert (hung.name,) not in names
        asked = seconds(lambda: course.hub.api("GET", "/users"))
        print(f"meanwhile a start took {start:.1f} s, another {later:.1f} s, a stop {stop:.1f} s, a look {asked:.2f} s")
        assert max(start, stop, later) < OWN_SECONDS
        assert not watch.seen
        assert stuck.number == before + 1
    finally:
        hung.resume_engine()
    wait_for(lambda: "silence" not in told(course, "student1"), "the hub to hear the server again", 20)
    assert stuck.held
    again = course.at_work("student2", hung)
    assert again.server is hung


def told(course: Course, name: str) -> str:
    """Return the page on which a student reads how the own server is."""
    page = home_page(course, name)
    return "silence" if "does not answer" in page else page


def home_page(course: Course, name: str) -> str:
    return course.student(name).request("GET", "/hub/home").text


def test_a_server_that_lost_its_power_costs_what_was_not_saved_and_is_used_again(course: Course) -> None:
    second = course.cluster.servers[1]
    work = course.at_work("student1", second)
    elsewhere = course.at_work("student2", course.cluster.servers[2])
    second.kill()
    try:
        with Watch(elsewhere) as watch, Watch(work) as dark:
            start = seconds(lambda: course.student("student3").started())
            wait_for(lambda: told(course, "student1") == "silence", "the student to be told", 20)
        assert not watch.seen
        assert dark.seen
        assert start < OWN_SECONDS
        assert work.held, "nobody knows yet that it ended"
    finally:
        second.start()
    healed = seconds(lambda: wait_for(lambda: not work.held, "the hub to see that the session ended", 30))
    print(f"seen: {dark.seen}; a start elsewhere took {start:.1f} s; the end was known {healed:.1f} s after the power")
    page = wait_for(lambda: told(course, "student1") != "silence" and told(course, "student1"), "the page", 20)
    assert "ended" in page or "killed" in page
    again = course.at_work("student1", second)
    assert again.saved == "saved by student1"


def test_a_network_cut_of_20_s_ends_nothing(course: Course) -> None:
    third = course.cluster.servers[2]
    work = course.at_work("student1", third)
    before = work.number
    with Watch(work) as watch:
        third.cut_network()
        began = time.monotonic()
        try:
            start = seconds(lambda: course.student("student2").started())
            wait_for(lambda: time.monotonic() > began + CUT_SECONDS, "the end of the cut", CUT_SECONDS + 5)
            assert work.held
        finally:
            third.restore_network()
        back = seconds(lambda: wait_for(lambda: answers(work), "the session to be back", 30))
    print(f"silent for {watch.silent_seconds:.1f} s, back after {back:.1f} s; a start elsewhere took {start:.1f} s")
    assert start < OWN_SECONDS
    assert work.held
    assert work.number == before + 1
    assert work.saved == "saved by student1"


def answers(work: Work) -> bool:
    """Whether a student's server answers soon."""
    try:
        return work.student.request("GET", f"/user/{work.student.name}/api", timeout=2).ok
    except requests.Timeout:
        return False


def server_of(course: Course, name: str) -> str:
    """Return the server on which somebody's session runs; empty when there is none yet."""
    rows = course.hub.rows("select server from lease where user = ? and phase = 'running'", name)
    return str(rows[0][0]) if rows else ""


def test_a_network_cut_beyond_the_grace_time_offers_a_start_elsewhere_and_ends_nothing(course: Course) -> None:
    third, others = course.cluster.servers[2], course.cluster.servers[:2]
    work = course.at_work("student1", third)
    before = work.number
    for other in others:
        course.close(other)
    third.cut_network()
    try:
        # A start asks the server first, so the silence is noticed at once; without one it takes up to 35 s.
        refused = course.student("student2").start()
        assert refused.get("failed"), refused
        assert told(course, "student1") == "silence"
        for other in others:
            course.open(other)
        wait_for(lambda: server_of(course, "student2"), "the line to serve who waits", 30)
        assert server_of(course, "student2") in {other.name for other in others}
        wait_for(lambda: "start elsewhere" in home_page(course, "student1"), "the offer", 30)
        assert work.held, "it waits for the student's word"
    finally:
        third.restore_network()
    healed = seconds(lambda: wait_for(lambda: told(course, "student1") != "silence", "the hub to hear it again", 30))
    print(
        f"the server was heard {healed:.1f} s after the network was back; the other student read {refused['message']}"
    )
    assert work.held
    assert work.number == before + 1
    work.student.stop()
    wait_for(lambda: not work.held, "the stop", OWN_SECONDS)


def test_an_agent_whose_clock_is_an_hour_ahead_has_its_gpus_given_out_all_the_same(course: Course) -> None:
    first = course.cluster.servers[0]
    unit = "idlhub-agent.service"
    wrong = "[Service]\nEnvironment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME=+1h\n"
    drop_in = f"etc/systemd/system/{unit}.d/clock.conf"
    first.write({drop_in: wrong.encode()}, mode=0o644)
    try:
        first.restart_agent()
        pid = first.exec("systemctl", "show", "--property=MainPID", "--value", unit)
        assert "FAKETIME=+1h" in first.exec("tr", "\\0", "\\n", given=first.exec("cat", f"/proc/{pid}/environ"))
        first.simulator.set(0, temperature_celsius=WARM)
        token = course.hub.api("POST", "/users/admin/tokens", {}).json()["token"]

        def shown() -> list[int]:
            answer = requests.get(
                f"{course.hub.url}/services/web/api/fleet", headers={"Authorization": f"token {token}"}, timeout=10
            )
            return [gpu["temperature_celsius"] for gpu in answer.json()["gpus"].values()]

        wait_for(lambda: WARM in shown(), "what the agent has read since", 20)
        assert course.at_work("student1", first).server is first
    finally:
        first.simulator.reset(0)
        first.exec("rm", f"/{drop_in}")
        first.restart_agent()
