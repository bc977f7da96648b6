# make demo   the main job on generated data        make test   style, types and tests
# VENV=DIR    where the environment is made (.venv)   PYTHON=EXE  use an environment that exists instead
VENV ?= .venv

ifdef PYTHON
python := $(PYTHON)
ready := check
demo_ready := check-hosts
docs_ready := check-docs
else
python := $(abspath $(VENV))/bin/python
ready := $(VENV)/.ready
demo_ready := $(ready)
docs_ready := $(VENV)/.docs
endif

.PHONY: help demo lint test test-slurm test-stock test-gpu bench bench-gpu tune-gpu evidence docs tables setup check check-hosts check-docs

help:
	@echo 'make demo   train and evaluate SecViT on generated data, on the CPU'
	@echo 'make test   make lint, then the tests'
	@echo 'make lint   style and types: ruff and mypy'
	@echo 'make test-slurm  the launchers on a Slurm of one node, which is installed (as root), started and stopped'
	@echo 'make test-stock  the same rooms and both hosts on stock OpenMMLab and torch 2.1, in an environment of its own (2 GB)'
	@echo 'make test-gpu  what needs a GPU, skipped with one line where there is none; and every Triton kernel and tile compiled'
	@echo 'make bench  measure docs/performance.md again (about 15 minutes)'
	@echo 'make bench-gpu  measure on a GPU what tune-gpu does not: detectors, the optimizer, other precisions (goes on where it stopped)'
	@echo 'make tune-gpu  decide which kernels this kind of GPU runs, and measure them (three times nine minutes; goes on where it stopped)'
	@echo 'make evidence  train what docs/evidence.md compares on real images (many hours; goes on where it stopped)'
	@echo 'make docs   these pages and the docstrings as a site, in docs/_build'
	@echo 'make tables  the tables of models in README and docs, from the metafiles beside the configs'
	@echo 'make setup  only make the environment that the two need'
	@echo 'VENV=DIR    where the environment is made (default .venv)'
	@echo 'PYTHON=EXE  use the environment of this interpreter, which has OpenMMLab and mmsec[dev,onnx] already'

demo: $(demo_ready)
	$(python) tools/demo.py

lint: $(ready)
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy

# A process for each core, eight at most; each computes with one thread.
test: lint
	$(python) -m pytest -rs --numprocesses auto --maxprocesses 8 --dist worksteal

test-slurm: $(ready)
	$(python) -m pytest -rs tests/slurm --override-ini=norecursedirs=

# What needs a newer torch is skipped there and says so.
test-stock: $(VENV)-stock/.ready
	$(VENV)-stock/bin/python -m pytest -rs --numprocesses auto --maxprocesses 8 --dist worksteal --override-ini=norecursedirs= \
	  tests/stock tests/ops tests/models tests/engine tests/test_configs.py tests/test_other_hosts.py

# pytest's code 5 means that nothing ran: there is neither a GPU nor Triton, and it has said so.
test-gpu: $(ready)
	MMSEC_ALL_VARIANTS=1 $(python) -m pytest -rs tests/gpu tests/ops/gpu/test_compilation.py || [ $$? -eq 5 ]

bench: $(ready)
	$(python) tools/analysis_tools/benchmark.py all

docs: $(docs_ready)
	rm -rf docs/_api docs/_build
	$(python) -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs . docs/_build
	@echo 'open docs/_build/index.html'

tables: $(ready)
	$(python) tools/analysis_tools/model_index.py --tables

bench-gpu: $(ready)
	$(python) tools/analysis_tools/benchmark.py gpu

tune-gpu: $(ready)
	$(python) tools/analysis_tools/tune_gpu.py

evidence: $(ready)
	$(python) projects/evidence/evidence.py
	$(python) tools/analysis_tools/model_index.py --tables

setup: $(ready)

check-hosts:
	@$(python) -c 'import mmcv._ext, mmdet, mmseg, mmsec' || { \
	  echo "$(python) lacks something; in an environment with OpenMMLab: $(python) -m pip install -e ." >&2; exit 1; }

check:
	@$(python) -c 'import ipykernel, mmcv._ext, mmdet, mmseg, mmsec, mypy, nbclient, onnxruntime, onnxscript, pytest, ruff, xdist' || { \
	  echo "$(python) lacks something; in an environment with OpenMMLab: $(python) -m pip install -e '.[dev,onnx]'" >&2; exit 1; }

check-docs: check
	@$(python) -c 'import furo, myst_parser, sphinx' || { \
	  echo "$(python) cannot build the site: $(python) -m pip install -e '.[docs]'" >&2; exit 1; }

$(VENV)/.ready: tools/setup_env.sh requirements/constraints.txt pyproject.toml setup.py
	tools/setup_env.sh $(VENV)
	@touch $@

$(VENV)-stock/.ready: tools/setup_env.sh requirements/stock.txt pyproject.toml setup.py
	STACK=stock tools/setup_env.sh $(VENV)-stock
	@touch $@

$(VENV)/.docs: $(VENV)/.ready
	$(python) -m pip install --quiet --constraint requirements/constraints.txt --no-build-isolation --editable '.[docs]'
	@touch $@
