# Everything here is thin: each target is one plain command that can be typed without make.
#   make demo [ONCE=1]             two devices, one server, real files, under ./demo/
#   make test [PYTHON=python3.13]  lint, types, the whole suite on real services, coverage
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The default interpreter is 3.11 (or python3, if new enough), in .venv; others have folders of their own.
PYTHON ?= python3.11
VENV := $(if $(filter python3.11,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python
UV ?= uv
export ONCE

.PHONY: help venv demo test test-long lint format bench simulate up down lock clean

help:
	@sed -n 's/^#   //p' Makefile
	@echo "also: venv lint format test-long simulate bench up down lock clean"

venv:
	@ops/make-venv $(VENV) $(PYTHON) $(if $(filter .venv,$(VENV)),python3)

demo: venv
	@$(RUN) -m ops.demo

test: venv
	@ops/check $(VENV)

test-long: venv
	@ops/check $(VENV) --long

lint: venv
	@ops/check $(VENV) --lint

format: venv
	@$(RUN) -m ruff check --fix-only --quiet .
	@$(RUN) -m ruff format --quiet .

bench: venv
	@$(RUN) -m ops.bench

simulate: venv
	@$(RUN) -m pytest -m simulation tests

# The scaled-out server in containers; README.md says how to run it without them.
up:
	docker compose up --build --detach

down:
	docker compose down

# Not part of any other target: needs uv (a wheel: pip install uv) and the package registry.
lock:
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--extra server --extra standalone --extra test --quiet --output-file requirements.lock pyproject.toml
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--extra server --constraint requirements.lock --quiet --output-file requirements-server.lock pyproject.toml

clean:
	rm -rf .venv .venv-* .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist *.egg-info
