# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that other tools read, and pods that come back from them."""

import re

from cluster import ClusterTest, counts, kubectl, on_node, wait
from migration_test import FILES


class CheckpointTest(ClusterTest):
    def take(self, pod, node, **container_env):
        self.apply(self.checkpoint(f"save-{pod}", pod))
        checkpoint = self.succeeded("checkpoint", f"save-{pod}")
        status = checkpoint["status"]
        self.assertEqual(status["nodeName"], node)
        self.assertTrue(status["criuVersion"] >= "4.2")
        for archive in status["archives"]:
            on_node(node, "sh", "-c", f"echo '{archive['digest'].split(':')[1]}  {archive['path']}' | sha256sum -c -")
            shown = on_node(node, "checkpointctl", "show", archive["path"])
            self.assertIn(archive["container"], shown)
            self.assertIn("python3", on_node(node, "checkpointctl", "inspect", "--ps-tree", archive["path"]))
        print(f"    freeze {status['freeze']['duration']}, {sum(a['size'] for a in status['archives'])} bytes")
        return checkpoint

    def comes_back(self, name, checkpoint, node, first_after, container="app"):
        self.apply(self.restore(name, checkpoint, node))
        restore = self.succeeded("restore", name)
        pod = self.running(restore["status"]["podName"])
        self.assertEqual(pod["spec"]["nodeName"], node)
        wait("it to count on", lambda: len(counts(self.log(pod["metadata"]["name"], container))) > 10)
        numbers = [n for n, _ in counts(self.log(pod["metadata"]["name"], container))]
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))))
        self.assertGreater(numbers[0], 20)
        self.assertLessEqual(numbers[0], first_after)
        return pod

    def last(self, pod, container="app"):
        return counts(self.log(pod, container))[-1][0]

    def test_the_pod_goes_on_and_the_archive_brings_it_back_on_either_node(self):
        a, b = self.nodes[:2]
        self.start(self.pod("saved", a, self.container(env={"MIB": 512})))
        self.take("saved", a)
        now = self.last("saved")
        wait("the pod to go on", lambda: self.last("saved") > now + 20)
        self.assertEqual(self.get("pod", "saved")["status"]["containerStatuses"][0]["restartCount"], 0)
        kubectl("-n", self.namespace, "delete", "pod", "saved", "--wait=true")
        self.comes_back("here", "save-saved", a, now + 1000)
        self.comes_back("there", "save-saved", b, now + 1000)
        # The checkpoint stays, and goes with its object.
        path = self.get("checkpoint", "save-saved")["status"]["archives"][0]["path"]
        on_node(a, "test", "-f", path)
        kubectl("-n", self.namespace, "delete", "checkpoint", "save-saved", "--timeout=60s")
        self.assertNotEqual(on_node(a, "test", "-e", path, check=False).returncode, 0)

    def wrong_pages(self, pod):
        """Lets bench-workload compare every page with what it wrote there last."""
        kubectl("-n", self.namespace, "exec", pod, "--", "kill", "-USR1", "1")
        checked = wait("the memory to be verified", lambda: re.search(r"verified (\d+) wrong (\d+)", self.log(pod)), 120)
        self.assertGreater(int(checked.group(1)), 0)
        return int(checked.group(2))

    def test_memory_that_is_rewritten_meanwhile_is_kept_as_of_one_moment(self):
        a, b = self.nodes[:2]
        pod = self.pod("busy", a, self.container())
        pod["spec"]["containers"][0]["command"] = ["bench-workload", "512", "50"]
        self.start(pod, lambda log: "beat 8 " in log)
        self.apply(self.checkpoint("save-busy", "busy"))
        status = self.succeeded("checkpoint", "save-busy")["status"]
        gap = max((float(ms) for ms in re.findall(r"^gap ([\d.]+) ", self.log("busy"), re.M)), default=0.0)
        steps = ", ".join(f"{s['name']} {s['duration']}" for s in status["freeze"]["steps"])
        print(f"    gap the workload saw: {gap:.0f} ms, freeze in status: {status['freeze']['duration']} ({steps})")
        self.assertNotIn("PreCopyPossible", [c["type"] for c in status["conditions"]])
        self.assertGreaterEqual(status["memoryBytes"], 512 << 20)
        # CRIU's own dump of so much memory takes more than a second.
        self.assertLess(gap, 600)
        on_node(a, "checkpointctl", "inspect", "--ps-tree", status["archives"][0]["path"])
        self.assertEqual(self.wrong_pages("busy"), 0)
        kubectl("-n", self.namespace, "delete", "pod", "busy", "--wait=true")
        self.apply(self.restore("busy-back", "save-busy", b))
        name = self.succeeded("restore", "busy-back")["status"]["podName"]
        wait("it to go on", lambda: self.log(name).count("beat ") >= 3)
        self.assertEqual(self.wrong_pages(name), 0)

    def test_two_containers_come_back(self):
        a, b = self.nodes[:2]
        self.start(self.pod("twins", a, self.container("app"), self.container("other")))
        wait("the other", lambda: "count 20 " in self.log("twins", "other"))
        self.take("twins", a)
        now = self.last("twins")
        kubectl("-n", self.namespace, "delete", "pod", "twins", "--wait=true")
        pod = self.comes_back("twins-back", "save-twins", b, now + 1000)
        wait("the other to count on", lambda: len(counts(self.log(pod["metadata"]["name"], "other"))) > 10)
        self.assertGreater(counts(self.log(pod["metadata"]["name"], "other"))[0][0], 20)

    def test_files_come_back(self):
        a, b = self.nodes[:2]
        self.start(self.pod("papers", a, self.container("app", FILES, volumeMounts=[{"name": "scratch", "mountPath": "/scratch"}]),
                            volumes=[{"name": "scratch", "emptyDir": {}}]))
        self.take("papers", a)
        now = self.last("papers")
        kubectl("-n", self.namespace, "delete", "pod", "papers", "--wait=true")
        pod = self.comes_back("papers-back", "save-papers", b, now + 1000)
        name = pod["metadata"]["name"]
        self.assertEqual(kubectl("-n", self.namespace, "exec", name, "--", "cat", "/data/deep/link"), "written before the move\n")
        self.assertEqual(kubectl("-n", self.namespace, "exec", name, "--", "cat", "/scratch/closed"), "kept in an emptyDir\n")

    def test_an_archive_that_was_tampered_with_is_refused(self):
        a = self.nodes[0]
        self.start(self.pod("forged", a))
        checkpoint = self.take("forged", a)
        path = checkpoint["status"]["archives"][0]["path"]
        on_node(a, "sh", "-c", f"printf x | dd of={path} bs=1 seek=100000 conv=notrunc 2>/dev/null")
        self.apply(self.restore("forged-back", "save-forged", self.nodes[1]))
        _, message = self.failed("restore", "forged-back")
        self.assertIn("digest", message)

    def test_a_checkpoint_of_nothing_says_so(self):
        self.apply(self.checkpoint("of-nothing", "nobody"))
        reason, message = self.failed("checkpoint", "of-nothing")
        self.assertIn("nobody", message)
        self.apply(self.restore("from-nothing", "no-such-checkpoint"))
        reason, message = self.failed("restore", "from-nothing")
        self.assertIn("no-such-checkpoint", message)
