"""Makes TensorFlow's native libraries obey TF_CPP_MIN_LOG_LEVEL from the first line on.

The GPU build writes half a dozen lines to stderr while it is imported ("Unable to register cuDNN factory")
and more when it finds a GPU, whatever that variable says: they go through Abseil's log, which knows no
environment variable. nbgrader gives no points for a cell that wrote to stderr. Abseil's own switch lies in a
library that can be loaded before all others; ``tensorflow/__init__.py`` imports this module first.
"""

import ctypes
import os
from pathlib import Path

LIBRARY = Path(__file__).parent / "tensorflow" / "libtensorflow_framework.so.2"
# absl::SetMinLogLevel(absl::LogSeverityAtLeast), in the version of Abseil that TensorFlow 2.19 carries.
SET_MIN_LOG_LEVEL = "_ZN4absl12lts_2023080214SetMinLogLevelENS0_18LogSeverityAtLeastE"

level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0")
if level in {"1", "2", "3"}:  # 3: fatal errors only; both count alike
    ctypes.CDLL(str(LIBRARY))[SET_MIN_LOG_LEVEL](int(level))
