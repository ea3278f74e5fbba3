"""The same on servers with Debian 12 and its Docker 20.10."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster
from faults import Course, Watch

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_on_debian_12_a_session_outlives_its_engine_as_well(tmp_path: Path) -> None:
    with (
        Cluster(tmp_path / "cluster", count=2, gpus=1, debian="bookworm") as cluster,
        cluster.hub(tmp_path / "hub", students=2, settings={"quiet": {"deadline": None}}) as hub,
    ):
        first = cluster.servers[0]
        assert first.docker("version", "--format", "{{.Server.Version}}").startswith("20.10")
        course = Course(cluster, hub)
        work = course.at_work("student1", first)
        before = work.number
        with Watch(work) as watch:
            first.kill_engine()
            first.restart_engine()
        assert not watch.seen
        assert work.number == before + 1
        course.at_work("student2")
        course.nothing_left()
