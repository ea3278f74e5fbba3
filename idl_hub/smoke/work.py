"""What the test's student does in the kernel, and what must have come of it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from idl_hub.smoke.failure import SmokeError

FILE = "idlhub-smoke.txt"
"""Name of the file that is saved in the home."""

SEE_GPUS = """
import ctypes, json

nvml = ctypes.CDLL("libnvidia-ml.so.1")


def call(function, *arguments):
    status = getattr(nvml, function)(*arguments)
    if status:
        raise RuntimeError(f"{function} failed with NVML's error {status}")


call("nvmlInit_v2")
count = ctypes.c_uint()
call("nvmlDeviceGetCount_v2", ctypes.byref(count))
uuids = []
for number in range(count.value):
    handle, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(number), ctypes.byref(handle))
    call("nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(96))
    uuids.append(uuid.value.decode())
print(json.dumps(uuids))
"""
"""Prints the UUIDs of the GPUs that NVML shows; with ctypes, so that it needs no package."""

TRAIN = """
import json
import numpy as np, tensorflow as tf

random = np.random.default_rng(7)
x = random.normal(size=(512, 8)).astype("float32")
y = (x[:, 0] + x[:, 1] > 0).astype("int32")
layers = [tf.keras.layers.Dense(16, activation="relu"), tf.keras.layers.Dense(2)]
model = tf.keras.Sequential([tf.keras.Input((8,)), *layers])
model.compile(tf.keras.optimizers.Adam(0.01), tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
losses = [float(loss) for loss in model.fit(x, y, epochs=3, verbose=0).history["loss"]]
gpus = len(tf.config.list_physical_devices("GPU"))
print(json.dumps({"tensorflow": tf.__version__, "gpus": gpus, "losses": losses}))
"""
"""Trains a small network and prints what came of it."""


@dataclass(frozen=True, slots=True)
class Training:
    """What TensorFlow told."""

    tensorflow: str
    gpus: int
    """How many TensorFlow sees."""
    losses: tuple[float, ...]
    """Of each epoch."""


def save(text: str) -> str:
    """Return code that saves this text in the home."""
    return f"from pathlib import Path\nprint(Path.home().joinpath({FILE!r}).write_text({text!r}))"


def gpus_in(printed: str) -> tuple[str, ...]:
    """Return the UUIDs that `SEE_GPUS` printed."""
    return tuple(json.loads(_last_line(printed)))


def training_in(printed: str) -> Training:
    """Return what `TRAIN` printed."""
    told = json.loads(_last_line(printed))
    return Training(told["tensorflow"], told["gpus"], tuple(told["losses"]))


def check_gpus(seen: tuple[str, ...], leased: tuple[str, ...]) -> None:
    """Raise unless the container shows exactly the GPUs that the hub reserved.

    Raises
    ------
    SmokeError
        With both lists.
    """
    if sorted(seen) != sorted(leased):
        raise SmokeError(
            f"The container shows the GPUs {_list(seen)}, but the hub reserved {_list(leased)}. Students would use "
            "others' GPUs, or none: drain this server, and check its NVIDIA container toolkit."
        )


def check_training(training: Training, *, gpus: int) -> None:
    """Raise unless the network learned, on a GPU where there are real ones.

    Parameters
    ----------
    gpus
        How many TensorFlow must see: 0 where there is none or a simulated one.

    Raises
    ------
    SmokeError
        With what is wrong.
    """
    if training.gpus < gpus:
        raise SmokeError(
            f"TensorFlow {training.tensorflow} sees {training.gpus} GPUs, but the session has {gpus}: it would train "
            "on the processor. Check the driver's version against the image (docs/howto/new-image.md)."
        )
    if not training.losses[-1] < training.losses[0]:
        raise SmokeError(f"The network learned nothing: its losses were {training.losses}.")


def _last_line(printed: str) -> str:
    lines = printed.strip().splitlines()
    if not lines:
        raise SmokeError("The code in the kernel ended without a word.")
    return lines[-1]


def _list(uuids: tuple[str, ...]) -> str:
    return ", ".join(uuids) or "(none)"
