# SPDX-License-Identifier: Apache-2.0
.PHONY: deploy undeploy test-chart metrics-doc preflight-doc dashboard-picture

deploy: image ## build the images and install or upgrade Godwit in the test cluster
	@charts/deploy $(HELM_FLAGS)

undeploy: ## remove Godwit from the test cluster
	@charts/undeploy

test-chart: ## helm lint, what the chart renders, promtool on the alert rules
	@scripts/test chart

metrics-doc: ## print docs/metrics.md anew from metrics/metrics.h
	@scripts/in-root cmake --preset $(PRESET) >/dev/null
	@scripts/in-root ninja -C build/$(PRESET) godwit-describe-metrics >/dev/null
	@scripts/in-root build/$(PRESET)/metrics/godwit-describe-metrics >docs/metrics.md

preflight-doc: ## print docs/preflight.md anew from agent/api/findings.h
	@scripts/in-root cmake --preset $(PRESET) >/dev/null
	@scripts/in-root ninja -C build/$(PRESET) godwit-describe-findings >/dev/null
	@scripts/in-root build/$(PRESET)/agent/preflight/godwit-describe-findings >docs/preflight.md

dashboard-picture: ## draw the dashboard from a Prometheus that scrapes the test cluster
	@tests/cluster/dashboard/picture
