"""The agent's metrics. Hardware goes by the names and units of nvidia_gpu_exporter, the rest is ``idlhub_*``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from idl_hub import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from idl_hub.gpus.nvml_errors import ErrorCounts
    from idl_hub.gpus.reading import GPU, ServerFigures, ServerReading
    from idl_hub.gpus.sampler import Sampler
    from idl_hub.gpus.xids import XidLog

_HARDWARE: tuple[tuple[str, str, Callable[[GPU], float | None]], ...] = (
    (
        "nvidia_smi_utilization_gpu_ratio",
        "Share of the last 1/6 to 1 s in which any kernel ran, 0 to 1.",
        lambda gpu: gpu.utilization_ratio,
    ),
    (
        "nvidia_smi_utilization_memory_ratio",
        "Share of the same time in which memory was read or written, 0 to 1.",
        lambda gpu: gpu.memory_utilization_ratio,
    ),
    ("nvidia_smi_memory_total_bytes", "Memory of the card.", lambda gpu: gpu.memory_total_bytes),
    ("nvidia_smi_memory_used_bytes", "Memory in use by programs.", lambda gpu: gpu.memory_used_bytes),
    ("nvidia_smi_memory_free_bytes", "Memory that programs can still get.", lambda gpu: gpu.memory_free_bytes),
    ("nvidia_smi_temperature_gpu", "Temperature in degrees Celsius.", lambda gpu: gpu.temperature_celsius),
    ("nvidia_smi_power_draw_watts", "Power that the card draws.", lambda gpu: gpu.power_watts),
    ("nvidia_smi_enforced_power_limit_watts", "Power that it may draw.", lambda gpu: gpu.power_limit_watts),
    ("nvidia_smi_fan_speed_ratio", "Fan, as a share of full speed.", lambda gpu: gpu.fan_speed_ratio),
)


class ReadingCollector(Collector):
    """Turns the newest reading into metrics at each scrape; asks NVML nothing."""

    def __init__(self, sampler: Sampler, errors: ErrorCounts, xids: XidLog) -> None:
        self._sampler = sampler
        self._errors = errors
        self._xids = xids

    def collect(self) -> Iterator[Metric]:
        """Give all metrics; before the first reading, those of the agent alone."""
        reading = self._sampler.latest()
        yield _info("idlhub_agent_info", "The agent that answers.", [{"version": __version__}])
        yield self._nvml_errors()
        yield from self._xid_errors()
        if reading is None:
            return
        yield from self._of_the_agent(reading)
        yield from _of_the_gpus(reading)
        if reading.figures is not None:
            yield from _of_the_server(reading.figures)

    def _nvml_errors(self) -> Metric:
        family = CounterMetricFamily(
            "idlhub_nvml_errors",
            "Errors that NVML answered with since the agent started, by function and nvmlReturn_t.",
            labels=["function", "code"],
        )
        for (function, code), count in self._errors.snapshot().items():
            family.add_metric([function, str(code)], count)
        return family

    def _xid_errors(self) -> Iterator[Metric]:
        total = CounterMetricFamily(
            "nvidia_smi_xid_errors",
            "Errors that the driver reported of the GPU since the agent started, by NVIDIA's XID.",
            labels=["uuid", "xid"],
        )
        last = GaugeMetricFamily(
            "nvidia_smi_xid_last_timestamp_seconds", "When the agent noticed the newest one.", labels=["uuid", "xid"]
        )
        for (uuid, code), (count, at) in self._xids.counts().items():
            total.add_metric([uuid, str(code)], count)
            last.add_metric([uuid, str(code)], at)
        yield total
        yield last

    def _of_the_agent(self, reading: ServerReading) -> Iterator[Metric]:
        state = "" if reading.health.ok else reading.health.state.value
        yield _labelled(
            "idlhub_nvml_healthy", "Whether NVML as a whole answers.", ["reason"], [([state], reading.health.ok)]
        )
        if self._sampler.last_success_at is not None:
            yield GaugeMetricFamily(
                "idlhub_last_success_timestamp_seconds",
                "When NVML and at least one GPU last answered.",
                self._sampler.last_success_at,
            )
        if reading.duration_seconds is not None:
            yield GaugeMetricFamily(
                "idlhub_snapshot_duration_seconds",
                "How long the newest reading of all GPUs took.",
                reading.duration_seconds,
            )
        yield GaugeMetricFamily("idlhub_simulated", "Whether the GPUs are simulated ones.", float(reading.simulated))


def _of_the_gpus(reading: ServerReading) -> Iterator[Metric]:
    known = [gpu for gpu in reading.gpus if gpu.uuid is not None]
    yield _info(
        "nvidia_smi_gpu_info",
        "Who each GPU is.",
        [
            {
                "uuid": gpu.uuid or "",
                "index": str(gpu.index),
                "name": gpu.name or "",
                "pci_bus_id": gpu.pci_bus_id or "",
                "driver_version": reading.driver_version or "",
            }
            for gpu in known
        ],
    )
    for name, words, value_of in _HARDWARE:
        values = [([gpu.uuid or ""], value_of(gpu)) for gpu in known]
        yield _labelled(name, words, ["uuid"], values)
    yield _labelled(
        "idlhub_gpu_healthy",
        "Whether the GPU answers; if not, why (a GPU that never told its UUID goes by its number).",
        ["uuid", "reason"],
        [
            ([gpu.uuid or f"index-{gpu.index}", "" if gpu.health.ok else gpu.health.state.value], gpu.health.ok)
            for gpu in reading.gpus
        ],
    )
    yield _labelled(
        "idlhub_gpu_processes",
        "Processes on the GPU by where they run: container, outside or unknown.",
        ["uuid", "origin"],
        [([gpu.uuid or "", origin], count) for gpu in known for origin, count in _origins(gpu)],
    )


def _origins(gpu: GPU) -> list[tuple[str, int]]:
    origins = [process.origin.value for process in gpu.processes or ()]
    return [(origin, origins.count(origin)) for origin in sorted(set(origins))]


def _of_the_server(figures: ServerFigures) -> Iterator[Metric]:
    for name, words, value in (
        ("cpu_count", "Logical cores of the server.", figures.cpu_count),
        ("cpu_utilization_ratio", "Busy share of all cores, 0 to 1.", figures.cpu_utilization_ratio),
        ("memory_total_bytes", "Memory of the server.", figures.memory_total_bytes),
        ("memory_available_bytes", "Memory that programs can still get.", figures.memory_available_bytes),
        ("boot_time_seconds", "When the server was booted.", figures.booted_at),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"idlhub_server_{name}", words, value)
    yield _labelled(
        "idlhub_server_load_average",
        "Processes that run or wait to run, averaged over so many minutes.",
        ["minutes"],
        [
            (["1"], figures.load_average_1_minute),
            (["5"], figures.load_average_5_minutes),
            (["15"], figures.load_average_15_minutes),
        ],
    )
    sizes = [([disk.path], disk.total_bytes) for disk in figures.disks]
    yield _labelled("idlhub_server_disk_total_bytes", "Size of the file system.", ["path"], sizes)
    free = [([disk.path], disk.free_bytes) for disk in figures.disks]
    yield _labelled("idlhub_server_disk_free_bytes", "What users can still write.", ["path"], free)


def _labelled(
    name: str, words: str, labels: list[str], values: Iterable[tuple[list[str], float | None]]
) -> GaugeMetricFamily:
    """Return a metric of those values that there are; one that is not supported is left out, never 0."""
    family = GaugeMetricFamily(name, words, labels=labels)
    for label_values, value in values:
        if value is not None:
            family.add_metric(label_values, float(value))
    return family


def _info(name: str, words: str, things: list[dict[str, str]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=list(things[0]) if things else [])
    for thing in things:
        family.add_metric(list(thing.values()), 1)
    return family
