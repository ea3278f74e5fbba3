"""What Prometheus gets: every metric is documented, in base units, and absent where nothing is known."""

import math
import os
from pathlib import Path

from agents import RunningAgent
from documented_metrics import documented
from prometheus_client.parser import text_string_to_metric_families

from idl_hub.gpus import ServerReading
from idl_hub.gpus.simulator import Fault, SimulatedProcess, Simulator

pytest_plugins = ["simulated_gpus"]

GIB = 2**30
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(agent: RunningAgent) -> tuple[Samples, dict[str, set[str]]]:
    """Return every sample, and the labels of every metric."""
    samples: Samples = {}
    labels: dict[str, set[str]] = {}
    answer = agent.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, "a series is there twice"
            samples[key] = sample.value
            labels.setdefault(sample.name, set()).update(sample.labels)
    return samples, labels


def tells_everything(reading: ServerReading, simulator: Simulator) -> bool:
    if not reading.gpus[3].xids:
        simulator.report_xid(3, 79)  # again and again, as the agent may not listen yet
    figures = reading.figures
    if figures is None or figures.cpu_utilization_ratio is None or figures.disks[0].free_bytes is None:
        return False
    return bool(reading.gpus[2].processes) and bool(reading.gpus[3].xids)


def test_every_metric_is_documented_and_every_documented_metric_exists(
    simulator: Simulator, simulator_library: Path, tmp_path: Path
) -> None:
    simulator.set(1, fault=Fault.error(999, "nvmlDeviceGetTemperature"))
    simulator.set(2, processes=[SimulatedProcess(os.getpid(), GIB)])
    with RunningAgent(simulator, simulator_library, tmp_path) as agent:
        agent.reading_where(lambda reading: tells_everything(reading, simulator))
        found = scrape(agent)[1]
    assert found == documented("The agent")


def test_hardware_goes_by_the_names_and_base_units_of_known_dashboards(
    simulator: Simulator, simulator_library: Path, tmp_path: Path
) -> None:
    simulator.set(3, utilization_ratio=0.8, memory_used_bytes=9 * GIB, temperature_celsius=71, power_watts=201)
    with RunningAgent(simulator, simulator_library, tmp_path) as agent:
        agent.reading_where(lambda reading: reading.gpus[3].utilization_ratio == 0.8)
        samples, _ = scrape(agent)
    gpu = simulator.gpus()[3]
    uuid = frozenset({("uuid", gpu.uuid)})
    values = {name: value for (name, labels), value in samples.items() if labels == uuid}
    assert values["nvidia_smi_utilization_gpu_ratio"] == 0.8
    assert values["nvidia_smi_memory_used_bytes"] == 9 * GIB
    assert values["nvidia_smi_memory_total_bytes"] == 11 * GIB
    assert values["nvidia_smi_temperature_gpu"] == 71
    assert values["nvidia_smi_power_draw_watts"] == 201
    infos = [dict(labels) for (name, labels) in samples if name == "nvidia_smi_gpu_info"]
    assert {info["uuid"] for info in infos} == {gpu.uuid for gpu in simulator.gpus()}
    assert {info["driver_version"] for info in infos} == {"580.95.05"}


def test_a_sick_gpu_has_its_reason_and_no_invented_values(
    simulator: Simulator, simulator_library: Path, tmp_path: Path
) -> None:
    with RunningAgent(simulator, simulator_library, tmp_path) as agent:
        agent.reading_where(lambda reading: reading.gpus[0].health.ok)
        simulator.set(0, fault=Fault.lost())
        simulator.set(1, fault=Fault.error(3, "nvmlDeviceGetPowerUsage"))  # not supported
        agent.reading_where(lambda reading: not reading.gpus[0].health.ok and reading.gpus[1].power_watts is None)
        samples, _ = scrape(agent)
    lost, unsupporting = (gpu.uuid for gpu in simulator.gpus()[:2])
    healthy = {dict(labels)["uuid"]: labels for (name, labels) in samples if name == "idlhub_gpu_healthy"}
    assert samples["idlhub_gpu_healthy", healthy[lost]] == 0
    assert dict(healthy[lost])["reason"] == "lost"
    assert samples["idlhub_gpu_healthy", healthy[unsupporting]] == 1
    assert dict(healthy[unsupporting])["reason"] == ""
    shown = {name for (name, labels) in samples if ("uuid", lost) in labels and name.startswith("nvidia_smi")}
    assert shown <= {"nvidia_smi_gpu_info", "nvidia_smi_enforced_power_limit_watts"}
    assert ("nvidia_smi_power_draw_watts", frozenset({("uuid", unsupporting)})) not in samples
    assert not any(math.isnan(value) for value in samples.values())
