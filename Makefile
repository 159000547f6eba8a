PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIPFLAGS := --quiet
DEMO := runs/demo

SITE := site

.PHONY: install demo site test anew cluster slow lint format clean

# torch comes first and exactly pinned: a looser request may draw a build for another accelerator.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIPFLAGS) --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install $(PIPFLAGS) --constraint constraints.txt --editable ".[dev,slurm]"
	touch $@

install: $(READY)

demo: $(READY)
	$(BIN)/msabench run --suite demo --store $(DEMO)/results --runs $(DEMO)/jobs
	$(BIN)/msabench table --datasets synth --store $(DEMO)/results
	$(BIN)/msabench leaderboard intervals --store $(DEMO)/results
	$(BIN)/msabench leaderboard build --out $(DEMO)/site --store $(DEMO)/results

site: $(READY)
	$(BIN)/msabench leaderboard build --out $(SITE)

# One worker a core, each with one thread: the small networks of the tests gain nothing from more.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

# Also what passed before with equal sources; every F1 is measured.
anew:
	MSABENCH_TESTS_ANEW=1 $(MAKE) test

# On a real SLURM and a real Ray on this machine, where their programs are installed.
cluster: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m cluster

# The tests take F1 that was measured before from equal inputs; here every method is trained anew.
slow: $(READY)
	$(BIN)/pytest -m slow
	OMP_NUM_THREADS=1 $(BIN)/msabench regress

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
