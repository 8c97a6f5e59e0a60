# make quickstart    set up, make pictures, train, evaluate, show where the report is
# make test          set up with the tested versions, check style and types, run the tests
# make test-long     the tests that start and kill whole trainings, and all recorded training steps
# make test-newest   set up Python 3.13 with the newest of everything, run the tests
# make bundle        export the quickstart's run, judge its pictures where only the runtime is installed
# make gpu-recipe    configs/fast.py on MVTec AD's bottle and grid, results to benchmarks/RESULTS.md
# make bench-device  what this machine's GPU or TPU does, within ten minutes, as a section for RESULTS.md
# make notebook      set up, execute docs/first_steps.ipynb, keep its output
PYTHON ?= python3
# pyenv's python3.13 answers only when it is named.
NEWEST ?= env PYENV_VERSION=3.13 python3.13
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PINS := $(wildcard constraints-py*.txt)

.PHONY: quickstart bundle gpu-recipe bench-device test test-long test-newest newest lint format notebook clean

quickstart: $(VENV)/run.stamp
	$(BIN)/python -m input_pipeline.quickstart --output data/quickstart
	$(BIN)/python -m diffad_jax.main --config configs/quickstart.py --workdir runs/quickstart
	@echo "Open $$(ls -d runs/quickstart/eval/*/ | sort -V | tail -n 1)report.html"

bundle:
	@test -d runs/quickstart || { echo 'make quickstart first'; exit 1; }
	rm -rf runs/quickstart_model .venv-runtime
	$(BIN)/python -m diffad_jax.main --mode export --workdir runs/quickstart \
	    --output runs/quickstart_model
	$(PYTHON) -m venv .venv-runtime
	.venv-runtime/bin/python -m pip install --quiet --disable-pip-version-check numpy pillow onnxruntime
	.venv-runtime/bin/python runs/quickstart_model/infer.py data/quickstart/gear/test \
	    --output runs/quickstart_judged
	$(BIN)/python -m benchmarks.verdicts runs/quickstart_judged/predictions.csv \
	    $$(ls -d runs/quickstart/eval/*/ | sort -V | tail -n 1)scores.csv

# MVTEC and TEXTURES are folders; MORE are flags, such as --config.train.steps=2 for a dry run.
gpu-recipe: RUNS = --out runs/gpu --arms recipe --categories $(MVTEC)/bottle,$(MVTEC)/grid
gpu-recipe: $(VENV)/run.stamp
	@test -d '$(MVTEC)/bottle' -a -d '$(TEXTURES)' || \
	    { echo 'make gpu-recipe MVTEC=FOLDER TEXTURES=FOLDER'; exit 1; }
	$(BIN)/python -m benchmarks.recipe $(RUNS) --config configs/fast.py \
	    --config.data.textures='$(TEXTURES)' $(MORE)
	$(BIN)/python -m benchmarks.curves $(RUNS) --append benchmarks/RESULTS.md

# Without MVTEC and TEXTURES, folders, no recipe; MORE are flags, such as --minutes=30.
bench-device: PICTURES = $(if $(MVTEC),--category '$(MVTEC)/bottle' --config.data.textures='$(TEXTURES)')
bench-device: $(VENV)/run.stamp
	$(BIN)/python -m benchmarks.device $(PICTURES) $(MORE)

test: lint
	$(PYTEST)

test-long: $(VENV)/dev.stamp
	$(PYTEST) -m long

test-newest:
	@if $(NEWEST) --version 2> /dev/null; then \
	    $(MAKE) --no-print-directory newest VENV=.venv-newest PYTHON='$(NEWEST)'; \
	else \
	    echo 'No python3.13 here: the newest versions are not tested. NEWEST=PYTHON names another.'; \
	fi

newest: | $(BIN)/python
	$(INSTALL) --upgrade --upgrade-strategy eager -r requirements-dev.txt
	@$(BIN)/python -m pip freeze | grep -E '^(flax|jax|jaxlib|numpy|optax|orbax.*|tensorflow.*)=='
	$(PYTEST) -m "long or not long"

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What it shows is a first time: nothing is there already.
notebook: $(VENV)/dev.stamp
	rm -rf runs/first_steps data/quickstart data/cache
	$(BIN)/python docs/run_notebook.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Install a file's requirements in the versions that were tested with this Python.
define install
	@pins=$$($(BIN)/python -c 'import sys; print("constraints-py%d%d.txt" % sys.version_info[:2])'); \
	if [ -f $$pins ]; then set -- -c $$pins; \
	else set --; echo "No $$pins: the newest versions, which may be untested with this Python."; fi; \
	set -x; $(INSTALL) "$$@" -r $(1)
endef

$(VENV)/run.stamp: requirements.txt $(PINS) | $(BIN)/python
	$(call install,requirements.txt)
	touch $@

$(VENV)/dev.stamp: requirements.txt requirements-dev.txt $(PINS) | $(BIN)/python
	$(call install,requirements-dev.txt)
	touch $@

clean:
	rm -rf $(VENV) .venv-newest data/quickstart data/cache runs/quickstart
