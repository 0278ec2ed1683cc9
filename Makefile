# make install | test | slow | gpu-test | gpu-bench | gpu-bundle | web | web-test | coverage | check | types | format | docs | demo | clean.  Every target installs what it needs.
PYTHON ?= python3
VENV ?= .venv
# The tested versions. Another build (a CUDA or CPU index of yours): make install TORCH="torch torchvision --index-url …"
TORCH ?= torch==2.14.1 torchvision==0.29.1
# Without a TORCH of yours and without a GPU, .ci/torch_index.py adds PyTorch's CPU index beside your usual one. To pip, `==2.14.1` also matches
# `2.14.1+cpu`, which sorts above `2.14.1` (PEP 440, local versions): so the CPU build is chosen where it exists, and the usual build elsewhere.
TORCH_INDEX = $(if $(filter file,$(origin TORCH)),$$($(BIN)/python .ci/torch_index.py $(TORCH)))
# Processes of `make test`; each takes about 2 GB.
JOBS ?= 2
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
TYPES = build/types
DOCS = build/docs
PARTS = $(filter-out tests,$(patsubst %/__init__.py,%,$(wildcard */__init__.py)))

.PHONY: install test slow gpu-test gpu-bench gpu-bundle web web-test coverage check types format docs demo clean

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH) $(TORCH_INDEX)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS)

slow: $(STAMP)
	SAMDIFF_FRESH=1 $(BIN)/python -m pytest -m "slow or hypothesis"

coverage: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --cov --cov-report=term:skip-covered

gpu-test: $(STAMP)
	$(BIN)/python -m pytest -m cuda tests/cuda

# The pages of `samdiff report` in Chromium; skipped with the reason where there is none.
web-test: $(STAMP)
	$(BIN)/python -m pytest -m browser tests/report tests/web

# Everything that is worth measuring on a GPU, into build/gpu/gpu.json; the same command resumes with the parts that are missing.
gpu-bench: $(STAMP)
	$(BIN)/python benchmarks/gpu.py build/gpu/gpu.json

# For a GPU without a network: make gpu-bundle STORE=tiles.zarr, or PHOTOS=folder for a store made of its images.
gpu-bundle: $(STAMP)
	$(BIN)/python benchmarks/gpu_bundle.py $(if $(STORE),--store $(STORE)) $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(REUSE),--reuse $(REUSE)) $(if $(LIMIT),--limit $(LIMIT))

# The upscaler for browsers as static files in build/web; needs npm. Another network: make web CHECKPOINT=runs/student CALIBRATE=photos/ STATIC=128
web: $(STAMP)
	$(BIN)/python web/build.py build/web $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(if $(ONLY),--only $(ONLY)) $(if $(STATIC),--static $(STATIC)) $(if $(CALIBRATE),--calibrate $(CALIBRATE))

check: $(STAMP) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	mkdir -p $(TYPES) && ln -sfn ../.. $(TYPES)/samdiff
	cd $(TYPES) && ../../$(BIN)/mypy --config-file ../../setup.cfg samdiff/*.py samdiff/commands samdiff/settings samdiff/pipeline samdiff/model samdiff/report

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The package is the repository root; the links give it its name for mkdocstrings, without build/ and .venv/.
docs: $(VENV)/.docs
	mkdir -p $(DOCS)/samdiff && ln -sfn $(addprefix ../../../,$(wildcard *.py) $(PARTS)) $(DOCS)/samdiff/
	$(BIN)/python -m mkdocs build --strict --clean

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	touch $@

demo: $(STAMP)
	$(BIN)/python -m samdiff.cli demo

clean:
	rm -rf build .pytest_cache .ruff_cache .mypy_cache *.egg-info
