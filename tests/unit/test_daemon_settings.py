"""What the engine of a server is told."""

from __future__ import annotations

import json

import pytest

from idl_hub.servers.daemon import Certificates, daemon_settings


def test_the_engine_answers_root_on_the_server_and_at_one_address_whoever_has_a_certificate() -> None:
    settings = daemon_settings("10.0.0.11", Certificates())
    assert settings["hosts"] == ["fd://", "tcp://10.0.0.11:2376"]
    assert settings["tlsverify"] is True
    assert settings["tlscacert"] == "/etc/docker/ca.pem"
    assert daemon_settings("fd00::11", Certificates())["hosts"][1] == "tcp://[fd00::11]:2376"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "gpu01", ""])
def test_an_engine_is_never_open_at_every_address(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        daemon_settings(address, Certificates())


def test_registries_mirrors_and_name_servers_are_named_only_when_asked_for() -> None:
    asked = {
        "insecure-registries": ["10.0.0.1:5000"],
        "registry-mirrors": ["https://10.0.0.1:5000"],
        "dns": ["10.0.0.2"],
    }
    plain = daemon_settings("10.0.0.11", Certificates())
    assert not asked.keys() & plain.keys()
    full = daemon_settings(
        "10.0.0.11",
        Certificates(),
        insecure_registries=["10.0.0.1:5000"],
        registry_mirrors=["https://10.0.0.1:5000"],
        name_servers=["10.0.0.2"],
    )
    assert json.loads(json.dumps(full)) == plain | asked


def test_sessions_outlive_the_engine_and_keep_their_devices() -> None:
    settings = daemon_settings("10.0.0.11", Certificates())
    assert settings["live-restore"] is True
    assert settings["exec-opts"] == ["native.cgroupdriver=cgroupfs"]
