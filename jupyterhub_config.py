"""JupyterHub's configuration. All choices stand in the settings file, all logic in idl_hub.

The way out: files in jupyterhub_config.d/ beside this one run last, in the order of their names,
with ``c`` at hand, and may change anything.
"""

import sys
from pathlib import Path

from idl_hub import settings
from idl_hub.config import configure
from idl_hub.db import DatabaseError

c = get_config()

try:
    configure(c, settings.load(settings.files_from_environment()))
except (settings.SettingsError, DatabaseError) as error:
    sys.exit(f"idl_hub cannot start: {error}")

for file in sorted((Path(__file__).parent / "jupyterhub_config.d").glob("*.py")):
    load_subconfig(str(file))
