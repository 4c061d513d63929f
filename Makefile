# Everything sets itself up: a virtual environment in .venv, the project installed in it. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
# Tiny tensors are slower on many threads; the tests also start processes of their own.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test check bench tables clean

demo: .venv/installed
	$(BIN)/kshot demo --out runs/demo

test: .venv/installed
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: .venv/installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(ONE_THREAD) $(BIN)/python -m pytest tests/test_layers.py

# The slow evidence: peers in an environment of their own, figures into results/*.json, tables into README.md.
bench: .venv-bench/installed
	$(ONE_THREAD) .venv-bench/bin/python benchmarks/meta_gradients.py
	.venv-bench/bin/python benchmarks/meta_step.py
	.venv-bench/bin/python benchmarks/scaling.py
	.venv-bench/bin/python benchmarks/attempts.py
	$(ONE_THREAD) .venv-bench/bin/python benchmarks/hypergradient_memory.py
	$(ONE_THREAD) .venv-bench/bin/python benchmarks/flat_memory.py
	.venv-bench/bin/python benchmarks/sampling.py
	.venv-bench/bin/python benchmarks/sinusoid.py
	$(ONE_THREAD) .venv-bench/bin/python benchmarks/navigation.py
	.venv-bench/bin/python benchmarks/across.py
	.venv-bench/bin/python benchmarks/learning_speed.py
	$(ONE_THREAD) .venv-bench/bin/python benchmarks/glyph_learners.py
	$(ONE_THREAD) .venv-bench/bin/python benchmarks/sinusoid_learners.py
	$(ONE_THREAD) .venv-bench/bin/python benchmarks/strategy.py
	$(ONE_THREAD) .venv-bench/bin/python benchmarks/intents.py
	$(ONE_THREAD) .venv-bench/bin/python benchmarks/parkinsons.py
	$(MAKE) tables

tables: .venv/installed
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/pictures.py

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

.venv-bench/installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]" -r benchmarks/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-bench build dist runs
