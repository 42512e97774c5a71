# `make demo` reads the samples, `make test` runs every test, `make test-fast` those of a minute, `make fuzz` looks for
# new counterexamples, `make chaos` breaks hosts and servers. From a bare clone.
PYTHON ?= python3
BIN := .venv/bin
# The tests start hundreds of processes: each would compile pagepack anew where the environment forbids to keep it.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq

LOCK := $(BIN)/uv --no-config pip compile --quiet --python-platform linux --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command "make lock" pyproject.toml - --extra postgres --extra s3 --extra parquet --extra otel \
  --extra fast --extra eval --extra mcp

.PHONY: demo demo-pixtral test test-fast fuzz chaos lint lock clean

demo: .venv/core
	@rm -rf pagepack-data/demo
	@$(BIN)/pagepack run samples/ --home pagepack-data/demo || test $$? -eq 1  # 1: two samples are broken on purpose
	@echo
	@$(BIN)/pagepack sql --home pagepack-data/demo --format table \
	  "SELECT replace(source_path, rtrim(source_path, replace(source_path, '/', '')), '') AS file, page_number AS page, \
	   substr(replace(text, char(10), ' '), 1, 60) AS begins FROM page_text ORDER BY source_path, page_number"
	@echo
	@$(BIN)/pagepack sql --home pagepack-data/demo --format table "SELECT cause, reason FROM failures ORDER BY cause"

demo-pixtral: .venv/pixtral
	@rm -rf pagepack-data/demo-pixtral
	$(BIN)/python -m benchmarks.reader.demo draw pagepack-data/demo-pixtral
	PAGEPACK_MAX_SIDE_PX=256 $(BIN)/pagepack run pagepack-data/demo-pixtral/pages --home pagepack-data/demo-pixtral/home \
	  --engine pixtral --model benchmarks/reader/checkpoint --prompt ocr --prompt describe
	$(BIN)/python -m benchmarks.reader.demo compare pagepack-data/demo-pixtral

test: .venv/all
	$(PYTEST) -n 6 --dist loadgroup --no-loadscope-reorder

test-fast: .venv/all
	$(PYTEST) -n 4 tests/unit tests/database -k "not postgresql" -m "not hypothesis"

fuzz: .venv/all
	$(PYTEST) -n 2 -m hypothesis --hypothesis-profile fuzz --timeout 0

chaos: .venv/all
	$(BIN)/python -m tests.chaos

lint: .venv/all
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# What the images install, for Python 3.11 on Linux: requirements.lock, and with torch requirements-gpu.lock. What builds
# pagepack's own wheel goes in too.
lock: .venv/all
	@$(PIP) uv
	echo 'setuptools>=77' | $(LOCK) --extra web --extra openvino -o requirements.lock
	echo 'setuptools>=77' | $(LOCK) --extra pixtral -o requirements-gpu.lock

.venv/core: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv…"; $(PIP) --editable .
	@touch $@

.venv/pixtral: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv…"; $(PIP) torch==2.13.0
	@$(PIP) --editable '.[pixtral]'
	@touch $@ .venv/core

.venv/all: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv…"; $(PIP) torch==2.13.0
	@$(PIP) --editable '.[pixtral,dev]'
	@touch $@ .venv/core .venv/pixtral

clean:
	rm -rf .venv build *.egg-info pagepack-data
