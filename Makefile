# Two commands: `make demo` trains a small private federation; `make test` runs every check.
# Both set up .venv on first use and reuse it afterwards. PYTHON and VENV may be set.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.mmrank-installed
export OMP_NUM_THREADS ?= 1

.PHONY: demo test fast check setup clean

demo: setup
	$(BIN)/mmrank simulate simulations/configs/quickstart.yaml --out runs/quickstart --resume
	@echo "Open runs/quickstart/report.html"

test: check
	$(BIN)/python -m pytest -n 2 -m "not cuda"

fast: setup
	$(BIN)/python -m pytest -n 2

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(STAMP)

# constraints.txt pins what was tested; other platforms may choose other builds of torch.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
