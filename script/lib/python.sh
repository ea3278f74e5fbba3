# Sourced by script/server and script/test: start a module of script/lib with a Python that is new enough.
# shellcheck shell=bash

run_with_python() {
  local root=$1 module=$2 candidate found=""
  shift 2
  for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      PYTHONPATH="$root" exec "$candidate" -P -m "script.lib.$module" "$@"
    fi
    found="$found $candidate ($("$candidate" -V 2>&1))"
  done
  echo "No Python 3.11 or newer was found${found:+; too old:$found}." >&2
  echo "Nothing can be set up without it. Install one, for example on Debian 12 or newer:" >&2
  echo "    apt-get install python3 python3-venv" >&2
  return 1
}
