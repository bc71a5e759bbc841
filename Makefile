# Everything a fresh machine needs is Python 3.11+, make and a network to the package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench soak generate lock fmt clean

help: ## List what make can do
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv from the hash-pinned lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Pilothouse needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## One company through every layer, with real faults, on embedded real servers
	$(BIN)/pilothouse demo $(ARGS)

test: $(READY) ## Every test that fits in CI, on real servers; ARGS=tests/unit runs some of them
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	$(BIN)/pytest -m "not soak and not alone" --numprocesses logical --dist loadfile
	$(BIN)/pytest -m "alone and not soak"
endif

check: $(READY) ## Lint, types, import contracts, generated files unchanged
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m schemas.generate --check
	$(BIN)/python -m pilothouse.simulate.page --check

bench: $(READY) ## Measure side by side with peers and limits
	$(BIN)/pilothouse bench all $(ARGS)

soak: $(READY) ## The long proofs: crash test, weak and double faults, long outage
	$(BIN)/pytest -m soak $(ARGS)

generate: $(READY) ## Write the generated schemas, contracts and docs
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m pilothouse.simulate.page

lock: ## Pin every dependency with its hashes (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-header --all-extras --python-version 3.11 pyproject.toml -o requirements.lock

fmt: $(READY) ## Format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## Remove what setup and the tests made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
