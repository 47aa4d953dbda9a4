# `make demo` and `make test` are all that a newcomer needs; each does its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

export HF_HUB_OFFLINE = 1

.PHONY: demo test lint format proto bench clean

demo: $(READY)
	$(RUN) -m wisp.cli demo

test: $(READY)
	$(RUN) -m pytest -n auto --dist loadfile

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

proto: $(READY)
	$(RUN) -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. --grpc_python_out=. wisp/v1/wisp.proto

bench: $(READY)
	$(RUN) -m benchmarks.batching
	$(RUN) -m benchmarks.round

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A virtual environment that a broken first try left behind is made again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "WISP needs Python 3.11 to 3.13: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
