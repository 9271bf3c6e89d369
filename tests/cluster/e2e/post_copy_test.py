# SPDX-License-Identifier: Apache-2.0
"""Pods that go on before their memory is there, and what becomes of it when something fails meanwhile."""

import os
import random
import re
import time
import unittest

from cluster import ClusterTest, kubectl, on_node, wait
from fault_test import cut


class PostCopyTest(ClusterTest):
    def begin(self, name, node, mib=192, rate=200):
        """The benchmarks' pod: it rewrites its memory all the time, and knows what each page should hold."""
        pod = self.pod(name, node)
        pod["spec"]["containers"][0]["command"] = ["bench-workload", str(mib), str(rate)]
        self.apply(pod)
        self.running(name)
        wait("the workload", lambda: "beat 4 " in self.log(name), 120)

    def verified(self, pod):
        """Every page is compared with what was last written to it."""
        wait("it to beat", lambda: self.log(pod).count("beat ") >= 3, 60)
        kubectl("-n", self.namespace, "exec", pod, "--", "kill", "-USR1", "1")
        checked = wait("the memory to be verified", lambda: re.search(r"verified (\d+) wrong (\d+)", self.log(pod)), 120)
        self.assertEqual(int(checked.group(2)), 0, self.log(pod)[-2000:])
        return int(checked.group(1))

    def post_copy(self, name):
        return self.get("migration", name).get("status", {}).get("postCopy", {})

    def pulling(self, name):
        """Once memory is being pulled."""
        def check():
            conditions = self.get("migration", name).get("status", {}).get("conditions", [])
            return any(c["type"] == "MemoryArrived" and c["reason"] == "Pulling" for c in conditions)
        wait(f"{name} to pull", check, 120, 0.05)

    def arrived(self, migration, source):
        status = migration["status"]
        self.assertEqual(status["strategy"], "PostCopy")
        self.assertGreater(status["postCopy"]["totalBytes"], 1 << 20, status["postCopy"])
        self.assertEqual(status["postCopy"].get("missingBytes", 0), 0)
        condition = next(c for c in status["conditions"] if c["type"] == "MemoryArrived")
        self.assertEqual(condition["status"], "True")
        target = self.running(status["targetPodName"])
        self.assertEqual([c["restartCount"] for c in target["status"]["containerStatuses"]], [0])
        pages = self.verified(status["targetPodName"])
        self.assertIsNone(self.get("pod", source))
        print(f"    freeze {status['freeze']['duration']}, {status['postCopy']['totalBytes'] >> 20} MiB pulled, "
              f"{status['postCopy'].get('faults', 0)} faults, p99 {status['postCopy'].get('faultP99')}; {pages} pages right")

    def test_a_pod_that_writes_fast_goes_on_before_its_memory_is_there(self):
        a, b = self.nodes[:2]
        self.begin("hasty", a)
        self.apply(self.migration("run-first", "hasty", b, strategy="PostCopy"))
        self.arrived(self.succeeded("migration", "run-first"), "hasty")

    def test_a_pre_copy_that_does_not_converge_ends_as_a_post_copy(self):
        a, b = self.nodes[:2]
        self.begin("busy", a)
        self.apply(self.migration("try-first", "busy", b, bandwidthLimit="60Mi", preCopyTimeout="10s", whenNotConverging="PostCopy"))
        self.arrived(self.succeeded("migration", "try-first"), "busy")

    def test_the_source_pod_stays_until_all_of_its_memory_has_arrived(self):
        a, b = self.nodes[:2]
        self.begin("patient", a)
        self.apply(self.migration("slowly", "patient", b, strategy="PostCopy", bandwidthLimit="20Mi"))
        self.pulling("slowly")
        began = time.monotonic()
        while (pod := self.get("pod", "patient")) and "deletionTimestamp" not in pod["metadata"]:
            time.sleep(0.2)
        print("    the source pod stayed for %.1f s" % (time.monotonic() - began))
        # The status is written once a second; what was missing when the pod went would take longer than this.
        wait("the status to say that all has arrived", lambda: self.post_copy("slowly").get("missingBytes", 0) == 0, 3)
        self.arrived(self.succeeded("migration", "slowly"), "patient")

    def test_a_link_cut_while_memory_is_pulled(self):
        a, b = self.nodes[:2]
        for i in range(int(os.environ.get("GODWIT_LINK_CUTS", "1"))):
            name, move = f"linked-{i}", f"two-seconds-{i}"
            self.begin(name, a)
            self.apply(self.migration(move, name, b, strategy="PostCopy", bandwidthLimit="20Mi"))
            self.pulling(move)
            time.sleep(random.uniform(0, 3))
            mend = cut(a)
            try:
                time.sleep(2)
            finally:
                mend()
            done = self.succeeded("migration", move, 240)
            self.arrived(done, name)
            self.left_nothing(done)
            kubectl("-n", self.namespace, "delete", "pod", done["status"]["targetPodName"], "--grace-period=0", "--force")

    @unittest.skipUnless("GODWIT_LINK_CUTS" in os.environ, "takes the ten minutes that are waited for a link, for five pods: GODWIT_LINK_CUTS=pods")
    def test_a_link_that_stays_cut_while_memory_is_pulled_is_a_clear_failure(self):
        """Several pods at a time, each at another point of its pulling; no more than move at a time."""
        left = int(os.environ["GODWIT_LINK_CUTS"])
        while left > 0:
            some = min(left, 5)
            self.part(*self.nodes[:2], [f"parted-{left - i}" for i in range(some)])
            left -= some

    def part(self, a, b, pods):
        for name in pods:
            self.begin(name, a, mib=96, rate=20)
        for name in pods:
            self.apply(self.migration(f"move-{name}", name, b, strategy="PostCopy", bandwidthLimit="3Mi"))
        for name in pods:
            self.pulling(f"move-{name}")
            time.sleep(random.uniform(0, 0.5))
        pulled = [self.post_copy(f"move-{name}") for name in pods]
        mend = cut(a)
        try:
            for name, then in zip(pods, pulled):
                reason, message = self.failed("migration", f"move-{name}", 900)
                print(f"    cut when {then.get('missingBytes', 0) >> 20} of {then.get('totalBytes', 0) >> 20} MiB were missing: {reason} {message}")
                self.assertEqual(reason, "StateLost")
        finally:
            mend()
        for name in pods:
            done = self.get("migration", f"move-{name}")
            target = done["status"]["targetPodName"]
            wait("it to start afresh", lambda: self.get("pod", target)["status"]["containerStatuses"][0]["restartCount"] >= 1, 120)
            wait("it to work", lambda: "beat 4 " in self.log(target), 120)
            self.verified(target)
            wait("the source's pod to go", lambda: self.get("pod", name) is None, 60)
            self.left_nothing(done)

    def test_a_source_that_dies_while_memory_is_pulled_is_a_clear_failure(self):
        a, b = self.nodes[:2]
        self.begin("lost", a)
        self.apply(self.migration("no-return", "lost", b, strategy="PostCopy", bandwidthLimit="20Mi"))
        self.pulling("no-return")
        on_node(a, "sh", "-c", "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = bench-workload ] && kill -9 ${p#/proc/}; done; true")
        reason, message = self.failed("migration", "no-return", 180)
        print("   ", reason, message)
        self.assertEqual(reason, "StateLost")
        target = self.get("migration", "no-return")["status"]["targetPodName"]
        # Killed, not left with zeros; kubelet starts it afresh.
        wait("it to start afresh", lambda: self.get("pod", target)["status"]["containerStatuses"][0]["restartCount"] == 1, 60)
        wait("it to work", lambda: "beat 4 " in self.log(target), 120)
        self.verified(target)
        self.assertIsNone(self.get("pod", "lost"))
