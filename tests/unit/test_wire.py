"""Readings on the wire: whole and plausible on arrival, or refused with one clear error."""

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from idl_hub.gpus import (
    GPU,
    Disk,
    Health,
    HealthState,
    Process,
    ProcessOrigin,
    ServerFigures,
    ServerReading,
    Xid,
)
from idl_hub.gpus.reading import HEALTHY
from idl_hub.gpus.wire import MAX_BYTES, WireError, decode, encode

NOW = 1_800_000_000.0
GIB = 2**30
CONTAINER = "0123456789abcdef" * 4
FIGURES = ServerFigures(
    cpu_count=24,
    cpu_utilization_ratio=0.25,
    load_average_1_minute=3.0,
    load_average_5_minutes=2.5,
    load_average_15_minutes=0.0,
    memory_total_bytes=256 * GIB,
    memory_available_bytes=200 * GIB,
    booted_at=NOW - 1000,
    disks=(Disk("/", 100 * GIB, 40 * GIB), Disk("/srv/homes")),
)


def sample_gpu(index: int) -> GPU:
    return GPU(
        uuid=f"GPU-00000000-0000-4000-8000-{index:012d}",
        index=index,
        health=HEALTHY,
        name="NVIDIA GeForce GTX 1080 Ti",
        pci_bus_id="00000000:04:00.0",
        memory_total_bytes=11 * GIB,
        memory_used_bytes=3 * GIB,
        memory_free_bytes=8 * GIB,
        utilization_ratio=0.5,
        temperature_celsius=70,
        power_watts=180.5,
        processes=(
            Process(100 + index, 2 * GIB, "python3", ProcessOrigin.CONTAINER, CONTAINER, 1000),
            Process(200 + index, GIB, "xorg", ProcessOrigin.OUTSIDE, None, 0),
            Process(300 + index, None, None),
        ),
        memory_utilization_ratio=0.1,
        fan_speed_ratio=0.4,
        power_limit_watts=250.0,
        xids=(Xid(31, NOW - 60), Xid(79, NOW - 1)),
    )


LOST = Health(HealthState.LOST, 15, "the GPU fell off the bus")
READING = ServerReading(
    server="gpu03",
    taken_at=NOW,
    health=HEALTHY,
    gpus=(sample_gpu(0), sample_gpu(1).without_values(LOST), GPU(None, 2, Health(HealthState.HUNG, None, "mute"))),
    driver_version="580.95.05",
    duration_seconds=0.02,
    figures=FIGURES,
)
WHOLE: dict[str, Any] = json.loads(encode(READING, 0))


def test_a_reading_arrives_as_it_was_sent() -> None:
    assert decode(encode(READING, 0.0), NOW) == READING


def test_a_server_without_gpus_or_figures_arrives_too() -> None:
    bare = ServerReading("gpu04", NOW, Health(HealthState.NO_LIBRARY, 12, "no driver"))
    assert decode(encode(bare, 0.0), NOW) == bare


def test_times_arrive_by_the_clock_of_the_receiver_however_wrong_the_senders_is() -> None:
    for sender_is_ahead_seconds in (-86400, 86400):
        sent = decode(encode(READING, 2.5), NOW + sender_is_ahead_seconds)
        assert sent.taken_at == NOW + sender_is_ahead_seconds - 2.5
        assert [sent.taken_at - xid.at for xid in sent.gpus[0].xids] == [60, 1]
        assert sent.figures is not None
        assert sent.taken_at - sent.figures.booted_at == 1000


def test_every_field_travels() -> None:
    def compare(plain: Any, value: Any) -> None:
        if not hasattr(type(value), "__dataclass_fields__"):
            return
        assert set(plain) == {field.name for field in fields(value)}
        for field in fields(value):
            part, sent = getattr(value, field.name), plain[field.name]
            for inner, one in zip(part, sent, strict=True) if isinstance(part, tuple) else [(part, sent)]:
                compare(one, inner)

    compare(WHOLE["reading"], READING)


def test_a_process_with_an_evil_name_does_not_silence_its_server() -> None:
    evil = Process(7, 1, "\x1b[31m\u202e\ud800\x00" + "x" * 5000, ProcessOrigin.OUTSIDE, None, 0)
    reading = replace(READING, gpus=(replace(sample_gpu(0), processes=(evil,)),))
    arrived = decode(encode(reading, 0.0), NOW)
    (process,) = arrived.gpus[0].processes or ()
    assert process.name is not None
    assert process.name.isprintable()
    assert len(process.name) == 256


