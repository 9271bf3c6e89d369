# SPDX-License-Identifier: Apache-2.0
"""helm uninstall: nodes are left as they were, nothing hangs, nobody's data or pod is harmed. Godwit is installed again
at the end, so these tests may run beside the others (one after another, as run.py does)."""

import json

from cluster import REPO, SYSTEM, ClusterTest, kubectl, on_node, run, wait

# What a node holds that an installer could have changed: folders with the hashes of their files, what containerd knows.
INVENTORY = r"""
for dir in /opt /etc/containerd /run/godwit /var/lib/godwit /usr/local /etc/criu; do
  [ -e $dir ] || continue
  find $dir -type f -exec sha256sum {} + ; find $dir ! -type f
done
containerd config dump | sha256sum
find /sys/fs/cgroup -name '*godwit*'
pgrep -a 'godwit|criu' || true
nft list ruleset | grep -i -e godwit -e criu || true
"""


def deploy():
    run(REPO / "charts/deploy", timeout=600)


def undeploy():
    return run(REPO / "charts/undeploy", timeout=900)


class UninstallTest(ClusterTest):
    @classmethod
    def tearDownClass(cls):
        deploy()
        super().tearDownClass()

    def tearDown(self):
        """No pod of one test keeps the runtime on a node for the next one."""
        kubectl("-n", self.namespace, "delete", "pods", "--all", "--timeout=60s")

    def inventory(self):
        """{node: its inventory, its labels}"""
        found = {}
        for node in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]:
            name = node["metadata"]["name"]
            found[name] = sorted(on_node(name, "sh", "-c", INVENTORY).splitlines()) + sorted(node["metadata"]["labels"].items())
        return found

    def settled_inventory(self):
        """The same, once kube-proxy has taken the Services of what was uninstalled out of the nodes' rules: that is its work,
        a moment later."""
        def settled():
            found = self.inventory()
            return None if any("godwit-system/" in str(line) for lines in found.values() for line in lines) else found
        return wait("kube-proxy to forget Godwit's Services", settled, 60, 1)

    def leftovers(self):
        """Objects of Godwit's that are still in the API server, but for the definitions, which stay."""
        kinds = ("deployments,daemonsets,jobs,pods,services,serviceaccounts,roles,rolebindings,secrets,configmaps,leases,"
                 "poddisruptionbudgets")
        names = kubectl("-n", SYSTEM, "get", kinds, "-o", "name").split()
        names += kubectl("get", "clusterroles,clusterrolebindings,runtimeclasses,validatingadmissionpolicies,"
                         "validatingadmissionpolicybindings", "-o", "name").split()
        return [n for n in names if "godwit" in n]

    def test_nodes_are_as_they_were_and_nothing_is_left(self):
        deploy()
        undeploy()
        before = self.settled_inventory()
        deploy()
        self.assertNotEqual(self.inventory(), before)
        first, second = self.nodes[:2]
        self.start(self.pod("counter", first))
        self.apply(self.migration("there", "counter", second))
        moved = self.succeeded("migration", "there")["status"]["targetPodName"]
        self.apply(self.checkpoint("kept", moved))
        self.succeeded("checkpoint", "kept")
        kubectl("-n", self.namespace, "delete", "checkpoint", "kept")
        kubectl("-n", self.namespace, "delete", "pod", moved)
        undeploy()
        self.maxDiff = None
        self.assertEqual(self.settled_inventory(), before)
        self.assertEqual(self.leftovers(), [])
        self.assertEqual(self.get("migration", "there")["status"]["phase"], "Succeeded")
        kubectl("-n", self.namespace, "delete", "migration", "there", "--timeout=20s")

    def test_archives_and_their_checkpoints_outlive_it_and_can_be_deleted_without_a_controller(self):
        deploy()
        node = self.nodes[0]
        self.start(self.pod("memory", node))
        self.apply(self.checkpoint("monday", "memory"))
        archive = self.succeeded("checkpoint", "monday")["status"]["archives"][0]["path"]
        undeploy()
        on_node(node, "test", "-s", archive)
        self.assertEqual(self.get("checkpoint", "monday")["status"]["phase"], "Ready")
        deploy()
        self.apply(self.restore("again", "monday"))
        self.succeeded("restore", "again")
        undeploy()
        kubectl("-n", self.namespace, "delete", "checkpoint", "monday", "--timeout=20s")
        self.assertIsNone(self.get("checkpoint", "monday"))
        on_node(node, "rm", "-r", archive.rpartition("/")[0])

    def test_a_pod_that_moved_goes_on_and_can_restart_and_end(self):
        deploy()
        first, second = self.nodes[:2]
        self.start(self.pod("mover", first, self.container(env={"PERIOD": "0.05"})))
        self.apply(self.migration("move", "mover", second))
        moved = self.succeeded("migration", "move")["status"]["targetPodName"]
        undeploy()
        pod = self.assertRunsOnce("mover")
        self.assertEqual(pod["status"]["containerStatuses"][0]["restartCount"], 0)
        on_node(second, "test", "-x", "/opt/godwit/bin/godwit-runtime")
        # Python ends on SIGINT, also as the first process of a container.
        kubectl("-n", self.namespace, "exec", moved, "--", "kill", "-INT", "1")
        wait("the container to restart", lambda: self.get("pod", moved)["status"]["containerStatuses"][0]["restartCount"] >= 1, 60)
        self.running(moved)
        kubectl("-n", self.namespace, "delete", "pod", moved, "--timeout=60s")
        deploy()
        undeploy()
        on_node(second, "test", "!", "-e", "/opt/godwit")

    def test_a_migration_in_the_middle_is_ended_first(self):
        deploy()
        first, second = self.nodes[:2]
        self.start(self.pod("busy", first, self.container(env={"MIB": 256})))
        self.apply(self.migration("move", "busy", second))
        wait("the migration to begin", lambda: self.get("migration", "move").get("status", {}).get("phase") not in (None, "Pending"), 30)
        undeploy()
        self.assertRunsOnce("busy")
        migration = self.get("migration", "move")
        if migration:  # it was quicker than the uninstallation
            self.assertEqual(migration["status"]["phase"], "Succeeded")


