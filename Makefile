# Two commands: `make demo` and `make test`. Each sets up .venv first, once per pyproject.toml and constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/stamp-$(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')

.PHONY: demo test slow bench check wheel setup clean

demo: setup  ## Tables 1 and 2 of the paper in minutes, on data that needs no download.
	$(BIN)/cleanpath reproduce table1 table2 --scale quick --columns first --seeds 1

test: setup  ## The default tier of the tests.
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

slow: setup  ## The tests that take minutes.
	$(BIN)/python -m pytest -m slow

bench: setup  ## Figures of speed, each beside what it is claimed to be; no GPU.
	$(BIN)/python -m benchmarks.bench

check: setup  ## Lint, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: setup  ## Build the wheel and start it in an empty environment.
	$(BIN)/python -m build --wheel --outdir dist
	$(BIN)/python .ci/try_wheel.py dist

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("cleanpath needs Python 3.11 or newer; say: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	rm -f .venv/stamp-*
	touch $@

clean:  ## Remove the environment and what was built; runs and reports stay.
	rm -rf .venv dist build
