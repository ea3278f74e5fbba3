"""Whatever engines and crashes do: one GPU, one running session; and in the end, leases and sessions match."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from keeping import Engines, Hub
from parts import opened, sqlite_url

from idl_hub.gpus.leases import Phase

HOSTS = ("gpu1", "gpu2")
NUMBERS = st.integers(0, 9)


class Classroom(RuleBasedStateMachine):
    """Students start and stop; engines are slow, lose answers, fall silent; the hub is killed."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="idlhub-keeper-"))
        self.url = sqlite_url(self.folder)
        with opened(self.url):
            pass
        self.engines = Engines()
        self.saved: set[str] = set()
        self.dead: list[Hub] = []
        self.held_in_silence: dict[str, set[str]] = {}
        self.hub = Hub(self.url, self.engines, HOSTS, self.saved)
        for host in HOSTS:
            self.hub.look(host)
        self.hub.turn()
        self.hub.keeper.hub_is_up()

    @rule(user=st.sampled_from(("anna", "ben", "cem")), turn=st.booleans())
    def a_student_starts(self, user: str, turn: bool) -> None:
        self.hub.start(user)
        self.go_on(turn)

    @precondition(lambda self: self.hub.sessions)
    @rule(number=NUMBERS, turn=st.booleans())
    def a_student_stops(self, number: int, turn: bool) -> None:
        self.hub.stop(sorted(self.hub.sessions)[number % len(self.hub.sessions)])
        self.go_on(turn)

    @precondition(lambda self: self.hub.starts)
    @rule(number=NUMBERS, turn=st.booleans())
    def a_start_is_cancelled(self, number: int, turn: bool) -> None:
        self.hub.starts[number % len(self.hub.starts)].cancel()
        self.go_on(turn)

    @rule(host=st.sampled_from(HOSTS), turn=st.booleans())
    def the_keeper_looks(self, host: str, turn: bool) -> None:
        self.hub.look(host)
        self.go_on(turn)

    @precondition(lambda self: self.engines.calls)
    @rule(number=NUMBERS, how=st.sampled_from(("answer", "answer", "lost", "too late")))
    def an_engine_gets_to_a_call(self, number: int, how: str) -> None:
        call = self.engines.calls[number % len(self.engines.calls)]
        self.engines.work_on(call, "lost" if how == "answer" and call.host in self.engines.silent else how)
        self.hub.turn()

    @rule(host=st.sampled_from(HOSTS))
    def an_engine_becomes_slow_or_fast(self, host: str) -> None:
        self.engines.slow ^= {host}

    @rule(host=st.sampled_from(HOSTS))
    def an_engine_answers_with_older_or_newer_lists(self, host: str) -> None:
        self.engines.fresh ^= {host}

    @rule(host=st.sampled_from(HOSTS))
    def an_engine_falls_silent_or_speaks_again(self, host: str) -> None:
        self.hub.turn()  # what was answered before is heard
        self.engines.silent ^= {host}
        if host in self.engines.silent:
            self.held_in_silence[host] = {lease.id for lease in self.live() if lease.server == host}
        else:
            del self.held_in_silence[host]

    @precondition(lambda self: any(unit.running for _, unit in self.engines.units.values()))
    @rule(number=NUMBERS)
    def a_container_dies(self, number: int) -> None:
        running = sorted(unit.id for _, unit in self.engines.units.values() if unit.running)
        self.engines.set_running(running[number % len(running)], False)

    @rule()
    def jupyterhub_saves(self) -> None:
        self.hub.save()

    @rule(up=st.booleans())
    def the_hub_is_killed_and_starts_again(self, up: bool) -> None:
        self.hub.die()
        self.dead.append(self.hub)
        self.hub = Hub(self.url, self.engines, HOSTS, self.saved)
        if up:
            self.hub.keeper.hub_is_up()

    @rule()
    def the_hub_has_loaded_its_servers(self) -> None:
        self.hub.keeper.hub_is_up()

    def go_on(self, turn: bool) -> None:
        if turn:
            self.hub.turn()

    def live(self) -> list:
        return list(self.hub.leases.read_live()) if hasattr(self, "hub") else []

    @invariant()
    def no_gpu_has_two_running_sessions(self) -> None:
        if hasattr(self, "engines"):
            used = Counter(uuid for _, unit in self.engines.units.values() if unit.running for uuid in unit.gpu_uuids)
            assert max(used.values(), default=1) == 1, used

    @invariant()
    def no_gpu_has_two_leases(self) -> None:
        held = Counter(gpu.uuid for lease in self.live() for gpu in lease.gpus)
        assert max(held.values(), default=1) == 1, held

    @invariant()
    def a_silent_engine_frees_nothing(self) -> None:
        live = {lease.id for lease in self.live()}
        for held in getattr(self, "held_in_silence", {}).values():
            assert held <= live

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        try:
            self.everything_calms_down()
            live = self.hub.leases.read_live()
            units = {unit.lease_id: unit for _, unit in self.engines.units.values()}
            assert {lease.id for lease in live} == set(units) == set(self.hub.sessions) & set(units)
            assert all(lease.phase is Phase.RUNNING for lease in live)
            assert all(unit.running for unit in units.values())
            assert len(units) == len(self.engines.units)
            assert not self.hub.keeper._in_hand
            assert self.hub.keeper.strangers == {}
        finally:
            for hub in (self.hub, *self.dead):
                hub.bury()
            shutil.rmtree(self.folder)

    def everything_calms_down(self) -> None:
        self.engines.silent.clear()
        self.engines.slow.clear()
        self.held_in_silence.clear()
        self.hub.keeper.hub_is_up()
        for _ in range(4):
            self.hub.turn()
            for call in list(self.engines.calls):
                self.engines.work_on(call)
                self.hub.turn()
            for host in HOSTS:
                self.hub.look(host)
            self.hub.turn()


def test_one_gpu_one_session_whatever_engines_and_crashes_do() -> None:
    run_state_machine_as_test(Classroom, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
