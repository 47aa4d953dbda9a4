#!/bin/sh
# Drives both endpoints with the clients that the field uses, in an environment of their own, and
# prints a table:
#
#   tests/clients/run.sh [SERVER_URL EDGE_URL]
#
# Without addresses it starts a server (SmolLM2 on vLLM) and an edge of this checkout, by the Python
# that WISP_PYTHON names: one with WISP's requirements and vLLM, such as `make test-vllm` makes.
# WISP_CLIENTS=openai_python,ai_sdk runs these alone. Nothing is asked of the network but packages.
set -e
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wisp
venv=${WISP_CLIENTS_VENV:-$cache/venv-clients}
# uv does not read pip's settings: where wheels lie on this machine, such as torch without CUDA.
[ -z "$PIP_FIND_LINKS" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$PIP_FIND_LINKS}"
export LITELLM_LOCAL_MODEL_COST_MAP=True HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 AI_SDK_LOG_WARNINGS=false
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
  [ -x "$venv/bin/python" ] || ${PYTHON:-python3} -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
  "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/requirements.txt"
fi
own=$venv/llama-index  # of a client that wants another version of OpenAI's SDK
if ! cmp -s "$here/requirements-llama-index.txt" "$own/requirements.txt"; then
  [ -x "$own/bin/python" ] || ${PYTHON:-python3} -m venv "$own"
  "$venv/bin/uv" pip install --quiet --python "$own/bin/python" -r "$here/requirements-llama-index.txt"
  cp "$here/requirements-llama-index.txt" "$own/requirements.txt"
fi
if ! cmp -s "$here/package.json" "$venv/node/package.json"; then
  mkdir -p "$venv/node"
  cp "$here/package.json" "$venv/node/package.json"
  npm install --prefix "$venv/node" --silent --no-audit --no-fund
fi
cp "$here"/*.mjs "$venv/node/"
if [ $# -gt 0 ]; then
  exec "$venv/bin/python" "$here/drive.py" "$@"
fi
python=${WISP_PYTHON:-$(ls -d "$cache"/venv-vllm-*/bin/python | tail -1)}
cd "$here/../.."
export PYTHONPATH="$PWD" OMP_NUM_THREADS=1
model=$("$python" -m wisp.cli models get smollm2)
exec "$python" -m tests.clients.pair "$model" env -u PYTHONPATH "$venv/bin/python" "$here/drive.py"
