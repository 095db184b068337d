# Two commands do everything on a fresh machine (Python 3.11+, pip, make): `make paper` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROFILE ?= toy
export UV_COMPILE_BYTECODE = 1

.PHONY: env paper quick test docs manuscript numbers learn metadata examples clean lock readme help

help:
	@echo "make paper   published figures and audit, then the whole toy grid (PROFILE=lite for the real miniature)"
	@echo "make test    all tests: notebooks and tests/; make quick: those that take less than three minutes together"
	@echo "make manuscript   the paper, examined again, as a PDF from finished records (make numbers: its slow sentences anew)"
	@echo "make examples  figures/examples: images of open datasets, where they are at hand (CATSCANS_DATA)"
	@echo "make metadata     what archives read: RO-Crate and Croissant files"
	@echo "make env     only set up .venv     make docs   the site     make lock   renew requirements.lock"

env: $(STAMP)

# uv installs in seconds and byte-compiles (TensorFlow imports three times faster); where it cannot be had, pip does the same slower
$(STAMP): requirements.lock settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("catscans needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -m pip install -q uv 2>/dev/null && $(BIN)/uv --version >/dev/null 2>&1; then \
	  echo "installing with uv"; \
	  $(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock && \
	  $(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e . ; \
	else \
	  echo "installing with pip (uv is not available)"; \
	  $(BIN)/python -m pip install -q --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install -q --no-deps -e . ; \
	fi
	@touch $@

paper: env
	@$(BIN)/catscans run --profile published
	@$(BIN)/catscans run --profile $(PROFILE)

# tests/conftest.py says what a worker takes together, and begins with what takes longest
PYTEST = $(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test: env
	@$(PYTEST) --durations 20 tests

# what a developer runs at every step: at most three minutes on two cores
quick: env
	@$(PYTEST) -m "not slow" -q tests

# nbdev-proc-nbs would install Quarto first, which nothing here needs
docs: env
	rm -rf _proc _site jupyter_execute
	$(BIN)/python -c "from nbdev.serve import proc_nbs; proc_nbs()"
	$(BIN)/python docs/pages.py
	cp -r docs/conf.py docs/contents.md figures _proc/
	$(BIN)/sphinx-build -q -b html _proc _site
	@$(BIN)/python docs/links.py _site
	@echo "the site is in _site/index.html"

readme: env
	$(BIN)/python -c "from catscans.figures.readme import refresh; refresh('nbs/index.ipynb')"
	@$(BIN)/python -m nbconvert --log-level WARN --to markdown --output-dir . --output README nbs/index.ipynb

# every number in it is read from a record; an unknown or stale one stops the build
manuscript: env
	@$(BIN)/python -m catscans.manuscript

numbers: env
	@$(BIN)/python -m catscans.manuscript numbers

# figures/examples: images of open datasets (CATSCANS_DATA says where they lie); without them nothing is drawn, and a line says so
examples: env
	@$(BIN)/python -c "from catscans.figures.design import save_examples; save_examples()"

# the table that `rank` learns from, anew from the records of the study with few images
learn: env
	@$(BIN)/python -m catscans.recommend.transfers

# for an archive: RO-Crates of results/ and figures/, a Croissant file per dataset; none of them is kept in git
DATE ?= $(shell date +%F)
metadata: env
	@$(BIN)/python -c "import sys; from catscans.manuscript.metadata import write_metadata; print(len(write_metadata(sys.argv[1])), 'files')" $(DATE)

lock:
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile -q pyproject.toml --extra paper --extra dev --extra imagenet --extra safetensors --extra manuscript --universal --generate-hashes --no-emit-index-url --no-header -o requirements.lock

clean:
	rm -rf work results/toy figures/toy _site _proc jupyter_execute
