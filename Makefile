# make quickstart   set up, make pictures, train, evaluate, show where the report is
# make test         set up, check style and types, run the tests
# make notebook     set up, execute docs/first_steps.ipynb, keep its output
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint format notebook clean

quickstart: $(VENV)/run.stamp
	$(BIN)/python -m input_pipeline.quickstart --output data/quickstart
	$(BIN)/python -m diffad_jax.main --config configs/quickstart.py --workdir runs/quickstart
	@echo "Open $$(ls -d runs/quickstart/eval/*/ | sort -V | tail -n 1)report.html"

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebook: $(VENV)/dev.stamp
	rm -rf runs/first_steps
	$(BIN)/python docs/run_notebook.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev.stamp: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) data/quickstart data/cache runs/quickstart
