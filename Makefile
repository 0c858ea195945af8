# From a machine that has Python >= 3.11 and make to a built and tested book. `make` alone lists the commands.

PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS ?= $(wildcard book/*.ipynb)

# Committed outputs carry no progress bars, and a kernel starts without the debugger's warning.
export TQDM_DISABLE := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# Threads that wait sleep instead of spinning: on two busy cores PyTorch's small operations are several times faster.
export OMP_WAIT_POLICY := PASSIVE
# Chapters and tests live on what ships with the package: fail at once rather than wait for a network.
book test notebooks: export HF_HUB_OFFLINE := 1
book test notebooks: export HF_HUB_DISABLE_PROGRESS_BARS := 1

.DEFAULT_GOAL := help
.PHONY: help book test fuzz bench lab notebooks repository clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps lie inside .venv and are written last, so an interrupted installation is taken up again.
.venv/.book: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("The book needs Python 3.11 or newer, but $(PYTHON) is %d.%d. Name another one: make book PYTHON=python3.12" % sys.version_info[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing the package and what it needs into .venv (with PyTorch about 7 GB, some minutes)."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[book]'
	@mkdir -p .venv/etc/ipython
	@echo "c.IPKernelApp.log_level = 40  # errors; ipykernel 7.4 warns of sockets that never leave this machine" \
		> .venv/etc/ipython/ipython_kernel_config.py
	@touch $@

.venv/.test: .venv/.book tests/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	@touch $@

# A page that failed must be read again next time: Sphinx would not repeat its warnings.
book: .venv/.book ## install, execute the notebooks, build the pages
	@$(BIN)/python book/tools.py refresh
	@$(BIN)/jupyter-book build . -W -n --keep-going -q || { rm -rf _build/.doctrees; exit 1; }

test: book .venv/.test ## build the book, then lint, run the tests, execute every notebook again, visit every page
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m pytest --output=_build/test-results tests book \
		--nbval-lax --nbval-current-env --nbval-sanitize-with=tests/nbval.cfg \
		--nbval-cell-timeout=600 --nbval-kernel-startup-timeout=120

fuzz: .venv/.test ## 100,000 damaged and hostile inputs to everything that reads (a quarter of an hour; COUNT=3000 for less)
	@$(BIN)/python tests/fuzz.py --count $(or $(COUNT),100000)
	@$(BIN)/python tests/kills.py --count 100

bench: .venv/.book ## matching at the size of GPT-2 small, and beside other packages (run it alone)
	@$(BIN)/python benchmarks/weight_matching.py
	@$(BIN)/python benchmarks/peers.py
	@$(BIN)/python benchmarks/learned_matching.py

lab: .venv/.book ## open the chapters in JupyterLab
	@$(BIN)/jupyter lab book

notebooks: .venv/.book ## execute the chapters in place, to commit what they print (NOTEBOOKS=book/name.ipynb for one)
	@$(BIN)/python book/tools.py execute $(NOTEBOOKS)

repository: .venv/.book ## move the book's public address: make repository URL=https://github.com/owner/name
	@$(BIN)/python book/tools.py repository "$(URL)"

clean: ## remove everything that was built (.venv stays)
	rm -rf _build .pytest_cache .ruff_cache
