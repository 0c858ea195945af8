# From a machine that has Python >= 3.11 and make to a built and tested book. `make` alone lists the commands.

PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS ?= $(wildcard book/*.ipynb)

# Committed outputs carry no progress bars, and a kernel starts without the debugger's warning.
export TQDM_DISABLE := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# Threads that wait sleep instead of spinning: on two busy cores PyTorch's small operations are several times faster.
export OMP_WAIT_POLICY := PASSIVE
# A notebook has one thread: two notebooks side by side share two cores better than one notebook with two threads.
book test test-fast notebooks: export OMP_NUM_THREADS := 1
# Chapters and tests live on what ships with the package: fail at once rather than wait for a network.
book test test-fast test-portable notebooks: export HF_HUB_OFFLINE := 1
book test test-fast test-portable notebooks: export HF_HUB_DISABLE_PROGRESS_BARS := 1
# As a processor does that has none of today's vector instructions, summed in another order.
test-portable: export ATEN_CPU_CAPABILITY := default
test-portable: export MKL_CBWR := COMPATIBLE
test-portable: export ONEDNN_MAX_CPU_ISA := SSE41
test-portable: export OMP_NUM_THREADS := 2

# Files that belong together run in one process, so each notebook in one kernel; the notebooks first: they take longest.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder
NBVAL := --nbval-lax --nbval-current-env --nbval-sanitize-with=tests/nbval.cfg \
	--nbval-cell-timeout=600 --nbval-kernel-startup-timeout=120

.DEFAULT_GOAL := help
.PHONY: help book test test-fast test-portable lint fuzz figures references bench lab notebooks repository clean
.PHONY: .venv/.book .venv/.test

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Both look whether there is anything to do: an environment can break without a file that make would look at.
.venv/.book:
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no $(PYTHON) here. Install Python 3.11 or newer (Debian:" \
		"apt-get install python3-venv), or name the one you have: make book PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" book/install.py book

.venv/.test: .venv/.book
	@"$(PYTHON)" book/install.py test

book: .venv/.book ## install, execute the notebooks whose code changed (EXECUTE=1: all of them), build the pages
	@$(BIN)/python book/tools.py book --execute $(if $(EXECUTE),all,changed)

lint: .venv/.test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

test: lint ## lint, build the pages from the outputs as committed, run all tests, execute every notebook, visit every page
	@$(BIN)/python book/tools.py book --execute none
	@$(PYTEST) --output=_build/test-results $(NBVAL) book tests

test-fast: lint ## three minutes at most: lint, and the tests that need no notebook and no browser
	@$(PYTEST) -m "not browser" tests

test-portable: .venv/.test ## execute every notebook in another processor's arithmetic, and compare what is checked
	@$(PYTEST) $(NBVAL) book

fuzz: .venv/.test ## 100,000 damaged and hostile inputs to everything that reads (a quarter of an hour; COUNT=3000 for less)
	@$(BIN)/python tests/fuzz.py --count $(or $(COUNT),100000)
	@$(BIN)/python tests/kills.py --count 100

bench: .venv/.book ## matching at the size of GPT-2 small, and beside other packages (run it alone)
	@$(BIN)/python benchmarks/weight_matching.py
	@$(BIN)/python benchmarks/peers.py
	@$(BIN)/python benchmarks/learned_matching.py

lab: .venv/.book ## open the chapters in JupyterLab
	@$(BIN)/jupyter lab book

figures: .venv/.book ## give the figures in the chapters today's scripts, without executing (NOTEBOOKS=book/name.ipynb for one)
	@$(BIN)/python book/tools.py figures $(NOTEBOOKS)

references: .venv/.book ## write the chapters' references from the bibliography (NOTEBOOKS=book/name.ipynb for one)
	@$(BIN)/python book/tools.py references $(NOTEBOOKS)

notebooks: .venv/.book ## execute the chapters in place, to commit what they print (NOTEBOOKS=book/name.ipynb for one)
	@$(BIN)/python book/tools.py execute $(NOTEBOOKS)

repository: .venv/.book ## move the book's public address: make repository URL=https://github.com/owner/name
	@$(BIN)/python book/tools.py repository "$(URL)"

clean: ## remove everything that was built (.venv stays)
	rm -rf _build .pytest_cache .ruff_cache
