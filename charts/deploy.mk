# SPDX-License-Identifier: Apache-2.0
.PHONY: deploy undeploy chart-check metrics-doc dashboard-picture

deploy: image ## build the images and install or upgrade Godwit in the test cluster
	@charts/deploy $(HELM_FLAGS)

undeploy: ## remove Godwit from the test cluster
	@charts/undeploy

chart-check: ## helm lint, the chart's tables of tests, promtool on the alert rules
	@tests/chart/check

metrics-doc: ## print docs/metrics.md anew from metrics/metrics.h
	@scripts/in-root cmake --preset $(PRESET) >/dev/null
	@scripts/in-root ninja -C build/$(PRESET) godwit-describe-metrics >/dev/null
	@scripts/in-root build/$(PRESET)/metrics/godwit-describe-metrics >docs/metrics.md

dashboard-picture: ## draw the dashboard from a Prometheus that scrapes the test cluster
	@tests/cluster/metrics/dashboard_picture
