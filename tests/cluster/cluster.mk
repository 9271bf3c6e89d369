# SPDX-License-Identifier: Apache-2.0
# The test cluster: a real multi-node Kubernetes on this machine (tests/cluster/README.md).
.PHONY: cluster-up cluster-down cluster-status demo
NODES ?= 2
ARM64 ?= 0

cluster-up: ## bring the test cluster up (NODES=2 ARM64=0)
	@NODES=$(NODES) ARM64=$(ARM64) tests/cluster/up

cluster-down: ## take the test cluster down; nothing of it is left
	@tests/cluster/down

cluster-status: ## what of the test cluster runs
	@tests/cluster/status

demo: ## from nothing to a pod that moved to another node, told step by step
	@tests/cluster/demo.sh
