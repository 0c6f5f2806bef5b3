# Two commands do everything: `make demo` and `make test`. Both make .venv on their own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint format clean

demo: $(VENV)/.installed
	$(BIN)/srloss demo

# Tests that start a few processes at most share the processors, beside those on SLURM, which mostly wait. Of those that start
# Ray no more than two run at a time. What takes longest comes first, so that nobody waits for it in the end.
SLURM := tests/e2e/test_cluster_slurm.py
SHARING := $(addprefix tests/integration/test_, recipes.py ladder.py ranks.py engines.py remote.py upscale.py launchers.py \
  wandb_contract.py wandb_server_standin.py) \
  $(addprefix tests/e2e/test_, pack_killed.py report_in_browser.py)
TOGETHER := --dist loadfile --no-loadscope-reorder
# Each of the hundreds of processes that they start would compile the packages anew.
test test-slow: export PYTHONDONTWRITEBYTECODE =
test: lint
	@log=$$(mktemp); $(BIN)/python -m pytest $(SLURM) --durations=8 >$$log 2>&1 & slurm=$$!; \
	$(BIN)/python -m pytest $(SHARING) tests/unit -n auto $(TOGETHER) --durations=8; others=$$?; \
	wait $$slurm; code=$$?; cat $$log; rm $$log; [ $$others = 0 ] && [ $$code = 0 ]
	$(BIN)/python -m pytest tests/e2e/test_readme.py tests/e2e tests/integration -n 2 $(TOGETHER) --durations=25 $(SHARING:%=--ignore=%) --ignore=$(SLURM)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "srloss needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing srloss into $(VENV): torch, Ray and the rest, about 7 GB; this takes a few minutes, once."
	$(BIN)/python -m pip install --quiet -e ".[fast,features]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing srloss and its development tools into $(VENV): about 7 GB; this takes a few minutes, once."
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed
