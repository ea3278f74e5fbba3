"""The REST interface of idl-hub web, with a real hub: who may do what, and what they are told."""

from __future__ import annotations

import time
from itertools import islice

import psutil
import pytest
import requests
import yaml
from fleet_pages import uuid_of
from hubs import ROOT, wait_for
from pages import PREFIX, held, start, waiting

from idl_hub.people import SERVER_TOKEN_SCOPES

STUDENT, ASSISTANT, LECTURER, ADMIN = "student1", "assistant", "lecturer", "admin"
EVERYBODY = {STUDENT, ASSISTANT, LECTURER, ADMIN}
STAFF = EVERYBODY - {STUDENT}
GPU = uuid_of("gpu01", 0)
VERSION = "2026-11-22T1740+0100"
# Address -> who may; the answer to others is 403. 409 is an answer to somebody who may, but has nothing to keep.
RIGHTS = {
    "GET api/me": EVERYBODY,
    "POST api/me/keep": EVERYBODY,
    "POST api/me/extend": EVERYBODY,
    "POST api/me/leave-line": EVERYBODY,
    "POST api/me/elsewhere": EVERYBODY,
    "GET api/fleet": STAFF,
    "GET api/line": EVERYBODY,
    "GET openapi.yaml": EVERYBODY,
    "GET api/versions": EVERYBODY,
    f"GET api/versions/{VERSION}/differences": EVERYBODY,
    f"GET api/versions/{VERSION}/folder": EVERYBODY,
    f"GET api/versions/{VERSION}/file": EVERYBODY,
    f"POST api/versions/{VERSION}/restore": EVERYBODY,
    "POST api/servers/gpu01/drain": {ADMIN},
    "POST api/servers/gpu01/undrain": {ADMIN},
    f"POST api/gpus/{GPU}/exclude": {ADMIN},
    f"POST api/gpus/{GPU}/include": {ADMIN},
    f"POST api/gpus/{GPU}/end-orphan": {ADMIN},
    "POST api/sessions/lease2/end": {LECTURER, ADMIN},
    "POST api/line/ticket0/front": {LECTURER, ADMIN},
    "POST api/line/ticket0/leave": {LECTURER, ADMIN},
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    yield from start(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def tokens(running):
    return {name: running.token(name) for name in EVERYBODY}


@pytest.fixture
def pages(running, tokens):
    running.reset()
    # Whoever looks for one session is answered from the tables, not from a picture of a second ago.
    assert running.call("POST", "api/sessions/none/end", tokens[ADMIN]).status_code == 404
    return running


@pytest.mark.parametrize("address", RIGHTS)
def test_each_address_serves_those_who_may_and_refuses_all_others(pages, tokens, address):
    method, path = address.split()
    for name in EVERYBODY:
        pages.reset()
        answer = pages.call(method, path, tokens[name])
        assert (answer.status_code != 403) == (name in RIGHTS[address]), (name, answer.text)
        assert answer.status_code < 500
        if answer.status_code == 403:
            assert "may not" in answer.json()["message"] or "staff" in answer.json()["message"]
    for stranger in (None, "not-a-token"):
        assert pages.call(method, path, stranger).status_code == 403


def test_the_description_names_every_address_and_no_other(pages, tokens):
    described = yaml.safe_load(pages.call("GET", "openapi.yaml", tokens[STUDENT]).text)
    names = {"gpu01": "{server}", GPU: "{uuid}", "lease2": "{lease}", "ticket0": "{ticket}", VERSION: "{version}"}
    tested = set()
    for address in [*RIGHTS, "GET api/events"]:
        method, path = address.split()
        tested.add((method.lower(), "/" + "/".join(names.get(part, part) for part in path.split("/"))))
    assert {(method, path) for path, methods in described["paths"].items() for method in methods} == tested
    for path in described["paths"].values():
        for operation in path.values():
            assert operation["description"].startswith("Who may: ")


def test_a_request_is_done_and_answered_in_words(pages, tokens):
    answer = pages.call("POST", "api/servers/gpu02/drain", tokens[ADMIN], {"reason": "new fans"})
    assert answer.status_code == 202
    assert answer.json() == {"state": "done", "result": 'drain {"reason": "new fans", "server": "gpu02"}'}

    def drained():
        return pages.call("GET", "api/fleet", tokens[ADMIN]).json()["servers"]["gpu02"]["drained"]

    wait_for(drained, "the drain to be seen")
    assert drained()["reason"] == "new fans"
    assert drained()["by"] == ADMIN


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"reason": 5}', b'{"reason": "' + b"x" * 400 + b'"}'])
def test_a_body_that_makes_no_sense_is_refused(pages, tokens, body):
    headers = {"Authorization": f"token {tokens[ADMIN]}"}
    url = f"{pages.hub.url}{PREFIX}api/servers/gpu02/drain"
    assert requests.post(url, data=body, headers=headers, timeout=30).status_code == 400


def test_a_lecturer_ends_sessions_of_students_but_of_nobody_else(pages, tokens):
    pages.add(held(90, "gpu09", 7, "assistant"), waiting(9, "assistant"))
    for path in ("api/sessions/lease90/end", "api/line/ticket9/front", "api/line/ticket9/leave"):
        refused = pages.call("POST", path, tokens[LECTURER])
        assert refused.status_code == 403
        assert "assistant" in refused.json()["message"]
        assert pages.call("POST", path, tokens[ADMIN]).status_code == 202


@pytest.mark.parametrize("name", [STUDENT, ADMIN])
def test_a_servers_token_reaches_its_owners_data_and_nothing_more(pages, name):
    token = pages.token(name, [scope for scope in SERVER_TOKEN_SCOPES if "!server" not in scope])
    assert pages.call("GET", "api/me", token).json()["user"] == name
    assert pages.call("GET", "api/fleet", token).status_code == 403
    assert pages.call("POST", "api/servers/gpu01/drain", token).status_code == 403


def test_a_token_without_access_to_the_service_is_refused(pages):
    token = pages.token(ADMIN, ["list:users"])
    assert pages.call("GET", "api/me", token).status_code == 403


def test_a_student_is_told_of_their_own_gpu_and_their_place(pages, tokens):
    me = pages.call("GET", "api/me", tokens[STUDENT]).json()
    assert me["session"]["server"] == "gpu01"
    assert me["session"]["gpus"][0]["uuid"] == GPU
    assert 0 <= me["session"]["gpus"][0]["utilization_ratio"] <= 1
    assert me["ticket"] is None
    assert me["simulated"] is True
    assert me["total"] == 80

    waits = pages.call("GET", "api/me", pages.token("student58")).json()
    assert (waits["session"], waits["ticket"]["position"], waits["ticket"]["of"]) == (None, 2, 3)
    assert waits["ticket"]["expected_at"] > time.time()


def test_students_see_the_line_without_names(pages, tokens):
    names = [f"student{number}" for number in (57, 58, 59)]
    assert [place["user"] for place in pages.call("GET", "api/line", tokens[ASSISTANT]).json()["line"]] == names
    seen = pages.call("GET", "api/line", pages.token("student58"))
    assert [place["mine"] for place in seen.json()["line"]] == [False, True, False]
    assert "student" not in seen.text


def test_staff_are_sent_the_whole_picture_and_then_only_what_changed(pages, tokens):
    found = list(islice((event for event in pages.events(tokens[ASSISTANT]) if event[0] != "beat"), 5))
    names = [name for name, _ in found]
    assert names[:3] == ["hello", "whole", "me"]
    assert set(names[3:]) == {"change"}
    whole, change = found[1][1], found[3][1]
    assert len(whole["gpus"]) == 80
    assert len(whole["servers"]) == 11
    assert 0 < len(change["gpus"]) < 80
    figures = {"utilization_ratio", "memory_used_bytes", "temperature_celsius", "reason", "state"}
    figures |= {"utilization_percent_by_minute"}  # where a minute ended
    assert set().union(*change["gpus"].values()) <= figures


def test_students_are_sent_what_concerns_them_and_nothing_of_others(pages, tokens):
    found = list(islice(pages.events(tokens[STUDENT]), 4))
    assert {name for name, _ in found} <= {"hello", "me", "beat"}
    assert "student" not in str(found).replace("'student1'", "").replace("held by student1'", "")


def test_a_browsers_request_needs_the_xsrf_token(pages):
    session = pages.hub.session(ADMIN)
    page = session.get(f"{pages.hub.url}{PREFIX}", timeout=30)
    assert page.status_code == 200
    url = f"{pages.hub.url}{PREFIX}api/servers/gpu03/drain"
    session.headers.pop("X-XSRFToken")
    assert session.post(url, timeout=30).status_code == 403
    xsrf = page.text.split('data-xsrf="')[1].split('"')[0]
    assert session.post(url, headers={"X-XSRFToken": "x" + xsrf[1:]}, timeout=30).status_code == 403
    assert session.post(url, headers={"X-XSRFToken": xsrf}, timeout=30).status_code == 202


def test_pages_load_nothing_from_elsewhere_and_may_not_be_framed(pages):
    session = pages.hub.session(STUDENT)
    for path in ("", "line", "no-such-page"):
        policy = session.get(f"{pages.hub.url}{PREFIX}{path}", timeout=30).headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
    for file in (ROOT / "idl_hub/web/static").glob("*.*s"):
        assert "://" not in file.read_text()


def test_while_the_hub_is_away_those_who_are_known_go_on_and_others_are_told_so(pages, tokens):
    unknown = pages.token("student5")
    known = tokens[STUDENT]
    events = pages.events(known, 60)
    assert next(events)[0] == "hello"
    assert pages.call("GET", "api/me", known).ok
    pages.hub.kill()
    try:
        assert pages.call("GET", "api/me", known).ok
        answer = pages.call("GET", "api/me", unknown)
        assert answer.status_code == 503
        assert "Try again in a minute" in answer.json()["message"]
        assert [name for name, _ in islice(events, 3)]
    finally:
        pages.hub.start_again()


def test_twenty_viewers_of_eighty_gpus_cost_less_than_a_twentieth_of_a_core(pages, tokens):
    process = psutil.Process(pages.hub.web_pid)
    streams = [pages.events(tokens[ADMIN], 60) for _ in range(20)]
    assert {next(stream)[0] for stream in streams} == {"hello"}
    assert {name for stream in streams for name, _ in islice(stream, 2)} == {"whole", "me"}
    before, started = process.cpu_times(), time.monotonic()
    while time.monotonic() < started + 8:
        for stream in streams:
            assert next(stream)[0] in {"change", "beat"}
    after, seconds = process.cpu_times(), time.monotonic() - started
    share = (after.user + after.system - before.user - before.system) / seconds
    print(f"20 viewers: {share:.1%} of a core")
    assert share < 0.05
