"""The trial's settings and secrets."""

import stat
from pathlib import Path

import pytest

from idl_hub.settings import load
from script.lib import trial
from script.lib.places import prepare


@pytest.fixture
def places(tmp_path):
    return prepare(tmp_path / "checkout", tmp_path / "state")


def make_trial(**changes) -> trial.Trial:
    facts = {
        "port": 8000,
        "internal_address": "172.18.0.1",
        "demo_students": 5,
        "simulated_gpus": 2,
        "simulator_library": Path("/library/libnvidia-ml.so.1"),
        "simulator_state": Path("/state/gpus"),
        "student_python": None,
        "spawner": "docker",
        "network": "idlhub",
        "image": "idl-hub/student:latest",
    }
    return trial.Trial(**{**facts, **changes})


def test_the_hub_accepts_the_settings_of_a_trial(places):
    settings = load(trial.write_settings(make_trial(), places))

    assert settings.trial
    assert settings.hub.public_address == "127.0.0.1"
    assert settings.hub.internal_address == "172.18.0.1"
    assert (settings.hub.public_port, settings.hub.proxy_api_port, settings.hub.internal_port) == (8000, 8001, 8081)
    assert settings.hub.web_port == 8090
    assert settings.gpus.simulated == 2
    assert settings.spawner.kind == "docker"


def test_the_hub_accepts_the_settings_of_a_trial_with_real_cards(places):
    plan = make_trial(simulated_gpus=0, simulator_library=None, simulator_state=None)

    assert load(trial.write_settings(plan, places)).gpus.simulated == 0


def test_the_hub_accepts_the_settings_of_a_trial_without_docker(places):
    plan = make_trial(spawner="process", student_python=Path("/venv/bin/python"), internal_address="127.0.0.1")

    assert load(trial.write_settings(plan, places)).spawner.student_python == Path("/venv/bin/python")


def test_settings_of_the_user_hold_where_the_trial_says_nothing(places):
    (places.root / "settings.yml").write_text("spawner: {pids_limit: 99}\nhub: {public_port: 1}\n")

    settings = load(trial.write_settings(make_trial(), places))

    assert settings.spawner.pids_limit == 99
    assert settings.hub.public_port == 8000


def test_secrets_are_made_once_per_install_and_are_for_the_owner_alone(places, tmp_path):
    first = trial.demo_password(places), trial.proxy_token(places)
    again = trial.demo_password(places), trial.proxy_token(places)
    elsewhere = prepare(tmp_path / "checkout", tmp_path / "other")

    assert first == again
    assert trial.demo_password(elsewhere) != first[0]
    assert trial.proxy_token(elsewhere) != first[1]
    for secret in (trial.password_file(places), places.state / "proxy-token"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_secret_that_others_could_read_is_closed_again(places):
    trial.demo_password(places)
    trial.password_file(places).chmod(0o644)

    trial.demo_password(places)

    assert stat.S_IMODE(trial.password_file(places).stat().st_mode) == 0o600


def test_the_password_is_long_enough_to_be_safe_from_guessing(places):
    letters = trial.demo_password(places).replace("-", "")

    assert len(letters) >= 12


def test_the_settings_hold_no_secret(places):
    secrets = [trial.demo_password(places), trial.proxy_token(places)]
    text = trial.write_settings(make_trial(), places)[-1].read_text()

    assert not any(secret in text for secret in secrets)
