# SPDX-License-Identifier: Apache-2.0
"""Dry runs: what they say, and that they touch nothing."""

import json

from cluster import ClusterTest, kubectl, on_node, seconds, wait
from bad_input_test import IO_URING

# Rewrites MIB of its own memory, RATE MiB a second, beside counting.
WRITER = r"""
import os, time
mib = int(os.environ["MIB"]); rate = int(os.environ["RATE"]); memory = bytearray(os.urandom(mib << 20)); at = 0; n = 0
while True:
    for _ in range(rate * 256 // 100):
        memory[at:at + 8] = os.urandom(8); at = (at + 4096) % len(memory)
    n += 1
    print("count", n, "at", "%.6f" % time.time(), flush=True)
    time.sleep(0.01)
"""


class DryRunTest(ClusterTest):
    def dry_run(self, name, pod, node, **spec):
        self.apply(self.migration(name, pod, node, dryRun=True, **spec))
        return self.finished("migration", name)

    def made_of(self, pod):
        """The pod, and what a migration would have made of it."""
        return [name for p in self.list("pods") if (name := p["metadata"]["name"]).startswith(pod)]

    def folders(self, node):
        """What the agent of a node keeps of migrations, which a dry run is not to add to."""
        return set(on_node(node, "sh", "-c", "find /var/lib/godwit/migrations /var/lib/godwit/permits 2>/dev/null || true").split("\n"))

    def frozen(self, pod):
        """Cgroups of the pod that stand frozen. The uid's first part is in their names, whichever driver made them."""
        uid = pod["metadata"]["uid"].split("-")[0]
        return on_node(pod["spec"]["nodeName"], "sh", "-c",
                       f"grep -l '^frozen 1' $(find /sys/fs/cgroup -path '*pod{uid}*' -name cgroup.events) || true").split()

    def attached(self, pod):
        """What a tracker would have left on the pod's first process: a tracer, a userfaultfd."""
        look = ("import os; fds = [os.readlink('/proc/1/fd/' + fd) for fd in os.listdir('/proc/1/fd')]; "
                "print([fd for fd in fds if 'userfaultfd' in fd], [l for l in open('/proc/1/status') if l.startswith('TracerPid') and l.split()[1] != '0'])")
        return kubectl("-n", self.namespace, "exec", pod, "--", "python3", "-c", look).strip()

    def test_a_good_pod_is_foretold_and_not_touched(self):
        a, b = self.nodes[:2]
        self.start(self.pod("good", a, self.container(program=WRITER, env={"MIB": 128, "RATE": 20})))
        before, folders = self.get("pod", "good"), [self.folders(node) for node in (a, b)]
        done = self.dry_run("try-good", "good", b)
        status = done["status"]
        complete = next(c for c in status["conditions"] if c["type"] == "Complete")
        self.assertEqual((status["phase"], complete["status"], complete["reason"]), ("Succeeded", "True", "DryRunPassed"), status)
        told = status["dryRun"]
        print(f"    {complete['message']}\n    {told}")
        self.assertIn(told["verdict"], ("WouldSucceed", "WouldExceedBudget"))
        self.assertEqual(status["strategy"], "PreCopy")
        self.assertGreater(seconds(told["predictedFreeze"]), 0.03)
        self.assertLess(seconds(told["predictedFreeze"]), 2)
        self.assertGreater(told["transferBytes"], 32 << 20)
        self.assertGreater(told["sampledBytes"], 0)
        self.assertLess(told["sampledBytes"], 64 << 20)
        self.assertGreater(status["preCopy"]["dirtyRate"], 2 << 20)
        self.assertEqual(told["processes"], 1)
        # Nothing was touched.
        after = self.get("pod", "good")
        for field in ("uid", "labels", "annotations", "finalizers"):
            self.assertEqual(before["metadata"].get(field), after["metadata"].get(field))
        self.assertEqual(before["spec"], after["spec"])
        self.assertEqual([c["restartCount"] for c in after["status"]["containerStatuses"]], [0])
        self.assertEqual(self.made_of("good"), ["good"])
        for node, had in zip((a, b), folders):
            self.assertEqual(self.folders(node) - had, set())
        self.assertEqual(self.frozen(after), [])
        self.assertEqual(self.attached("good"), "[] []")
        self.assertNotIn("finalizers", done["metadata"])
        last = self.log("good").count("count ")
        wait("the pod to go on", lambda: self.log("good").count("count ") > last + 20)
        events = [e for e in self.list("events") if e["involvedObject"]["kind"] == "Pod" and "dry run" in e.get("message", "")]
        self.assertEqual(events, [], "it is no matter of the pod's")
        # A person sees what it was.
        self.assertRegex(kubectl("-n", self.namespace, "get", "mig", "try-good"), r"try-good\s+good\s+\S+\s+\S+\s+Succeeded\s+Would")
        self.assertIn("dry run: ", kubectl("-n", self.namespace, "describe", "mig", "try-good"))
        kubectl("-n", self.namespace, "delete", "mig", "try-good", "--timeout=5s")
        # And it comes as foretold, or near to it.
        self.apply(self.migration("move-good", "good", b))
        moved = self.succeeded("migration", "move-good")
        freeze = seconds(moved["status"]["freeze"]["duration"])
        print(f"    foretold {told['predictedFreeze']}, was {moved['status']['freeze']['duration']}")
        self.assertLess(freeze, 4 * seconds(told["predictedFreeze"]) + 0.1)

    def test_every_obstacle_is_named_with_a_remedy(self):
        a, b = self.nodes[:2]
        self.start(self.pod("bad", a, self.container("app", IO_URING, volumeMounts=[{"name": "v", "mountPath": "/v"}]),
                            volumes=[{"name": "v", "hostPath": {"path": "/tmp"}}]))
        uring = "io_uring -1" not in self.log("bad")
        status = self.dry_run("try-bad", "bad", b)["status"]
        self.assertEqual(status["phase"], "Failed")
        self.assertEqual(status["dryRun"]["verdict"], "WouldFail")
        ids = [f["id"] for f in status["findings"]]
        expected = {"UnsupportedVolume", "HostPath"} | ({"IoUring"} if uring else set())
        self.assertLessEqual(expected, set(ids))
        for finding in status["findings"]:
            self.assertTrue(finding["message"] and finding["remedy"], finding)
        host_path = next(f for f in status["findings"] if f["id"] == "HostPath")
        self.assertIn("config.json: mount /tmp", host_path["evidence"])
        complete = next(c for c in status["conditions"] if c["type"] == "Complete")
        self.assertEqual((complete["status"], complete["reason"]), ("False", status["findings"][0]["id"]))
        events = [e for e in self.list("events") if e["involvedObject"]["name"] == "try-bad"]
        self.assertLessEqual(expected, {e["reason"] for e in events})
        self.assertTrue(all(e["message"].startswith("dry run: ") for e in events), events)
        self.assertEqual(self.made_of("bad"), ["bad"])
        self.assertRegex(kubectl("-n", self.namespace, "get", "mig", "try-bad"), r"Failed\s+WouldFail")

    def test_what_it_was_asked_cannot_be_changed(self):
        a, b = self.nodes[:2]
        self.start(self.pod("asked", a))
        self.dry_run("try-asked", "asked", b)
        for patch, says in (({"dryRun": False}, "dryRun cannot be changed"), ({"freezeBudget": "1s"}, "answers once")):
            refused = self.patch("migration", "try-asked", {"spec": patch})
            self.assertIn(says, refused)

    def patch(self, kind, name, patch):
        done = kubectl("-n", self.namespace, "patch", kind, name, "--type", "merge", "-p", json.dumps(patch), check=False)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    def test_a_migration_does_not_wait_for_it(self):
        a, b = self.nodes[:2]
        self.start(self.pod("both", a))
        self.apply(self.migration("try-both", "both", b, dryRun=True), self.migration("move-both", "both", b))
        moved = self.succeeded("migration", "move-both")
        self.assertEqual(moved["status"]["strategy"], "PreCopy", "the dry run's tracker was in its way")
        self.assertIn(self.finished("migration", "try-both")["status"]["phase"], ("Succeeded", "Failed"))
