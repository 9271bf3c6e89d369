# SPDX-License-Identifier: Apache-2.0
"""Dashboard and alert rules against a real Prometheus that scrapes the real thing."""

import sys
import time

from cluster import REPO, SYSTEM, ClusterTest, kubectl, on_node, wait
from prometheus import Prometheus, windows

sys.path.insert(0, str(REPO / "tests/chart"))
import promql  # noqa: E402


class MetricsTest(ClusterTest):
    def test_a_real_prometheus_finds_data_for_every_query(self):
        with Prometheus() as prometheus:
            began = time.monotonic()
            agents = set(kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split())
            controllers = set(kubectl("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=controller",
                                      "-o", "jsonpath={.items[*].metadata.name}").split())
            wait("all targets to be scraped", lambda: prometheus.targets() == dict.fromkeys(agents | controllers, "up"), 60)
            prometheus.wait_for_scrapes()
            self.make_history(prometheus)
            prometheus.wait_for_scrapes(3)
            seconds = int(time.monotonic() - began) + 5
            empty = [f"{title}: {expression}" for title, expression in promql.dashboard_queries()
                     if not prometheus.query(windows(expression, seconds))]
            self.assertEqual(empty, [], "queries of the dashboard without data")
            # An alert that is quiet gives no data; what it looks at must.
            rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
            self.assertGreater(len(rules), 5)
            self.assertEqual([r["name"] for r in rules if r["health"] != "ok" or r.get("lastError")], [])
            empty = [f"{rule['name']}: {metric}{matchers}" for rule in rules
                     for metric, matchers in promql.selectors(rule["query"]) if not prometheus.query(metric + matchers)]
            self.assertEqual(empty, [], "series of the alert rules without data")
            self.say_memory(prometheus)

    def make_history(self, prometheus):
        """There and back again, a checkpoint, a restore, and one failure."""
        first, second = self.nodes[:2]
        self.start(self.pod("counter", first, self.container(env={"MIB": 16})))
        self.apply(self.migration("there", "counter", second))
        moved = self.succeeded("migration", "there")
        prometheus.wait_for_scrapes()
        self.apply(self.migration("back", moved["status"]["targetPodName"], first))
        back = self.succeeded("migration", "back")
        prometheus.wait_for_scrapes()
        pod = back["status"]["targetPodName"]
        for name in ("one", "two"):
            self.apply(self.checkpoint(name, pod))
            self.succeeded("checkpoint", name)
            self.apply(self.restore(name, name, second))
            self.succeeded("restore", name)
            prometheus.wait_for_scrapes()
        self.apply(self.migration("wrong", "no-such-pod", second))
        self.failed("migration", "wrong")
        # What was counted is what happened.
        prometheus.wait_for_scrapes()
        ends = {(m["kind"], m["outcome"]): v for m, v in prometheus.query("sum by (kind, outcome) (godwit_controller_finished_total)")}
        self.assertGreaterEqual(ends["Migration", "Succeeded"], 2)
        self.assertGreaterEqual(ends["Migration", "Failed"], 1)
        self.assertGreaterEqual(ends["Checkpoint", "Succeeded"], 2)
        self.assertGreaterEqual(ends["Restore", "Succeeded"], 2)

    def say_memory(self, prometheus):
        for labels, value in sorted(prometheus.query("process_resident_memory_bytes"), key=lambda s: s[0]["instance"]):
            print(f"    resident memory of {labels['instance']}: {value / 2**20:.1f} MiB", flush=True)

    def test_promtool_finds_nothing_to_say(self):
        for line in kubectl("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/name=godwit", "-o",
                            "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} "
                            "{.metadata.labels.app\\.kubernetes\\.io/component}{'\\n'}{end}").splitlines():
            name, address, component = line.split()
            port = {"controller": 9554, "agent": 9553}[component]
            text = on_node("cp", "curl", "-sf", f"http://{address}:{port}/metrics")
            self.assertIn(f"godwit_{component}_build_info", text, name)
            done = on_node("cp", "promtool", "check", "metrics", stdin=text, check=False)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""), name)
