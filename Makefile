# make demo   the main job on generated data        make test   lint and tests
# VENV=DIR    where the environment is made (.venv)   PYTHON=EXE  use an environment that exists instead
VENV ?= .venv

ifdef PYTHON
python := $(PYTHON)
ready := check
else
python := $(abspath $(VENV))/bin/python
ready := $(VENV)/.ready
endif

.PHONY: help demo test test-slurm test-gpu bench bench-gpu setup check

help:
	@echo 'make demo   train and evaluate SecViT on generated data, on the CPU'
	@echo 'make test   lint and tests'
	@echo 'make test-slurm  the launchers on a Slurm of one node, which is installed (as root), started and stopped'
	@echo 'make test-gpu  what needs a GPU; skipped with one line where there is none'
	@echo 'make bench  measure docs/performance.md again (about 15 minutes)'
	@echo 'make bench-gpu  measure the table of docs/performance/ for the GPU of this machine (hours; goes on where it stopped)'
	@echo 'make setup  only make the environment that the two need'
	@echo 'VENV=DIR    where the environment is made (default .venv)'
	@echo 'PYTHON=EXE  use the environment of this interpreter, which has OpenMMLab and mmsec[dev] already'

demo: $(ready)
	$(python) tools/demo.py

test: $(ready)
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m pytest -rs

test-slurm: $(ready)
	$(python) -m pytest -rs tests/slurm --override-ini=norecursedirs=

# pytest's code 5 means that nothing ran: there is no GPU, and it has said so.
test-gpu: $(ready)
	$(python) -m pytest -rs tests/gpu || [ $$? -eq 5 ]

bench: $(ready)
	$(python) tools/analysis_tools/benchmark_all.py

bench-gpu: $(ready)
	$(python) tools/analysis_tools/benchmark_gpu.py

setup: $(ready)

check:
	@$(python) -c 'import mmcv._ext, mmdet, mmseg, mmsec, pytest, ruff' || { \
	  echo "$(python) lacks something; in an environment with OpenMMLab: $(python) -m pip install -e '.[dev]'" >&2; exit 1; }

$(VENV)/.ready: tools/setup_env.sh requirements/constraints.txt pyproject.toml setup.py
	tools/setup_env.sh $(VENV)
	@touch $@
