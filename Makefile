# make quickstart | test | test-all | quality | style | clean
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Constraints hold the versions known to work; PIP_INSTALL_OPTIONS may name another index (see README, "Install").
PIP_INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_INSTALL_OPTIONS)
SOURCES = lrsegformer scripts tests benchmarks
OUTPUT ?= runs/quickstart

.PHONY: quickstart install install-test test test-all quality style clean

quickstart: install
	HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml scripts/finetune_seg.py \
		--strategy stable_softplus --config docs/quickstart.yaml --output_dir $(OUTPUT)

install: $(VENV)/installed
install-test: $(VENV)/installed-test

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/installed-test: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .[test]
	touch $@

test: install-test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS)

# Ten times the cases of every property, and the tests marked slow.
test-all: install-test
	HF_HUB_OFFLINE=1 HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -m "" $(PYTEST_OPTIONS)

quality: install-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

style: install-test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
