# SPDX-License-Identifier: Apache-2.0
# All targets run in $(VENV), which `make .venv` creates. Variables: make demo ROLLOUTS=10 VIEW=1, make test ARGS="-k sim",
# make test ROS=jazzy, make test CONSTRAINTS=config/constraints/ubuntu-24.04.txt (docs/distributions.md).

# rclpy: of the sourced ROS 2 distribution, else PyPI's wheels of ROS=kilted or ROS=jazzy, which exclude each other.
ROS ?= $(or $(ROS_DISTRO),kilted)
WHEELS = $(if $(ROS_DISTRO),,$(WHEELS_OF_$(ROS)))
WHEELS_OF_kilted = ros
WHEELS_OF_jazzy = ros-jazzy

# Versions for pip: those of a sourced distribution's Ubuntu, whose own binaries need them.
CONSTRAINTS ?= $(addprefix config/constraints/,$(addsuffix .txt,$(UBUNTU_OF_$(ROS_DISTRO))))
UBUNTU_OF_humble = ubuntu-22.04
UBUNTU_OF_jazzy = ubuntu-24.04
UBUNTU_OF_kilted = ubuntu-24.04
UBUNTU_OF_lyrical = ubuntu-26.04

# One environment for each choice that differs from the defaults: .venv, .venv-jazzy, .venv-ubuntu-24.04 ...
VENV ?= $(subst $() ,-,$(strip .venv $(if $(ROS_DISTRO),,$(filter-out kilted,$(ROS)) $(basename $(notdir $(CONSTRAINTS))))))
PYTHON ?= python3
ROLLOUTS ?= 2
VIEW ?=
ARGS ?=

# Without an NVIDIA GPU: the release behind the figures in this repository. If the package index only has CUDA builds of
# it, use a CPU build: make .venv TORCH="torch --index-url <the CPU index of PyTorch>"
TORCH ?= $(if $(shell nvidia-smi -L 2>/dev/null),torch,torch==2.13.0)

EXTRAS ?= $(addsuffix $(comma),$(WHEELS))sim,train,dev
VENV_OPTIONS ?= $(if $(ROS_DISTRO),--system-site-packages)

# Libraries for off-screen OpenGL and OpenCV, and the Debian packages with them.
LIBRARIES = libEGL.so.1 libGL.so.1 libglib-2.0.so.0
DEBIAN_PACKAGES = libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglib2.0-0

comma := ,
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check --no-input -q $(addprefix -c ,$(CONSTRAINTS))
STAMP = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help .venv system demo loop test nightly lint clean

help: ## list the targets
	@sed -n 's/^\([a-z.]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

.venv: $(STAMP) ## create the Python environment in $(VENV)

$(STAMP): setup.py Makefile $(CONSTRAINTS)
	@$(if $(or $(WHEELS),$(filter $(ROS_DISTRO),$(ROS))),,echo "ROS must be jazzy or kilted, or the sourced distribution; got $(ROS)$(addprefix $() with ,$(ROS_DISTRO))"; exit 1)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "vla_ros needs Python 3.10 or newer; choose one with: make .venv PYTHON=...")'
	@$(if $(filter ros ros-jazzy,$(subst $(comma), ,$(EXTRAS))),$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 14) and "the rclpy wheels on PyPI support Python 3.10 to 3.13; choose one with: make .venv PYTHON=..., or source a ROS 2 distribution")')
	@echo "creating $(VENV): takes about a minute and 1.8 GB"
	@$(MAKE) --no-print-directory system
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV_OPTIONS) $(VENV)
	@touch $(VENV)/COLCON_IGNORE
	@$(if $(WHEELS),,$(VENV)/bin/python -c 'import cv2' || { echo "OpenCV is missing: sudo apt-get install python3-opencv"; exit 1; })
	@$(if $(or $(findstring index,$(TORCH)),$(shell nvidia-smi -L 2>/dev/null)),,echo "installing $(TORCH) without a GPU; if this downloads CUDA packages (2 GB), press Ctrl-C and run"; \
	    echo "      make .venv TORCH='$(TORCH) --index-url <the CPU index, see Get Started on pytorch.org>'")
	@$(PIP) $(TORCH)
	@$(PIP) -e '.[$(EXTRAS)]'
	@touch $@

system:
	@missing=; for library in $(LIBRARIES); do \
	    $(PYTHON) -c "import ctypes; ctypes.CDLL('$$library')" 2>/dev/null || missing="$$missing $$library"; done; \
	test -z "$$missing" && exit 0; \
	if test "$$(id -u)" = 0; then root=; elif sudo -n true 2>/dev/null; then root=sudo; else root=none; fi; \
	if test "$$root" != none && command -v apt-get >/dev/null; then \
	    echo "installing$$missing ($(DEBIAN_PACKAGES))"; \
	    $$root apt-get update -qq && \
	    $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN_PACKAGES) >/dev/null && exit 0; fi; \
	echo "note: the simulated cameras need$$missing."; \
	echo "      On Debian and Ubuntu: sudo apt-get install $(DEBIAN_PACKAGES)"

demo: $(STAMP) ## run the shipped policy on the simulated arm over ROS 2 (ROLLOUTS=2, VIEW=1 for a window)
	$(VENV)/bin/vla demo --rollouts $(ROLLOUTS) $(if $(VIEW),--view)

loop: $(STAMP) ## teach the policy a new task from recorded bags, and evaluate it before and after
	$(VENV)/bin/vla loop

# mypy reads the libraries of the default environment: other versions have other types.
test: $(if $(ROS_DISTRO)$(filter-out .venv,$(VENV)),$(STAMP),lint) ## run the linters and the tests (ARGS="-m 'not slow'" for the quick ones)
	$(VENV)/bin/python -m pytest $(ARGS)

nightly: $(STAMP) ## for an idle machine: every injected fault over real DDS, and a soak test of 10 minutes
	$(VENV)/bin/python -m pytest -m nightly $(ARGS)
	$(VENV)/bin/python benchmarks/soak.py --minutes 10

lint: $(STAMP) ## run ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean: ## remove the environment, caches and build products (keeps runs/)
	rm -rf $(VENV) build install log *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
