# SPDX-License-Identifier: Apache-2.0
"""A mixed cluster: two ARM64 nodes beside the x86_64 ones (make test-arm64). Emulated, so nothing here is fast."""

import json
import re

from cluster import SYSTEM, ClusterTest, kubectl, on_node, wait

SLOW = 600


class Arm64Test(ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        nodes = json.loads(kubectl("get", "nodes", "-l", "kubernetes.io/arch=arm64", "-o", "json"))["items"]
        cls.arms = sorted(n["metadata"]["name"] for n in nodes)
        assert len(cls.arms) >= 2, "make cluster-up ARM64=2"

    def bench_pod(self, name, node, mib, rate):
        self.apply(self.pod(name, node, {**self.container(), "command": ["bench-workload", str(mib), str(rate)]}))
        self.running(name, SLOW)
        wait("the workload", lambda: "beat 4 " in self.log(name), SLOW)

    def verified(self, pod):
        kubectl("-n", self.namespace, "exec", pod, "--", "kill", "-USR1", "1")
        checked = wait("the memory to be verified", lambda: re.search(r"verified (\d+) wrong (\d+)", self.log(pod)), SLOW)
        return int(checked.group(1)), int(checked.group(2))

    def test_agents_run_on_arm64(self):
        def ready():
            pods = json.loads(kubectl("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=agent", "-o", "json"))["items"]
            return {p["spec"]["nodeName"] for p in pods
                    if p["status"].get("containerStatuses") and p["status"]["containerStatuses"][0]["ready"]}
        wait("the agents of the ARM64 nodes", lambda: set(self.arms) <= ready(), SLOW)
        for node in self.arms:
            self.assertEqual(on_node(node, "uname", "-m").strip(), "aarch64")

    def test_a_checkpoint_of_a_pod_on_arm64_comes_back(self):
        self.start(self.pod("kept", self.arms[0], self.container(env={"PERIOD": "0.2"})), seconds=SLOW)
        self.apply(self.checkpoint("monday", "kept"))
        done = self.succeeded("checkpoint", "monday", SLOW)
        print("   ", done["status"]["archives"][0]["path"], "freeze", done["status"]["freeze"]["duration"])
        kubectl("-n", self.namespace, "delete", "pod", "kept", f"--timeout={SLOW}s", timeout=SLOW + 10)
        self.apply(self.restore("again", "monday"))
        name = self.succeeded("restore", "again", SLOW)["status"]["podName"]
        wait("it to count on", lambda: len(self.log(name).splitlines()) > 5, SLOW)
        self.assertGreater(int(self.log(name).splitlines()[0].split()[1]), 20, "it began anew")

    def test_a_pod_moves_between_arm64_nodes_with_its_memory(self):
        self.bench_pod("arm", self.arms[0], 16, 1)
        self.apply(self.migration("over", "arm", self.arms[1], freezeBudget="10s"))
        status = self.succeeded("migration", "over", SLOW)["status"]
        target = status["targetPodName"]
        wait("the target to beat", lambda: self.log(target).count("beat ") >= 3, SLOW)
        pages, wrong = self.verified(target)
        gaps = [float(ms) for ms in re.findall(r"^gap ([\d.]+) ", self.log(target), re.M)]
        print("   ", status.get("strategy"), status.get("preCopy", {}).get("rounds"), "rounds, freeze", status["freeze"]["duration"],
              "gap", max(gaps, default=0), "ms;", wrong, "wrong of", pages, "pages")
        self.assertEqual(wrong, 0)
        self.assertEqual(status.get("strategy"), "PreCopy")

    def test_a_move_to_another_architecture_is_refused(self):
        self.start(self.pod("intel", self.nodes[0]), seconds=SLOW)
        self.apply(self.migration("across", "intel", self.arms[0]))
        reason, message = self.failed("migration", "across", SLOW)
        print("   ", reason, message)
        self.assertIn("arm64", message)
        self.assertRunsOnce("intel")