def test_of_very_many_processes_those_with_the_most_memory_arrive() -> None:
    many = tuple(Process(pid, pid) for pid in range(1, 2000))
    arrived = decode(encode(replace(READING, gpus=(replace(sample_gpu(0), processes=many),)), 0.0), NOW)
    assert {process.pid for process in arrived.gpus[0].processes or ()} == set(range(2000 - 128, 2000))


@pytest.mark.parametrize(
    "nonsense",
    [
        {"utilization_ratio": 42949672.95},
        {"utilization_ratio": math.nan},
        {"memory_used_bytes": 12 * GIB},
        {"memory_total_bytes": 2**64 - 1},
        {"temperature_celsius": 65535},
        {"power_watts": math.inf},
        {"pci_bus_id": "\x00"},
        {"uuid": "GPU 1\n"},
    ],
)
def test_a_gpu_whose_driver_talks_nonsense_arrives_as_sick_beside_its_sound_neighbours(
    nonsense: dict[str, Any],
) -> None:
    reading = replace(READING, gpus=(sample_gpu(0), replace(sample_gpu(1), **nonsense)))
    sound, sick = decode(encode(reading, 0.0), NOW).gpus
    assert sound == reading.gpus[0]
    assert sick.health.state is HealthState.ERROR
    assert "cannot be true" in sick.health.words
    assert (sick.index, sick.utilization_ratio, sick.processes) == (1, None, None)
    assert sick.uuid == (None if "uuid" in nonsense else reading.gpus[1].uuid)


# What must not get in


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of every value inside, containers included."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from leaves(part, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> Any:
    """Return the sample with this value at that place."""
    if not path:
        return value
    whole = copy.deepcopy(WHOLE)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return whole


def refused(whole: Any) -> str:
    with pytest.raises(WireError) as error:
        decode(json.dumps(whole).encode(), NOW)
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 500
    return message


ALL_PATHS = sorted(set(leaves(WHOLE)), key=repr)


def value_at(path: tuple[Any, ...]) -> Any:
    value: Any = WHOLE
    for key in path:
        value = value[key]
    return value


@pytest.mark.parametrize("path", ALL_PATHS, ids=lambda path: ".".join(map(str, path)))
def test_the_wrong_kind_of_value_is_refused_at_every_place(path: tuple[Any, ...]) -> None:
    refused(changed(path, {"surprise": 1}))
    refused(changed(path, [[[]]]))
    current = value_at(path)
    if not isinstance(current, bool):
        refused(changed(path, True))
    if not isinstance(current, str) and current is not None:
        refused(changed(path, "17"))
    if isinstance(current, str):
        refused(changed(path, 17))
        refused(changed(path, "\ud800"))
        refused(changed(path, "\x1b[2J"))
        refused(changed(path, "x" * 5000))


@pytest.mark.parametrize(
    "path",
    [path for path in ALL_PATHS if type(value_at(path)) in (int, float)],
    ids=lambda path: ".".join(map(str, path)),
)
def test_impossible_numbers_are_refused_at_every_place(path: tuple[Any, ...]) -> None:
    for number in (math.nan, math.inf, -math.inf, 1e300, 10**400, -(10**18)):
        refused(changed(path, number))
    if path[-1] != "temperature_celsius":
        refused(changed(path, -1))


@pytest.mark.parametrize(
    "path", [path for path in ALL_PATHS if type(value_at(path)) is dict], ids=lambda path: ".".join(map(str, path))
)
def test_a_missing_or_an_unknown_key_is_refused_in_every_object(path: tuple[Any, ...]) -> None:
    current = value_at(path)
    for key in current:
        refused(changed(path, {name: value for name, value in current.items() if name != key}))
    refused(changed(path, current | {"more": None}))


def test_what_contradicts_itself_is_refused() -> None:
    gpus = WHOLE["reading"]["gpus"]
    first = gpus[0]
    gpu = ("reading", "gpus", 0)
    assert "one UUID" in refused(changed(("reading", "gpus"), [first, first]))
    assert "twice" in refused(changed((*gpu, "processes"), first["processes"][:1] * 2))
    assert "no UUID" in refused(changed((*gpu, "uuid"), None))
    assert "more memory" in refused(changed((*gpu, "memory_used_bytes"), 12 * GIB))
    assert "more memory" in refused(changed((*gpu, "memory_free_bytes"), 12 * GIB))
    assert "an error" in refused(changed((*gpu, "health", "words"), "broken"))
    assert "container" in refused(changed((*gpu, "processes", 0, "container_id"), None))
    assert "container" in refused(changed((*gpu, "processes", 1, "container_id"), CONTAINER))
    assert "memory" in refused(changed(("reading", "figures", "memory_available_bytes"), 257 * GIB))
    assert "free" in refused(changed(("reading", "figures", "disks", 0, "free_bytes"), 101 * GIB))
    assert "half" in refused(changed(("reading", "figures", "disks", 0, "free_bytes"), None))
    refused(changed(("reading", "gpus"), [first | {"uuid": f"GPU-{number}", "index": number} for number in range(65)]))


