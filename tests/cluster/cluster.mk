# SPDX-License-Identifier: Apache-2.0
# The test cluster: a real multi-node Kubernetes on this machine (tests/cluster/README.md).
.PHONY: cluster-up cluster-down cluster-status demo chaos chaos-lost-agent chaos-uncertain soak
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

chaos: ## faults at every step of the hand-over, on the running test cluster (TIMES=1 LANES=6 ONLY=word MUTATION= FRESH=1; docs/design/chaos.md)
	@tests/cluster/chaos/run chaos.py --times $(or $(TIMES),1) --lanes $(or $(LANES),6) $(if $(ONLY),--only "$(ONLY)") \
	  $(if $(MUTATION),--mutation $(MUTATION)) $(if $(FRESH),--fresh)

chaos-lost-agent: ## how long a frozen pod stands still when its agent is killed for good (RUNS=10)
	@tests/cluster/chaos/run lost_agent.py --runs $(or $(RUNS),10)

chaos-uncertain: ## the target's machine dies in the moment in which nobody can know which copy runs (ONLY=fence|word|return)
	@tests/cluster/chaos/run uncertain.py $(if $(ONLY),--only $(ONLY))

soak: ## a pod moved back and forth under load, and what grows by it, on what is deployed (RUNS=200)
	@tests/cluster/chaos/soak.py --runs $(or $(RUNS),200)
