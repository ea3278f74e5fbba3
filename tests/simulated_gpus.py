"""Fixtures for tests that need GPUs: `pytest_plugins = ["simulated_gpus"]`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from idl_hub.gpus import simulator as simulation


@pytest.fixture(scope="session")
def simulator_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in libnvidia-ml.so.1."""
    return simulation.build(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[simulation.Simulator]:
    """Eight idle GPUs, which programs of this test find through the environment."""
    simulated = simulation.Simulator(tmp_path / "gpus.state")
    simulated.create(8)
    monkeypatch.setenv("IDLHUB_SIMULATOR_STATE", str(simulated.path))
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    yield simulated
    simulated.reset()  # lets calls go that still hang