def test_another_version_is_named_as_such() -> None:
    assert "differ in release" in refused(changed(("version",), 2))
    refused(changed(("version",), 1.0))
    refused(changed(("version",), True))


def test_bodies_that_are_no_reading_are_refused_quickly() -> None:
    good = encode(READING, 0.0)
    evil = [
        b"",
        b"null",
        b"\xff\xfe" + good.decode().encode("utf-16-le"),
        good.replace(b'"gpu03"', b'"\xff"'),
        good.replace(b'"server":', b'"server":"x","server":'),
        good + b" " * MAX_BYTES,
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"version":' + b"9" * 900_000 + b"}",
        good.replace(b"180.5", b"1e999"),
        good.replace(b"180.5", b"NaN"),
        good.replace(b"180.5", b"-Infinity"),
        b"<html>502 Bad Gateway</html>",
    ]
    start = time.monotonic()
    for body in evil:
        assert body != good
        with pytest.raises(WireError):
            decode(body, NOW)
    assert time.monotonic() - start < 5


def test_every_truncation_is_refused() -> None:
    good = encode(READING, 0.0)
    for length in range(len(good)):
        with pytest.raises(WireError):
            decode(good[:length], NOW)


# Whatever happens on the way


def assert_makes_sense(reading: ServerReading) -> None:
    """What placement relies on."""
    uuids = [gpu.uuid for gpu in reading.gpus if gpu.uuid is not None]
    assert len(set(uuids)) == len(uuids) <= 64
    for gpu in reading.gpus:
        assert type(gpu.health.state) is HealthState
        assert gpu.uuid or not gpu.health.ok
        for ratio in (gpu.utilization_ratio, gpu.memory_utilization_ratio):
            assert ratio is None or (type(ratio) is float and 0 <= ratio <= 1)
        for amount in (gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.memory_free_bytes):
            assert amount is None or (type(amount) is int and 0 <= amount <= 2**50)
        for process in gpu.processes or ():
            assert 0 < process.pid < 2**32
            assert (process.origin is ProcessOrigin.CONTAINER) == (process.container_id is not None)
        text = f"{gpu.uuid}{gpu.name}{gpu.pci_bus_id}{gpu.health.words}"
        assert text.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_change_of_one_place_is_refused_or_still_makes_sense(data: st.DataObject) -> None:
    whole = changed(data.draw(st.sampled_from(ALL_PATHS)), data.draw(JSON))
    try:
        reading = decode(json.dumps(whole).encode(), NOW)
    except WireError:
        return
    assert_makes_sense(reading)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_damaged_bytes_are_refused_or_still_make_sense(data: st.DataObject) -> None:
    body = bytearray(encode(READING, 0.0))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=4))
        assume(body)
    try:
        reading = decode(bytes(body), NOW)
    except WireError:
        return
    assert_makes_sense(reading)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode(body, NOW)


ANY_NUMBER = st.none() | st.integers() | st.floats()


@settings(max_examples=300, deadline=None)
@given(
    name=st.none() | st.text(),
    used=st.none() | st.integers(),
    utilization=ANY_NUMBER,
    temperature=st.none() | st.integers(),
    power=ANY_NUMBER,
    words=st.text(),
)
def test_whatever_a_driver_says_an_agent_sends_what_a_hub_accepts(
    name: str | None,
    used: int | None,
    utilization: float | None,
    temperature: int | None,
    power: float | None,
    words: str,
) -> None:
    odd = replace(
        sample_gpu(0),
        name=name,
        memory_used_bytes=used,
        utilization_ratio=utilization,
        temperature_celsius=temperature,
        power_watts=power,
        processes=(Process(1, None, name),),
    )
    sick = sample_gpu(1).without_values(Health(HealthState.ERROR, 999, words))
    arrived = decode(encode(replace(READING, gpus=(odd, sick, sample_gpu(2))), 0.0), NOW)
    assert_makes_sense(arrived)
    assert [gpu.uuid for gpu in arrived.gpus] == [sample_gpu(index).uuid for index in range(3)]
    assert arrived.gpus[2] == sample_gpu(2)
