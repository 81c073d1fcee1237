# Everything is installed into .venv; nothing else on the machine changes. What stands as a comment before
# a target is what `make help` says of it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help audit-packages setup demo test coverage test-lowest test-demo test-tune test-experiments test-load test-faults test-attacks test-cluster test-images test-wheel test-docs test-imaging bench bench-scale release gpu test-gpu-pack lock lint format docs clean

help:
	@awk '/^# /{said = said substr($$0, 2)} /^$$/{said = ""} /^[a-z-]+:/ && said \
		{split($$0, name, ":"); printf "make %-15s%s\n", name[1], said; said = ""}' Makefile

# Install leuk_ray and what its tests need into .venv.
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"leuk_ray needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

# Set up, and run the whole path on synthetic cells.
demo: setup
	$(BIN)/leuk-ray demo --out demo
	@echo 'To type leuk-ray yourself, first: source $(BIN)/activate'

# Set up, and run the tests, about 25 minutes on 2 cores: one Ray for the integration tests; those that
# start their own follow in their own process.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/unit $(COVERAGE)
	$(BIN)/pytest tests/integration tests/real
	$(BIN)/pytest tests/cluster

# On demand, about 10 minutes: the lines that the unit tests run, with a floor in pyproject.toml.
coverage: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/unit --cov

# On demand, about 10 minutes: the unit tests with the lowest versions that pyproject.toml allows.
test-lowest: setup
	$(PYTHON) -m venv .lowest
	.lowest/bin/pip install --quiet --disable-pip-version-check 'uv==0.*'
	.lowest/bin/uv pip install --quiet --python .lowest --resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 .lowest/bin/pytest -n 2 tests/unit
	rm -rf .lowest

# On demand, about 10 minutes: the demo, and its bundle on 4,000 fresh cells.
test-demo: setup
	$(BIN)/pytest tests/demo

# On demand, about 12 minutes: sweeps killed and resumed, a population, two workers, each shipped sweep.
test-tune: setup
	$(BIN)/pytest tests/tune

# On demand, about 20 minutes: both papers at scale tiny, killed and resumed.
test-experiments: setup
	$(BIN)/pytest tests/experiments

# On demand, about 15 minutes: replicas killed, a promotion, overload, bad bodies, hostile neighbours, a soak.
test-load: setup
	$(BIN)/pytest -s tests/load

# On demand, about 20 minutes: workers, drivers, nodes and the head are killed in the middle of a run.
test-faults: setup
	$(BIN)/pytest tests/faults

# On demand, about 30 minutes: every writer killed at every one of its writes; 5,000 odd images.
test-attacks: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/attacks

# On demand, 5 to 10 minutes: the commands of cluster/README.md, from its text, on four nodes.
test-cluster: setup
	$(BIN)/pytest tests/newcomer

# On demand, about 5 minutes: what the Dockerfiles install, into an environment that is new.
test-images: setup
	$(BIN)/pytest tests/images

# On demand, about 8 minutes: the wheel in a new environment trains, answers, runs the demo and a sweep.
test-wheel: setup
	$(BIN)/pytest tests/wheel

# The figures of benchmarks/results, half an hour at most on 2 quiet cores: a table and bench.json.
bench: setup
	$(BIN)/python benchmarks/run.py

# On demand: the sizes that take an hour, and the memory of `prepare` on a whole C-NMC's worth.
bench-scale: setup
	$(BIN)/python benchmarks/run.py --long
	$(BIN)/python benchmarks/prepare_scale.py

# On demand, about 5 minutes: the clients of the Imaging Server Kit and of napari, in an environment of their own.
test-imaging: setup
	$(PYTHON) -m venv .imaging
	.imaging/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,imaging]' 'imaging-server-kit[napari]' 'napari[pyqt6]'
	QT_QPA_PLATFORM=offscreen .imaging/bin/pytest -rs tests/imaging
	rm -rf .imaging

# On a machine with an NVIDIA GPU, 8 minutes: right and fast, a table and JSON in gpu-results/. Where no
# package can be installed there is no .venv, and PYTHON with what GPU_PACK/unpack.sh gave runs it.
gpu:
	$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py --out gpu-results

# On demand, about 5 minutes: the packed environment in GPU_PACK prepares and trains on a CPU, under
# GPU_PYTHON, a Python 3.12 with PyTorch. Skips with the reason where there is neither.
GPU_PACK ?= .gpu
GPU_PYTHON ?= python3.12
test-gpu-pack: setup
	GPU_PACK=$(GPU_PACK) GPU_PYTHON=$(GPU_PYTHON) $(BIN)/pytest -rs tests/gpu_pack

# What the images install, each with its hashes: after a change of pyproject.toml or constraints.txt.
# With TORCH_INDEX_URL, the index of PyTorch's CPU builds, also requirements.cpu.txt.
LOCK = .lock/bin/uv pip compile --quiet --generate-hashes --python-version 3.11 --python-platform linux \
	--custom-compile-command 'make lock' --constraint constraints.txt
EXTRAS = --extra serve --extra tune --extra onnx
lock:
	$(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet --disable-pip-version-check 'uv==0.*'
	echo setuptools | $(LOCK) $(EXTRAS) --output-file cluster/docker/requirements.txt pyproject.toml -
	echo 'cyclonedx-bom==7.*' | $(LOCK) --output-file cluster/docker/tools.txt -
	printf 'boto3==1.*\ngoogle-api-python-client==2.*\n' | $(LOCK) --output-file cluster/docker/ray-up.txt -
	$(if $(TORCH_INDEX_URL),echo setuptools | $(LOCK) --index $(TORCH_INDEX_URL) --index-strategy unsafe-best-match \
		$(EXTRAS) --output-file cluster/docker/requirements.cpu.txt pyproject.toml -)
	rm -rf .lock

# On demand: known vulnerabilities of the versions in constraints.txt; asks a public database.
audit-packages:
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --quiet --disable-pip-version-check 'pip-audit==2.*'
	.audit/bin/pip-audit --no-deps --disable-pip --requirement constraints.txt
	rm -rf .audit

# Check the tree, run lint and tests, build wheel and source archive into dist/, run the wheel, and tag:
# VERSION=0.2.0.
# Nothing is pushed or uploaded.
release:
	.ci/release $(VERSION)

# Format, style, types and imports; TYPED=leuk_ray checks the types of the package alone, in half the time.
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright $(TYPED)
	$(BIN)/lint-imports --no-logo --no-cache

# Mend what ruff can mend.
format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# docs/reference/settings.md from the fields of the settings; then the documentation, into site/.
docs: setup
	$(BIN)/python -c 'from leuk_ray.cli.reference import settings_page; print(settings_page(), end="")' > docs/reference/settings.md
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs site

# On demand, about 30 minutes: the blocks of README and documentation that need no cluster, and the tutorials.
test-docs: setup
	$(BIN)/pytest tests/docs

# Remove .venv and what commands have written here.
clean:
	rm -rf $(VENV) demo runs sweeps site build *.egg-info
