"""What the map shows and what travels: pure parts of idl-hub web."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from dataclasses import replace

import pytest
from parts import NOW, card, opened, server, sqlite_url
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from idl_hub import settings_servers
from idl_hub.db import Reader
from idl_hub.gpus.history import Point
from idl_hub.gpus.line import Ticket, TicketState
from idl_hub.gpus.members import Member
from idl_hub.gpus.placement import Rules, standings
from idl_hub.gpus.reading import Process, ProcessOrigin
from idl_hub.gpus.reclaim import Policy
from idl_hub.gpus.service import Mark, closed_by
from idl_hub.web.access import Visitor
from idl_hub.web.changes import changes
from idl_hub.web.history import Curves, by_minute
from idl_hub.web.me import about
from idl_hub.web.picture import Moment, Terms, paint
from idl_hub.web.records import EndedTicket, Held, HeldGPU, Records
from idl_hub.web.viewer import Viewer, message

CONTAINER = "c" * 64
TERMS = Terms(Policy(), 600)


def lease(number, user, **over):
    values = {"id": f"l{number}", "kind": "session", "server": "gpu1", "user": user, "server_name": ""}
    values |= {"phase": "running", "reserved_at": NOW - 7200, "ready_at": NOW - 7190, "ends_at": None}
    values |= {
        "warned_at": None,
        "kept_at": None,
        "container_id": CONTAINER,
        "end_message": None,
        "gpus": (HeldGPU(f"GPU-{number}", number, "GTX"),),
    }
    return Held(**(values | over))


def ticket(number, user, **over):
    values = {"id": f"t{number}", "user": user, "server_name": "", "gpu_count": 1, "options": {}}
    values |= {"state": TicketState.WAITING, "created_at": NOW - 60 + number, "place": NOW - 60 + number}
    values |= {"lease_id": None, "offered_at": None, "ready_at": None, "attempts": 0}
    return Ticket(**(values | over))


def at(records=None, readings=None, idle_since=None, **over):
    records = records or Records()
    readings = [server(card(0), card(1))] if readings is None else readings
    holders = {gpu.uuid: one.holder for one in records.leases for gpu in one.gpus}
    values = {
        "now": NOW,
        "names": ("gpu1",),
        "faults": {},
        "readings": readings,
        "standings": standings(readings, holders, Rules(), NOW, closed_by(records.marks)),
        "records": records,
        "curve": lambda _: (None,) * 60,
        "idle_since": lambda _: idle_since,
    }
    return Moment(**(values | over))


def test_a_tile_has_figures_holder_state_and_reason():
    busy = card(0, utilization_ratio=0.834, memory_used_bytes=2**30 + 5, temperature_celsius=71)
    painted = paint(at(Records((lease(0, "ada"),)), [server(busy, card(1, utilization_ratio=None))]), TERMS)
    tile = painted.gpus["GPU-0"]
    assert (tile["utilization_ratio"], tile["memory_used_bytes"], tile["temperature_celsius"]) == (0.83, 2**30, 71)
    assert (tile["state"], tile["holder"], tile["lease_id"], tile["reason"]) == ("taken", "ada", "l0", "held by ada")
    assert painted.gpus["GPU-1"]["utilization_ratio"] is None
    assert painted.totals == {"gpus": 2, "free": 1, "taken": 1, "other": 0, "simulated": False}
    json.dumps(painted.as_json())


def test_marks_drain_servers_exclude_gpus_and_name_orphans():
    marks = (Mark("gpu", "GPU-0", "loud", "root", NOW), Mark("orphan", "GPU-1", "used by x", "hub", NOW))
    painted = paint(at(Records(marks=marks)), TERMS)
    assert [(gpu["excluded"], gpu["orphan"], gpu["state"]) for gpu in painted.gpus.values()] == [
        (True, False, "closed"),
        (False, True, "closed"),
    ]
    drained = paint(at(Records(marks=(Mark("server", "gpu1", "disk", "root", NOW),))), TERMS).servers["gpu1"]["drained"]
    assert drained == {"reason": "disk", "by": "root", "since": round(NOW)}


def test_a_server_without_a_reading_is_shown_with_the_reason():
    painted = paint(at(readings=[], faults={"gpu1": "its agent refuses the connection"}), TERMS)
    assert painted.servers["gpu1"]["healthy"] is False
    assert painted.servers["gpu1"]["health"] == "its agent refuses the connection"
    assert paint(at(readings=[]), TERMS).servers["gpu1"]["health"] == "no reading yet"


def test_a_server_without_gpus_is_well_when_its_engine_answers():
    plain = settings_servers.ServerSettings(name="cpu1", address="10.0.0.7")
    member = Member("cpu1", plain, engine_version="26.1.5")
    painted = at(Records((lease(0, "ada", server="cpu1", gpus=()),), members=(member,)), names=("cpu1",))
    shown = paint(replace(painted, without_gpus=frozenset({"cpu1"})), TERMS).servers["cpu1"]
    told = ("healthy", "health", "has_gpus", "sessions", "address", "engine_version", "leaving")
    assert [shown[key] for key in told] == [True, "ok", False, 1, "10.0.0.7", "26.1.5", False]


def test_a_server_whose_engine_is_silent_is_not_well_whatever_its_agent_says():
    member = Member("gpu1", None, silent_since=NOW - 60, fault="no route to host")
    shown = paint(at(Records(members=(member,))), TERMS).servers["gpu1"]
    assert (shown["healthy"], shown["engine_silent_since"]) == (False, round(NOW - 60))
    assert "no route to host" in shown["health"]


def test_a_server_that_leaves_says_so():
    shown = paint(at(Records(members=(Member("gpu1", None, leaving=True),))), TERMS).servers["gpu1"]
    assert shown["leaving"]
    assert "not in the settings any more" in shown["health"]


def test_a_silent_server_is_shown_since_when():
    painted = paint(at(readings=[server(card(0), age_seconds=60)]), TERMS)
    assert painted.servers["gpu1"]["last_reading_at"] == round(NOW - 60)
    assert painted.gpus["GPU-0"]["state"] == "unknown"


def test_the_line_has_positions_and_what_is_expected_from_limits_and_idle_gpus():
    held = (lease(0, "ada", ends_at=NOW + 1800), lease(1, "bob"))
    tickets = (ticket(0, "carl"), ticket(1, "dora"))
    first, second = paint(at(Records(held, tickets)), TERMS).line
    assert (first["position"], first["of"], first["expected_at"]) == (1, 2, round(NOW + 1800))
    assert (second["position"], second["expected_at"]) == (2, None)
    assert "unknown" in second["expected_text"]

    policy = TERMS.policy
    sooner = paint(at(Records(held, tickets), idle_since=NOW - 600), TERMS).line[0]["expected_at"]
    busy = paint(at(Records(held, tickets), idle_since=NOW - 5), TERMS).line[1]
    assert busy["expected_at"] is None
    assert sooner == round(NOW - 600 + policy.idle_while_others_wait_seconds + policy.warning_seconds)


def test_nobody_expects_a_gpu_of_a_silent_server():
    held = lease(0, "ada", ends_at=NOW + 600)
    records = Records((held,), (ticket(0, "bob"),), members=(Member(held.server, None, silent_since=NOW - 99),))
    [place] = paint(at(records), TERMS).line
    assert place["expected_at"] is None


def test_a_ready_ticket_has_a_deadline_and_no_position():
    ready = ticket(0, "ada", state=TicketState.READY, ready_at=NOW - 60)
    (place,) = paint(at(Records(tickets=(ready,))), TERMS).line
    assert (place["position"], place["deadline"], place["expected_at"]) == (None, round(NOW + 540), None)


def test_only_what_differs_travels():
    before = paint(at(Records((lease(0, "ada"),))), TERMS)
    readings = [server(card(0, temperature_celsius=50))]
    after = paint(at(Records((lease(0, "ada"),)), readings), TERMS)
    assert changes(before, before) == {}
    news = changes(before, after)
    assert news["gpus"] == {"GPU-0": {"temperature_celsius": 50}, "GPU-1": None}
    assert news["servers"] == {"gpu1": {"gpus": 1, "free": 0}}
    assert set(news) == {"gpus", "servers", "totals"}
    assert changes(after, before)["gpus"]["GPU-1"] == before.gpus["GPU-1"]


def told(records, user, server_name=None, **over):
    moment = at(records, **over)
    return about(user, paint(moment, TERMS), moment, TERMS, server_name)


def test_a_person_is_told_of_their_session_and_of_nobody_elses():
    me = told(Records((lease(0, "ada"), lease(1, "bob")), (ticket(0, "carl"),)), "ada", idle_since=NOW - 125)
    assert me["session"]["lease_id"] == "l0"
    assert me["session"]["idle_seconds"] == 120
    assert me["waiting"] == 1
    assert "bob" not in json.dumps(me)
    assert "carl" not in json.dumps(me)


def test_a_person_is_told_which_of_their_own_processes_hold_memory_by_the_pids_of_their_container():
    own = Process(4711, 2**30, "python", ProcessOrigin.CONTAINER, CONTAINER, 1000, pid_in_container=17)
    others = Process(4712, 2**30, "python", ProcessOrigin.CONTAINER, "d" * 64, 1000, pid_in_container=18)
    outside = Process(4713, 2**30, "python", ProcessOrigin.OUTSIDE, None, 0)
    readings = [server(card(0, processes=(own, others, outside)))]
    [gpu] = told(Records((lease(0, "ada"),)), "ada", readings=readings)["session"]["gpus"]
    assert gpu["processes"] == [{"pid_in_container": 17, "memory_used_bytes": 2**30}]
    [silent] = told(Records((lease(0, "ada"),)), "ada", readings=[server(card(0, processes=None))])["session"]["gpus"]
    assert silent["processes"] is None


def test_who_started_elsewhere_is_told_of_the_new_session_and_not_of_the_lost_one():
    silent = (Member("gpu1", None, silent_since=NOW - 9999),)
    lost, new = lease(0, "ada", phase="lost"), lease(1, "ada", server="gpu2")
    me = told(Records((lost, new), members=(*silent, Member("gpu2", None))), "ada")
    assert me["session"]["lease_id"] == new.id
    assert me["silence"] is None
    me = told(Records((lost,), members=silent), "ada")
    assert me["session"] is None
    assert (me["silence"]["stage"], me["silence"]["lease_id"]) == ("lost", lost.id)


def test_idleness_before_the_session_is_not_the_sessions():
    me = told(Records((lease(0, "ada", ready_at=NOW - 30),)), "ada", idle_since=NOW - 5000)
    assert me["session"]["idle_seconds"] == 30


def test_notices_say_what_ends_when_and_whether_it_can_be_kept():
    warned = told(Records((lease(0, "ada", warned_at=NOW - 60),)), "ada")["session"]["notice"]
    assert (warned["kind"], warned["deadline"], warned["can_keep"]) == ("idle", NOW + 540, True)
    kept = told(Records((lease(0, "ada", warned_at=NOW - 60, kept_at=NOW - 99),)), "ada")["session"]["notice"]
    assert kept["can_keep"] is False
    assert told(Records((lease(0, "ada", ends_at=NOW + 3000),)), "ada")["session"]["notice"]["kind"] == "length"
    assert told(Records((lease(0, "ada", ends_at=NOW + 9000),)), "ada")["session"]["notice"] is None


def test_who_ends_a_session_is_told_with_the_reason_and_nothing_makes_it_longer():
    ending = lease(0, "ada", ends_at=NOW + 45, end_message="admin ends your session: new fans", warned_at=NOW)
    session = told(Records((ending,)), "ada")["session"]
    assert (session["notice"]["kind"], session["notice"]["deadline"]) == ("ending", NOW + 45)
    assert session["notice"]["text"] == "admin ends your session: new fans"
    assert (session["notice"]["can_keep"], session["can_extend"]) == (False, False)


def test_a_session_can_be_made_longer_only_while_nobody_waits():
    held = (lease(0, "ada", ends_at=NOW + 9000),)
    assert told(Records(held), "ada")["session"]["can_extend"] is True
    assert told(Records(held, (ticket(0, "bob"),)), "ada")["session"]["can_extend"] is False
    assert told(Records((lease(0, "ada"),)), "ada")["session"]["can_extend"] is False


def test_which_of_several_servers_is_meant():
    held = (lease(0, "ada", server_name="two"), lease(1, "ada"))
    assert told(Records(held), "ada")["session"]["lease_id"] == "l1"
    assert told(Records(held), "ada", "two")["session"]["lease_id"] == "l0"
    assert told(Records(held), "ada", "three")["session"] is None
    assert told(Records(held[:1]), "ada")["session"]["lease_id"] == "l0"


def test_how_the_last_place_ended_is_told_until_there_is_a_new_one():
    ended = {"ada": EndedTicket("t9", "expired", "not opened", NOW - 60)}
    assert told(Records(ended_tickets=ended), "ada")["last_ticket"]["state"] == "expired"
    assert told(Records(tickets=(ticket(0, "ada"),), ended_tickets=ended), "ada")["last_ticket"] is None


def test_the_curve_is_the_mean_of_each_full_minute():
    now = 60_000 * 60 + 30.0
    points = [Point(now - 30 - 60 + second, ratio, None) for second, ratio in ((0, 0.2), (10, 0.4), (20, None))]
    points.append(Point(now - 30 - 1800, 1.0, None))
    points.append(Point(now - 10, 0.9, None))  # of the minute that is not over
    curve = by_minute(points, now)
    assert len(curve) == 60
    assert (curve[59], curve[30]) == (30, 100)
    assert sum(value is not None for value in curve) == 2


def test_curves_are_drawn_anew_only_when_a_minute_is_over():
    asked = []
    curves = Curves(lambda uuid: asked.append(uuid) or ())
    for now in (600.0, 630.0, 659.0, 660.0):
        curves.of("GPU-0", now)
    assert asked == ["GPU-0", "GPU-0"]
    assert curves.of(None, 0) == (None,) * 60


async def test_a_viewer_who_reads_too_slowly_gets_everything_anew():
    viewer = Viewer("ada", sees_all=True)
    viewer.send(message("whole", {}))
    assert not viewer.needs_whole
    for number in range(100):
        viewer.send(message("change", number))
        if viewer.needs_whole:
            break
    assert viewer.needs_whole
    viewer.send(message("whole", {"anew": 1}))
    assert await viewer.next() == b'event: whole\ndata: {"anew":1}\n\n'


async def test_a_viewer_is_told_about_themselves_only_when_more_than_the_time_has_changed():
    viewer = Viewer("ada", sees_all=False)
    viewer.tell_about({"now": 1, "free": 3})
    viewer.tell_about({"now": 2, "free": 3})
    viewer.tell_about({"now": 3, "free": 2})
    assert (await viewer.next()).count(b"event: me") == 2
    viewer.close()
    assert await asyncio.wait_for(viewer.next(), 1) == b""


def test_scopes_may_be_narrowed_to_groups():
    visitor = Visitor.of_model({"name": "eva", "scopes": ["custom:a!group=students", "custom:b", "custom:c:x"]})
    assert visitor.filters("custom:a") == ("group=students",)
    assert visitor.filters("custom:b") == ("",)
    assert not visitor.has_some("custom:c")
    assert not visitor.may_enter


def test_a_reader_sees_what_is_committed_and_can_change_nothing(database):
    with closing(Reader(database.url.render_as_string(hide_password=False))) as reader:
        assert reader.look(lambda session: session.scalar(text("select count(*) from lease"))) == 0
        with pytest.raises(DBAPIError):
            reader.look(lambda session: session.execute(text("insert into hub (id, created_at) values ('x', 1)")))


def test_a_reader_does_not_wait_for_a_writer(tmp_path):
    with opened(sqlite_url(tmp_path)) as database, closing(Reader(sqlite_url(tmp_path))) as reader:

        def look_meanwhile(_session):
            return reader.look(lambda session: session.scalar(text("select count(*) from lease")))

        assert database.transact(look_meanwhile) == 0


def test_a_reader_makes_no_database_where_there_is_none(tmp_path):
    with closing(Reader(sqlite_url(tmp_path))) as reader, pytest.raises(DBAPIError):
        reader.look(lambda session: session.execute(text("select 1")))
    assert list(tmp_path.iterdir()) == []
