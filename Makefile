# Shortcuts only; `make help` lists them. Everything is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONTRACT := proto/limiter/v1/limiter.proto
ENVOY := $(wildcard proto/limiter/envoy/v3/*.proto)
READY := $(VENV)/.ready

.PHONY: help install run test lint types unit demo demo-envoy run-envoy proto bench bench-envoy bench-books constraints clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(READY) ## install Limiter and its development tools into .venv

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Limiter needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

run: $(READY) ## start a sidecar with the embedded store and the example policy
	@$(BIN)/limiter serve --policy deploy/policy.example.yaml --example-key acme/search/bot

test: lint types unit ## lint, check types, run all tests

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

demo: $(READY) ## replay real traffic against ceilings that it must hit, start to finish
	@$(BIN)/python -m limiter.cli.demo

demo-envoy: $(READY) ## the OpenAI and Anthropic SDKs through a real Envoy, a provider's bill beside Limiter's books
	@$(BIN)/python -m deploy.demo.envoy_demo

run-envoy: $(READY) ## start Envoy, a sidecar and a stand-in provider; prints a key and a call to begin with
	@$(BIN)/python -m deploy.demo.envoy_run

proto: $(READY) ## generate limiter/v1 and limiter/envoy/v3
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. --grpc_python_out=. $(CONTRACT)
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. $(ENVOY)

bench: $(READY) ## measure; writes a table and JSON
	@$(BIN)/python -m bench.run
	@$(BIN)/python -m bench.sizing

bench-envoy: $(READY) ## measure what Limiter adds to Envoy; writes tables and JSON
	@$(BIN)/python -m bench.envoy

bench-books: $(READY) ## measure the drain, reports over ten million calls, ledger verify; writes tables and JSON
	@$(BIN)/python -m bench.books
	@$(BIN)/python -m bench.books_report --rows 10000000
	@$(BIN)/python -m bench.books_verify

constraints: ## refresh the exact versions in constraints.txt
	rm -rf build/fresh && $(PYTHON) -m venv build/fresh
	build/fresh/bin/python -m pip install --quiet --upgrade pip
	build/fresh/bin/python -m pip install --quiet --editable . --group dev
	build/fresh/bin/python -m pip freeze --all --exclude-editable | grep -v '@' > constraints.txt

clean: ## remove what the targets made; keeps data/
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
