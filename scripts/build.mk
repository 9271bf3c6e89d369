# SPDX-License-Identifier: Apache-2.0
# Building, checking and packing. Everything runs in the Debian 13 build root (scripts/in-root), made when it is missing.
.PHONY: build unit asan tsan fuzz lint format bench bench-apps bench-dry-run model simulate test test-unit test-apiserver test-node test-cluster test-arm64 image clean
ARCHS ?= amd64 arm64
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60
# The test cluster needs its nodes' architectures alone.
deploy: ARCHS := amd64 $(if $(wildcard build/cluster/machines/a[0-9]*),arm64)
export JOBS

build: ## compile everything (PRESET=dev|release|asan|tsan)
	@scripts/build $(PRESET)

unit: ## the unit tests (PRESET as for build)
	@scripts/run-ctest unit $(PRESET)

asan: ## the unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/run-ctest unit asan

tsan: ## the unit tests under ThreadSanitizer
	@scripts/run-ctest unit tsan

fuzz: ## each fuzzer for FUZZ_SECONDS=60
	@scripts/fuzz $(FUZZ_SECONDS)

lint: ## formatting, clang-tidy, direction of includes, shell scripts
	@scripts/lint

format: ## format all C++ files
	@scripts/lint --fix

bench: ## all benchmarks, tables and build/bench/*.json (BENCH=short|full PARTS="stream pager migrations redis"; RUNS=5 CELLS= SERIES= BASELINE= FRESH=1)
	@CELLS=$(CELLS) RUNS=$(RUNS) SERIES=$(SERIES) BASELINE=$(BASELINE) FRESH=$(FRESH) tests/bench/run $(or $(BENCH),short) $(PARTS)

bench-apps: ## redis, a garbage-collected heap and PostgreSQL moved under load on the running test cluster, each checked (APPS=redis,... RUNS=10)
	@layout=$$(tests/bench/apps/image) && image=$$(tests/cluster/push-image "$$layout" apps:1) && tests/bench/apps_bench.py --image "$$image" \
	  $(if $(APPS),--apps $(APPS)) $(if $(RUNS),--runs $(RUNS)) --json build/bench/apps.json

bench-dry-run: ## what dry runs foretell against what then happens, thirteen workloads on the running test cluster (WORKLOADS=part,part RUNS=2)
	@tests/bench/dry_run_bench.py $(if $(WORKLOADS),--workloads "$(WORKLOADS)") $(if $(RUNS),--runs $(RUNS)) --json build/bench/dry-run.json

model: ## the hand-over in every order of faults, by spin (docs/design/handover-model.md)
	@tests/model/run

simulate: ## the hand-over's code under random faults, a million schedules and each deliberate error (SCHEDULES=1000000 SEED=1; docs/design/handover-simulator.md)
	@scripts/build $(PRESET) godwit-simulate
	@scripts/in-root build/$(PRESET)/tests/simulator/godwit-simulate --seed $(or $(SEED),1) --schedules $(or $(SCHEDULES),1000000)
	@scripts/in-root build/$(PRESET)/tests/simulator/godwit-simulate --seed $(or $(SEED),1) --mutation all

test: ## all tests: unit, chart, apiserver, node, cluster
	@scripts/test unit chart apiserver node cluster

test-unit: ## unit tests alone
	@scripts/test unit

test-apiserver: ## controller and client library against a real API server
	@scripts/test apiserver

test-node: ## dumps and restores with the real CRIU
	@scripts/test node

test-cluster: ## end to end, on the real test cluster
	@scripts/test cluster

test-arm64: ## end to end between two emulated ARM64 nodes (not part of `make test`)
	@scripts/test arm64

image: ## OCI images in build/images (ARCHS="amd64 arm64")
	@scripts/image $(ARCHS)

clean: ## remove what was built here; caches outside the checkout stay
	rm -rf --one-file-system build/dev build/release build/release-tests build/release-arm64 build/asan build/tsan build/fuzz build/images build/test
