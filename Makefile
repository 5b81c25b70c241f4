# make lab       set everything up and open the lessons
# make test      set everything up and run every check
# make coverage  say which lines no test runs
# make notebooks execute the lessons and store their outputs
# make models    train the small models again (IMDB=folder or Hub id)
# make docs      write the lessons and all pages as a static site to build/site
# make mutants   put faults into the mathematics and see whether the tests notice (half an hour)
# make texts     bring catalogue, manifest, glossary page and API page up to date

PYTHON ?= python3
VENV ?= .venv
LAB_ARGS ?=
PIP_ARGS ?=
IMDB ?= stanfordnlp/imdb

BIN := $(VENV)/bin
READY := $(VENV)/.ready
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
LONGEST := $(foreach lesson,05 03 07 06,$(wildcard notebooks/$(lesson)_*.ipynb))
# a tracer makes what is timed slower than it is
TIMED := milliseconds or takes_less_than or in_time
ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

export HF_HUB_DISABLE_TELEMETRY := 1
# what Python has compiled is kept, whatever the machine says: a hundred processes import the same modules
unexport PYTHONDONTWRITEBYTECODE
# glibc hands large buffers back to the system at every step and asks for them again; keeping them is a third faster
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 17179869184
# one heap for all threads: with several, each grows by itself, and a kernel's memory is never flat
export MALLOC_ARENA_MAX := 1

.PHONY: lab test coverage docs mutants notebooks models texts format clean

# no question about news, no log but warnings, and kernels that are spoken to in cipher
lab: export JUPYTER_CONFIG_PATH := $(CURDIR)/tools/jupyter
lab: $(READY)
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 $(ROOT) --LabApp.news_url=None \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
		--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB_ARGS)

test coverage notebooks: export HF_HUB_OFFLINE := 1
test coverage notebooks: export COURSE_DEVICE := cpu
test coverage notebooks: export COURSE_LANGUAGE := en
# two processes of one thread each are through in half the time of one with two; the longest files go first
test coverage: export OMP_NUM_THREADS := 1
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -p tests.nbval_plugin --nbval \
		--nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg $(LONGEST) $(NOTEBOOKS) tests

coverage: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov course_helpers --cov-report term:skip-covered \
		--cov-fail-under 90 -k "not ($(TIMED))" tests

docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs -d build/site-doctrees . build/site
	@echo "The site: build/site/index.html"

mutants: $(READY)
	$(BIN)/python -m pip install -q -c constraints.txt $(PIP_ARGS) -e '.[mutants]'
	$(BIN)/python tools/mutants.py build/mutants

notebooks: $(READY)
	$(BIN)/python tools/execute_notebooks.py $(NOTEBOOKS)

models: $(READY)
	$(BIN)/python -m pip install -q -c constraints.txt $(PIP_ARGS) -e '.[rebuild]'
	$(BIN)/python tools/train_small_models.py $(IMDB)

texts: $(READY)
	$(BIN)/python tools/make_catalogue.py
	$(BIN)/python tools/make_manifest.py
	$(BIN)/python tools/make_glossary.py
	$(BIN)/python tools/make_api.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

# compiling all that is installed takes as long as installing it, and most of it is never imported
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-compile -c constraints.txt $(PIP_ARGS) -e '.[test]'
	@touch $(READY)
