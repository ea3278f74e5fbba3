"""The stand-in library: C and Python agree, it builds where it should, and nothing is missing in it."""

import ctypes
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pynvml
import pytest

from idl_hub.gpus import simulator as simulation
from idl_hub.gpus.simulator import layout, library

pytest_plugins = ["simulated_gpus"]

SOURCES = Path(library.__file__).parent
RECORDS = {
    "idlhub_fault": layout.FaultRecord,
    "idlhub_process": layout.ProcessRecord,
    "idlhub_gpu": layout.GPURecord,
    "idlhub_state": layout.StateRecord,
    "idlhub_gpu_xids": layout.GPUXidsRecord,
    "idlhub_xids": layout.XidsRecord,
    "idlhub_call_count": layout.CallCountRecord,
    "idlhub_calls": layout.CallsRecord,
}


def test_c_and_python_agree_on_every_size_and_offset(tmp_path: Path) -> None:
    lines = []
    expected = {}
    for struct, record in RECORDS.items():
        lines.append(f'printf("{struct} %zu\\n", sizeof(struct {struct}));')
        expected[struct] = ctypes.sizeof(record)
        for name, *_ in record._fields_:
            field = getattr(record, name)
            lines.append(f'printf("{struct}.{name} %zu\\n", offsetof(struct {struct}, {name}));')
            lines.append(f'printf("{struct}.{name}.size %zu\\n", sizeof(((struct {struct} *)0)->{name}));')
            expected |= {f"{struct}.{name}": field.offset, f"{struct}.{name}.size": field.size}
    source = tmp_path / "layout.c"
    source.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "state.h"\nint main(void) {\n'
        + "\n".join(lines)
        + '\nprintf("version %u\\nmagic %s\\n", IDLHUB_STATE_VERSION, IDLHUB_STATE_MAGIC);\n}\n'
    )
    subprocess.run(["cc", f"-I{SOURCES}", "-o", tmp_path / "layout", source], check=True, timeout=60)
    said = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True, timeout=10).stdout
    told = dict(line.split() for line in said.splitlines())
    assert told.pop("version") == str(layout.VERSION)
    assert told.pop("magic") == layout.MAGIC.decode()
    assert {name: int(number) for name, number in told.items()} == expected


def test_every_function_that_nvidia_ml_py_can_ask_for_is_exported(simulator_library: Path) -> None:
    asked = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', Path(pynvml.__file__).read_text()))
    exported = ctypes.CDLL(str(simulator_library))
    missing = sorted(name for name in asked if not hasattr(exported, name))
    assert len(asked) > 400
    assert not missing, "add these to IDLHUB_NOT_SUPPORTED in functions.h"


def test_structures_have_the_sizes_that_nvidia_ml_py_uses() -> None:
    sizes = {
        pynvml.c_nvmlUtilization_t: 8,
        pynvml.c_nvmlMemory_t: 24,
        pynvml.c_nvmlMemory_v2_t: 40,
        pynvml.nvmlPciInfo_t: 68,
        pynvml.c_nvmlProcessInfo_v3_t: 24,
        pynvml.c_nvmlProcessUtilizationSample_t: 32,
        pynvml.c_nvmlFieldValue_t: 40,
        pynvml.c_nvmlEventData_t: 32,
    }
    assert {record: ctypes.sizeof(record) for record in sizes} == sizes


WRITER_AND_READER = """
#include "session.h"
static struct idlhub_state shared;
static atomic_bool over;
static void *write_on(void *unused)
{
    for (uint32_t change = 1; !over; change++) {
        atomic_fetch_add(&shared.sequence, 1);
        for (int at = 0; at < IDLHUB_MAX_PROCESSES; at++)
            *(volatile uint32_t *)&shared.gpus[0].processes[at].pid = change;
        atomic_fetch_add(&shared.sequence, 1);
        for (volatile int pause = 0; pause < 300; pause++) {}
    }
    return unused;
}
int main(void)
{
    pthread_t writer;
    struct idlhub_gpu copy;
    int torn = 0, changes = 0;
    uint32_t last = 0;
    state = &shared;
    pthread_create(&writer, NULL, write_on, NULL);
    uint64_t end = now_milliseconds() + 1000;
    while (now_milliseconds() < end) {
        read_state(&copy, &shared.gpus[0], sizeof copy);
        for (int at = 1; at < IDLHUB_MAX_PROCESSES; at++)
            torn += copy.processes[at].pid != copy.processes[0].pid;
        changes += copy.processes[0].pid != last;
        last = copy.processes[0].pid;
    }
    over = true;
    pthread_join(writer, NULL);
    return torn ? 1 : changes < 10 ? 2 : 0;
}
"""


def test_a_reader_never_sees_half_a_change(tmp_path: Path) -> None:
    source = tmp_path / "stress.c"
    source.write_text(WRITER_AND_READER)
    compiled = tmp_path / "stress"
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-pthread", f"-I{SOURCES}", "-o", compiled, source], check=True, timeout=60
    )
    assert subprocess.run([compiled], timeout=60).returncode == 0, "1: half a change was seen; 2: no change was seen"


def test_the_compile_line_in_the_source_works_without_a_warning(tmp_path: Path) -> None:
    line = re.search(r"^ \* +(cc .*)$", (SOURCES / "nvml.c").read_text(), re.MULTILINE)
    assert line is not None
    for source in [*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]:
        shutil.copy(source, tmp_path)
    assert "-Wall -Wextra -Werror" in line[1]
    subprocess.run(line[1], shell=True, cwd=tmp_path, check=True, timeout=120)
    dynamic = subprocess.run(
        ["readelf", "-d", tmp_path / "libnvidia-ml.so.1"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    assert "Library soname: [libnvidia-ml.so.1]" in dynamic


def test_the_library_is_built_again_only_when_its_source_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "sources"
    shutil.copytree(SOURCES, copied)
    monkeypatch.setattr(library, "_SOURCES", copied)
    built = simulation.build(tmp_path / "out")
    first = built.stat()
    assert simulation.build(tmp_path / "out").stat().st_ino == first.st_ino
    with (copied / "nvml.c").open("a") as source:
        source.write("\n/* changed */\n")
    assert simulation.build(tmp_path / "out").stat().st_ino != first.st_ino, "a program that runs keeps the old file"
    assert {path.name for path in built.parent.iterdir()} == {"libnvidia-ml.so.1", "libnvidia-ml.so.1.source"}
    assert stat.S_IMODE(built.stat().st_mode) & 0o444 == 0o444, "containers load it as another user"


def test_a_missing_compiler_is_said_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(simulation.BuildError, match="apt install gcc"):
        simulation.build(tmp_path / "out")


def test_a_compiler_that_fails_is_quoted_and_leaves_the_old_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = simulation.build(tmp_path / "out")
    before = built.read_bytes()
    copied = tmp_path / "sources"
    shutil.copytree(SOURCES, copied)
    (copied / "nvml.c").write_text("this is no C\n")
    monkeypatch.setattr(library, "_SOURCES", copied)
    with pytest.raises(simulation.BuildError, match="error: "):
        simulation.build(tmp_path / "out")
    assert built.read_bytes() == before
