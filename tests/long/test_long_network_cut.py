"""A network cut that outlasts the real grace time of ten minutes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cluster import Cluster
from faults import Course, seconds
from hubs import wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
GRACE_SECONDS = 600


def test_after_a_cut_of_more_than_ten_minutes_the_session_is_as_it_was(tmp_path: Path) -> None:
    with (
        Cluster(tmp_path / "cluster", count=2, gpus=1) as cluster,
        cluster.hub(tmp_path / "hub", students=2, settings={"quiet": {"deadline": None}}) as hub,
    ):
        course = Course(cluster, hub)
        first = cluster.servers[0]
        work = course.at_work("student1", first)
        before = work.number

        def page() -> str:
            return course.student("student1").request("GET", "/hub/home").text

        first.cut_network()
        began = time.monotonic()
        try:
            wait_for(lambda: "does not answer" in page(), "the student to be told", 60, every_seconds=1)
            told = time.monotonic() - began
            assert "start elsewhere" not in page()
            wait_for(lambda: "start elsewhere" in page(), "the offer", GRACE_SECONDS + 60, every_seconds=1)
            offered = time.monotonic() - began
            assert offered >= GRACE_SECONDS
            assert work.held
        finally:
            first.restore_network()
        healed = seconds(lambda: wait_for(lambda: "does not answer" not in page(), "the hub to hear it", 60))
        print(f"\ntold after {told:.0f} s, offered after {offered:.0f} s, heard {healed:.1f} s after the cut")
        assert work.held
        assert work.number == before + 1
        assert work.saved == "saved by student1"
        course.nothing_left()
