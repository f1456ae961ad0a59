# SPDX-License-Identifier: Apache-2.0
# The front door. "make" or "make help" lists what can be done; every target sets up .venv as far
# as it needs, once. Variables are given behind the target: make demo MODEL=mask2former

VENV ?= .venv
# An interpreter of your own choice: make demo PYTHON=/usr/bin/python3.12
PYTHON ?=
OUTPUT ?= demo_output

# Values go to the recipes through the environment, so that paths may hold blanks and quotes.
export MODEL BAG IMAGES TOPIC OUTPUT PYTHON VENV HOST PORT PAGE_PORT
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# What a sourced ROS installation sets would be mixed with the ROS 2 in .venv.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH
unexport RMW_IMPLEMENTATION ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION

COMMA := ,
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
# Where the package says what it needs.
NEEDS := setup.py pyproject.toml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.PHONY: help demo web study benchmark test faults soak lint format scenes readme clean distclean

help:  ## List the targets
	@echo 'Usage: make TARGET [NAME=value ...]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo '  for demo:  MODEL=mask2former    a bundled model, a checkpoint folder, or a hub id'
	@echo '             BAG=drive.mcap       a bag with a camera (TOPIC=/name if it has several)'
	@echo '             IMAGES=folder        your own images'
	@echo '             OUTPUT=folder        for the results ($(OUTPUT))'
	@echo '  for web:   PORT=8000 PAGE_PORT=8501, HOST=0.0.0.0 lets other machines in,'
	@echo '             ARGS="--model unet"  goes to the service; ARGS=--help tells what there is'
	@echo '  for study: ARGS=--overwrite     start anew instead of going on'
	@echo '  for benchmark: ARGS=--quick     minutes instead of an hour; ARGS=--help tells what there is'
	@echo '  for all:   PYTHON=python3.12    the interpreter that .venv is made of'

demo: $(STAMPS)/demo  ## Send a street through the node; results in demo_output/
	@$(BIN)/python -m segmentation_node.demo --output "$$OUTPUT" \
	  $${MODEL:+--model "$$MODEL"} $${BAG:+--bag "$$BAG"} \
	  $${IMAGES:+--images "$$IMAGES"} $${TOPIC:+--topic "$$TOPIC"}

web: $(STAMPS)/web  ## Serve the models over HTTP and as a page in a browser
	@$(BIN)/python -m segmentation_node.web $${HOST:+--host "$$HOST"} \
	  $${PORT:+--port "$$PORT"} $${PAGE_PORT:+--page-port "$$PAGE_PORT"} -- $(ARGS)

study: $(STAMPS)/training  ## Search, train, score and compare three small models; runs/study/
	@$(BIN)/python -m training.study --output runs/study $(ARGS)

benchmark: $(STAMPS)/benchmark  ## Measure how fast all of it is here; benchmark_output/
	@$(BIN)/benchmark $(ARGS)

test: $(STAMPS)/test  ## Run all tests (ARGS="-k name" for some of them)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

faults: $(STAMPS)/test  ## Send faults of all kinds at real processes; faults_output/ (ARGS=--quick)
	$(BIN)/python test/faults.py $(ARGS)

soak: $(STAMPS)/test  ## Run the node under overload, look for what grows; soak_output/ (ARGS="--hours 2")
	$(BIN)/python test/soak.py $(ARGS)

lint: $(STAMPS)/test  ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMPS)/test  ## Bring the code into its style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

scenes: $(STAMPS)/demo  ## Render a street in the layout of Cityscapes into data/scenes_demo/
	$(BIN)/python -m training.scenes data/scenes_demo --overwrite

readme: $(STAMPS)/demo  ## Bring tables, figures and picture of README.md up to date
	$(BIN)/python -m segmentation_node.demo --output "$$OUTPUT" $${MODEL:+--model "$$MODEL"}
	$(BIN)/python -m segmentation_node.ros.reference README.md --figures "$$OUTPUT"/figures.txt
	$(BIN)/python -m segmentation_node.demo.readme_picture "$$OUTPUT"/segmentation.mcap \
	  resource/readme/street.jpg

clean:  ## Remove results and caches; .venv, data/ and runs/ stay
	rm -rf demo_output benchmark_output faults_output soak_output build install log dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv, too
	rm -rf $(VENV)

# PyTorch, several gigabytes, is for GPUs; on a CPU the bundled models run without it.
GPU := $(if $(wildcard /proc/driver/nvidia/version),torch)

# One stamp per set of extras. A later change of what the package needs installs it anew.
$(STAMPS)/demo: EXTRAS := ros,demo$(GPU:%=$(COMMA)%)
# With ROS where there is one, for the live view.
$(STAMPS)/web: EXTRAS := $(if $(filter Linux/x86_64,$(shell uname -s)/$(shell uname -m)),ros$(COMMA))web$(GPU:%=$(COMMA)%)
$(STAMPS)/training: EXTRAS := training
$(STAMPS)/benchmark: EXTRAS := ros,torch
$(STAMPS)/test: EXTRAS := ros,demo,training,web,test
$(STAMPS)/demo $(STAMPS)/web $(STAMPS)/training $(STAMPS)/benchmark $(STAMPS)/test: $(STAMPS)/venv $(NEEDS)
	@echo 'Installing the package with [$(EXTRAS)] into $(VENV); the first time takes minutes'
	@[ -z '$(findstring ros,$(EXTRAS))' ] || $(BIN)/python -c 'import platform, sys; \
	  sys.exit(("Linux", "x86_64") != (platform.system(), platform.machine()))' || { \
	  echo 'make: ROS 2 comes from PyPI for Linux on x86-64 only, and this is' \
	    "$$(uname -sm). With a ROS 2 installation, build with colcon instead: see README.md" >&2; \
	  exit 1; }
	@$(BIN)/python -m pip install -e '.[$(EXTRAS)]'
	@touch $@

$(STAMPS)/venv:
	@if [ -x $(BIN)/python ]; then mkdir -p $(STAMPS) && touch $@; exit; fi; \
	found=; \
	for python in $${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do \
	  command -v "$$python" > /dev/null || continue; \
	  seen="$$seen $$python ($$("$$python" -V 2>&1 | head -n 1))"; \
	  if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))'; then \
	    found="$$python"; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "make: no Python 3.10 to 3.14 found, only$${seen:- none}; install one," \
	    'or name it: make demo PYTHON=/path/to/python3' >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2> /dev/null; then \
	  version=$$("$$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "make: $$found cannot make virtual environments; install its venv module" \
	    "(Debian, Ubuntu: sudo apt install python$$version-venv)" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$found ($$("$$found" -V 2>&1))"; \
	"$$found" -m venv $(VENV) && mkdir -p $(STAMPS) && touch $@
