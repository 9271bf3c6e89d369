# SPDX-License-Identifier: Apache-2.0
# Everything a person types. Parts bring their own targets in fragments beside their code.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PRESET ?= dev
-include tests/cluster/cluster.mk
-include scripts/build.mk
-include charts/deploy.mk

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'
