# `make demo` and `make test` need nothing but Python >= 3.11 and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

# The tests of a file share a process, and what it has compiled.
TESTS := -n $(JOBS) --dist loadfile tests

.PHONY: demo check test aot soak lint docs lock clean

demo: .venv/.installed  ## train a teacher and nine students on the embedded digits, and print the table
	$(BIN)/python -m studies.demo

check: .venv/.installed lint  ## the fast tier: the suite without what is marked slow
	$(BIN)/python -m pytest -m "not slow" $(TESTS)

test: .venv/.installed lint  ## the whole suite, and its 25 slowest tests
	$(BIN)/python -m pytest --durations=25 $(TESTS)

aot: .venv/.installed  ## compile small updates for a TPU that is not here; installs the TPU's compiler, 200 MB
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev,aot]'
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --durations=5 tests/studies/test_targets.py

soak: .venv/.installed  ## kill training at random moments, many times, and compare the bits
	$(BIN)/python tests/reliability/soak.py

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/.installed  ## the documentation's site, docs/_build/index.html
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build

.venv/.installed: pyproject.toml requirements.lock requirements-export.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-export.txt
	touch $@

lock: .venv/.installed  ## renew the tested set of versions
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --extra dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv
