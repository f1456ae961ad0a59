# SPDX-License-Identifier: Apache-2.0
# "make" or "make help" lists the targets. Each target first installs what it needs into .venv,
# once. Give variables after the target: make demo MODEL=mask2former

VENV ?= .venv
# Interpreter for .venv: make demo PYTHON=/usr/bin/python3.12
PYTHON ?=
OUTPUT ?= demo_output

# Recipes read these from the environment, so that paths may contain spaces and quotes.
export MODEL BAG IMAGES TOPIC OUTPUT PYTHON VENV HOST PORT PAGE_PORT
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# The settings of a sourced ROS installation would mix it with the ROS 2 in .venv.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH
unexport RMW_IMPLEMENTATION ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION

COMMA := ,
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
# Files that list the dependencies.
NEEDS := setup.py pyproject.toml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.PHONY: help demo web study benchmark test faults soak lint format scenes readme viewing docs clean distclean

help:  ## List the targets
	@echo 'Usage: make TARGET [NAME=value ...]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo '  for demo:  MODEL=mask2former    bundled model, checkpoint folder, or hub id'
	@echo '             BAG=drive.mcap       bag with a camera (TOPIC=/name if it has several)'
	@echo '             IMAGES=folder        folder of images'
	@echo '             OUTPUT=folder        where results are written ($(OUTPUT))'
	@echo '  for web:   PORT=8000 PAGE_PORT=8501, HOST=0.0.0.0 for access from other machines'
	@echo '             ARGS="--model unet"  options of the service; ARGS=--help lists them'
	@echo '  for study: ARGS=--overwrite     restart instead of resuming'
	@echo '  for benchmark: ARGS=--quick     minutes instead of an hour; ARGS=--help lists all options'
	@echo '  for all:   PYTHON=python3.12    interpreter for .venv'

demo: $(STAMPS)/demo  ## Run the node on a street; results in demo_output/
	@$(BIN)/python -m segmentation_node.demo --output "$$OUTPUT" \
	  $${MODEL:+--model "$$MODEL"} $${BAG:+--bag "$$BAG"} \
	  $${IMAGES:+--images "$$IMAGES"} $${TOPIC:+--topic "$$TOPIC"}

web: $(STAMPS)/web  ## Serve the models over HTTP and on a web page
	@$(BIN)/python -m segmentation_node.web $${HOST:+--host "$$HOST"} \
	  $${PORT:+--port "$$PORT"} $${PAGE_PORT:+--page-port "$$PAGE_PORT"} -- $(ARGS)

study: $(STAMPS)/training  ## Search, train, score and compare three small models; results in runs/study/
	@$(BIN)/python -m training.study --output runs/study $(ARGS)

benchmark: $(STAMPS)/benchmark  ## Measure speed and accuracy on this machine; results in benchmark_output/
	@$(BIN)/benchmark $(ARGS)

test: $(STAMPS)/test  ## Run all tests (ARGS="-k name" for some of them)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

faults: $(STAMPS)/test  ## Test real processes with faults of all kinds (ARGS=--quick); results in faults_output/
	$(BIN)/python test/faults.py $(ARGS)

soak: $(STAMPS)/test  ## Run the node under overload and check for leaks (ARGS="--hours 2")
	$(BIN)/python test/soak.py $(ARGS)

lint: $(STAMPS)/test  ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMPS)/test  ## Fix the style of the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

scenes: $(STAMPS)/demo  ## Render a street in the layout of Cityscapes into data/scenes_demo/
	$(BIN)/python -m training.scenes data/scenes_demo --overwrite

readme: $(STAMPS)/demo  ## Update the tables, figures and picture of README.md and docs/
	$(BIN)/python -m segmentation_node.demo --output "$$OUTPUT" $${MODEL:+--model "$$MODEL"}
	$(BIN)/python docs/reference_tables.py --figures "$$OUTPUT"/figures.txt
	$(BIN)/python docs/readme_picture.py "$$OUTPUT"/segmentation.mcap resource/readme/street.jpg

viewing: $(STAMPS)/test  ## Update the picture of Rerun's viewer in docs/
	$(BIN)/segment_bag resource/demo/street.mcap --limit 40 --output "$$OUTPUT"/viewing.mcap \
	  --rrd "$$OUTPUT"/viewing.rrd --overwrite
	$(BIN)/python docs/rerun_picture.py "$$OUTPUT"/viewing.rrd docs/rerun.jpg

docs: $(STAMPS)/docs  ## Build the manual; results in site/
	$(BIN)/mkdocs build --strict

clean:  ## Remove results and caches, but not .venv, data/ and runs/
	rm -rf demo_output benchmark_output faults_output soak_output site build install log dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv, too
	rm -rf $(VENV)

# PyTorch takes several gigabytes and is for GPUs; the bundled models do not need it on a CPU.
GPU := $(if $(wildcard /proc/driver/nvidia/version),torch)

# One stamp per set of extras; it is out of date when the dependencies change.
$(STAMPS)/demo: EXTRAS := ros,demo$(GPU:%=$(COMMA)%)
# With ROS, for the live view, on the platform that PyPI has it for.
$(STAMPS)/web: EXTRAS := $(if $(filter Linux/x86_64,$(shell uname -s)/$(shell uname -m)),ros$(COMMA))web$(GPU:%=$(COMMA)%)
$(STAMPS)/training: EXTRAS := training
$(STAMPS)/benchmark: EXTRAS := ros,torch,benchmark
$(STAMPS)/test: EXTRAS := ros,demo,training,web,fleet,test
$(STAMPS)/docs: EXTRAS := docs
$(addprefix $(STAMPS)/,demo web training benchmark test docs): $(STAMPS)/venv $(NEEDS)
	@echo 'Installing the package with [$(EXTRAS)] into $(VENV); the first time takes minutes'
	@[ -z '$(findstring ros,$(EXTRAS))' ] || $(BIN)/python -c 'import platform, sys; \
	  sys.exit(("Linux", "x86_64") != (platform.system(), platform.machine()))' || { \
	  echo 'make: ROS 2 comes from PyPI for Linux on x86-64 only, and this is' \
	    "$$(uname -sm). With a ROS 2 installation, build with colcon instead: see docs/ros-interface.md" >&2; \
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
