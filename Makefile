# make quickstart | quickstart-certified | test | test-all | bench | study | study-runs | study-small | quality | style | clean
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Constraints hold the versions known to work; PIP_INSTALL_OPTIONS may name another index (see README, "Install").
PIP_INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_INSTALL_OPTIONS)
SOURCES = lrsegformer scripts tests benchmarks examples run.py
OUTPUT ?= runs/quickstart
CERTIFIED_OUTPUT ?= runs/quickstart-certified
BENCHMARKS ?= docs/benchmarks.md
BENCHMARK_THREADS ?= 2
STUDY_STAGES ?= screening camvid camvid_long tiny_imagenet digits sea certified
# Processes that share the tests. On two cores three are fastest, as some tests wait for processes that they start; each
# imports torch, so that many more weigh more than they gain.
# `make test WORKERS=0` runs them in one process, for a debugger; PYTEST_OPTIONS="-k bounds" and the like choose some.
WORKERS ?= 3
PYTEST = HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: quickstart quickstart-certified install install-test install-bench install-robustness
.PHONY: test test-all bench study study-runs study-small quality style clean

quickstart: install
	HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml scripts/finetune_seg.py \
		--strategy stable_softplus --config docs/quickstart.yaml --output_dir $(OUTPUT)

quickstart-certified: install
	HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml scripts/finetune_seg.py \
		--config docs/quickstart_certified.yaml --output_dir $(CERTIFIED_OUTPUT)
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/certify.py --model $(CERTIFIED_OUTPUT) --dataset digits --image_size 64 \
		--norms l2 per_pixel_l2 --per_pixel_radii 0.5/255 1/255 --output_dir $(CERTIFIED_OUTPUT)/certificates
	@sed -n "/^## Perturbations/,/^Radii/p" $(CERTIFIED_OUTPUT)/certificates/results.md

install: $(VENV)/installed
install-test: $(VENV)/installed-test
install-bench: $(VENV)/installed-bench
install-robustness: $(VENV)/installed-robustness

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/installed-test: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .[test]
	touch $@

$(VENV)/installed-bench: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .[bench]
	touch $@

$(VENV)/installed-robustness: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .[robustness]
	touch $@

# gradio takes Pillow below 13, so it lies beside the environment's packages, where the demo's test finds it.
$(VENV)/installed-demo: setup.cfg constraints.txt $(VENV)/installed-test
	sed '/^pillow==/d' constraints.txt > $(VENV)/constraints-demo.txt
	$(BIN)/python -m pip install --quiet --upgrade --target $(VENV)/demo --constraint $(VENV)/constraints-demo.txt \
		$(PIP_INSTALL_OPTIONS) "gradio >= 6.0, < 7"
	touch $@

test: install-test
	$(PYTEST) $(PYTEST_OPTIONS)

# A thousand cases of every property instead of thirty, and the tests and combinations marked slow.
test-all: install-test $(VENV)/installed-demo
	HYPOTHESIS_PROFILE=thorough $(PYTEST) -m "" $(PYTEST_OPTIONS)

# Each script replaces its section; the machine should have nothing else to do.
bench: export OMP_NUM_THREADS = $(BENCHMARK_THREADS)
bench: export HF_HUB_OFFLINE = 1
bench: install-bench
	$(BIN)/python benchmarks/speed.py --threads $(BENCHMARK_THREADS) --output $(BENCHMARKS)
	$(BIN)/python benchmarks/scores.py --output $(BENCHMARKS)
	$(BIN)/python benchmarks/data_path.py --output $(BENCHMARKS)
	$(BIN)/python benchmarks/layers.py --rounds 3 --output $(BENCHMARKS)

# The tables and figures of docs/study.md from the numbers beside it.
study: install
	$(BIN)/python benchmarks/study/tables.py

# All of the study from zero; a run that was stopped goes on.
study-runs: export HF_HUB_OFFLINE = 1
study-runs: export OMP_NUM_THREADS = 1
study-runs: install-robustness
	$(BIN)/python benchmarks/study/split_camvid.py --output_dir runs/study/data
	for stage in $(STUDY_STAGES); do \
		$(BIN)/lrsegformer run --matrix recipes/study/$$stage.yaml --output_dir runs/study/$$stage --jobs 2 && \
		$(BIN)/python benchmarks/study/collect.py --matrix_folder runs/study/$$stage --output docs/study/$$stage.json \
		|| exit 1; done
	$(BIN)/python benchmarks/study/tables.py

# Its public part, on the built-in digits, beside the committed numbers.
study-small: export HF_HUB_OFFLINE = 1
study-small: export OMP_NUM_THREADS = 1
study-small: install-robustness
	$(BIN)/lrsegformer run --matrix recipes/study/digits.yaml --output_dir runs/study/digits --jobs 2
	$(BIN)/python benchmarks/study/collect.py --matrix_folder runs/study/digits --output runs/study/digits.json
	$(BIN)/python benchmarks/study/check.py --committed docs/study/digits.json --again runs/study/digits.json

quality: install-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	.ci/audit $(BIN)/python $(PIP_INSTALL_OPTIONS)

style: install-test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
