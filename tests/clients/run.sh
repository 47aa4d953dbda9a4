#!/bin/sh
# Drives both endpoints with the clients that the field uses, in an environment of their own.
#
#   tests/clients/run.sh SERVER_URL EDGE_URL
#
# The clients are those of tests/clients/requirements.txt; nothing is asked of the network but them.
set -e
export LITELLM_LOCAL_MODEL_COST_MAP=True HF_HUB_OFFLINE=1  # they would ask the network at import
here=$(dirname "$0")
venv=${WISP_CLIENTS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/wisp/venv-clients}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -r "$here/requirements.txt"
for url in "$@"; do
  "$venv/bin/python" "$here/drive.py" "$url"
done
