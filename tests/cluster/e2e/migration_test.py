# SPDX-License-Identifier: Apache-2.0
"""Pods that move, and what moves with them."""

import json
import re
import subprocess
import tempfile
import unittest

from cluster import KUBECTL, REPO, ClusterTest, counts, kubectl, on_node, seconds, wait

# Writes into the writable layer, deletes and changes files of the image, keeps a file open, and tells what it sees.
FILES = r"""
import os, time
os.makedirs("/data/deep", exist_ok=True)
open("/data/deep/new", "w").write("written before the move\n")
os.symlink("new", "/data/deep/link"); os.link("/data/deep/new", "/data/deep/hard")
os.remove("/etc/os-release") if os.path.lexists("/etc/os-release") else None
held = open("/data/held", "a+")
scratch = open("/scratch/open", "a+"); open("/scratch/closed", "w").write("kept in an emptyDir\n")
n = 0
while True:
    n += 1
    held.write("%d\n" % n); held.flush(); scratch.write("%d\n" % n); scratch.flush()
    print("count", n, "at", "%.6f" % time.time(), flush=True)
    time.sleep(0.05)
"""

# Two processes that talk through a pipe, and a listening socket that must survive; connections to it are closed.
PAIR = r"""
import os, socket, time
server = socket.create_server(("0.0.0.0", 8080)); client = socket.create_connection(("127.0.0.1", 8080)); peer, _ = server.accept()
r, w = os.pipe()
if os.fork() == 0:
    n = 0
    while True:
        n += 1; os.write(w, b"%d\n" % n); time.sleep(0.02)
reader = os.fdopen(r)
for line in reader:
    try:
        peer.send(b"x"); alive = client.recv(1) == b"x"
    except OSError: alive = False
    print("count", int(line), "at", "%.6f" % time.time(), "connection", alive, flush=True)
"""

# Memory that two processes share and write, each its own pages; every second the first compares all of it with what was last
# written there. (The second may be between a page and its version.)
SHARED = r"""
import mmap, os, random, struct, time
PAGE = 4096; pages = int(os.environ["MIB"]) << 8
memory = mmap.mmap(-1, pages * PAGE); versions = mmap.mmap(-1, pages * 4)
def content(page, version): return struct.pack("<II", page, version) * (PAGE // 8)
def version(page): return struct.unpack_from("<I", versions, page * 4)[0]
def fill(page, number):
    memory[page * PAGE:(page + 1) * PAGE] = content(page, number); struct.pack_into("<I", versions, page * 4, number)
def rewrite(own, count):
    for page in (random.randrange(pages // 2) * 2 + own for _ in range(count)): fill(page, version(page) + 1)
for page in range(pages): fill(page, 1)
if os.fork() == 0:
    while True: rewrite(1, 5); time.sleep(0.005)
def wrong(page):
    there = memory[page * PAGE:(page + 1) * PAGE]; last = version(page)
    return all(there != content(page, number) for number in ((last,) if page % 2 == 0 else (last - 1, last, last + 1)))
n = 0
while True:
    n += 1; rewrite(0, 50)
    said = f"verified {pages} wrong {sum(map(wrong, range(pages)))}" if n % 20 == 0 else "-"
    print("count", n, "at", "%.6f" % time.time(), said, flush=True)
    time.sleep(0.05)
"""


class MigrationTest(ClusterTest):
    def move(self, pod, node, name=None, **spec):
        """Migrates a running pod; (its Migration, the target pod, its joined logs checked, gap in seconds)."""
        source = self.get("pod", pod)
        container = source["spec"]["containers"][0]["name"]
        follow = self.follow(source, container)
        name = name or f"move-{pod}"
        self.apply(self.migration(name, pod, node, **spec))
        migration = self.succeeded("migration", name)
        target = self.running(migration["status"]["targetPodName"])
        last = counts(follow())[-1][0]
        wait("the target to count on", lambda: f"count {last + 20} " in self.log(target["metadata"]["name"], container))
        gap = self.unbroken(follow(), self.log(target["metadata"]["name"], container))
        print(f"    gap the workload saw: {gap * 1000:.0f} ms, freeze in status: {migration['status']['freeze']['duration']}")
        self.assertEqual(target["spec"]["nodeName"] if "nodeName" in target["spec"] else "", node)
        self.assertTrue(all(c["restartCount"] == 0 for c in target["status"]["containerStatuses"]))
        self.assertIsNone(self.get("pod", pod))
        return migration, target, gap

    def test_a_bare_pod_goes_on_counting_on_the_other_node(self):
        a, b = self.nodes[:2]
        self.start(self.pod("counter", a))
        migration, target, _ = self.move("counter", b)
        status = migration["status"]
        self.assertEqual((status["sourceNode"], status["targetNode"]), (a, b))
        self.assertGreater(status["transfer"]["memoryBytes"], 0)
        self.assertTrue({"freeze", "dump", "restore"} <= {s["name"] for s in status["freeze"]["steps"]}, status["freeze"])
        self.assertEqual(target["metadata"]["labels"]["app"], "counter")
        # A person can follow it.
        described = kubectl("-n", self.namespace, "describe", "mig", "move-counter")
        for phase in ("Preflight", "Copying", "Preparing", "Switching", "Finishing", "Succeeded"):
            self.assertIn(phase, described)
        self.assertRegex(kubectl("-n", self.namespace, "get", "mig"), rf"move-counter\s+counter\s+{a}\s+{b}\s+Succeeded")
        # It answers exec, and sees its own pod's name.
        name = target["metadata"]["name"]
        hostname = kubectl("-n", self.namespace, "exec", name, "--", "hostname").strip()
        self.assertEqual(hostname, name)

    def test_there_and_back_again_grows_the_name_by_one_suffix(self):
        a, b = self.nodes[:2]
        self.start(self.pod("commuter", a))
        _, first, _ = self.move("commuter", b, "there")
        _, second, _ = self.move(first["metadata"]["name"], a, "back")
        _, third, _ = self.move(second["metadata"]["name"], b, "again")
        self.assertRegex(third["metadata"]["name"], r"^commuter-[a-z0-9]{5}$")

    def test_512_mib_of_memory_arrive_page_by_page(self):
        a, b = self.nodes[:2]
        self.start(self.pod("big", a, self.container(env={"MIB": 512})))
        migration, _, _ = self.move("big", b)
        self.assertGreater(migration["status"]["transfer"]["memoryBytes"], 512 << 20)

    def test_memory_that_processes_share_is_pre_copied_and_arrives_page_by_page(self):
        a, b = self.nodes[:2]
        self.start(self.pod("sharing", a, self.container("app", SHARED, env={"MIB": 256})))
        pod = "sharing"
        for name, node, strategy in (("share-there", b, "PreCopy"), ("share-back", a, "PreCopy"), ("share-soon", b, "PostCopy")):
            migration, target, _ = self.move(pod, node, name, strategy=strategy, freezeBudget="1s")
            pod = target["metadata"]["name"]
            verified = wait("all pages to be compared", lambda: re.findall(r"verified (\d+) wrong (\d+)", self.log(pod, "app")))
            self.assertTrue(all(found == ("65536", "0") for found in verified), verified)
            sent = migration["status"]["transfer"]["memoryBytes"]
            print(f"    {sent >> 20} MiB sent")
            self.assertGreater(sent, 256 << 20)
            self.assertLess(sent, 448 << 20, "CRIU has dumped what was pre-copied")

    def test_two_containers_move_as_one(self):
        a, b = self.nodes[:2]
        self.start(self.pod("pair", a, self.container("app"), self.container("second", PAIR)))
        wait("the second container", lambda: "count 20 " in self.log("pair", "second"))
        follow = self.follow(self.get("pod", "pair"), "second")
        _, target, _ = self.move("pair", b)
        name = target["metadata"]["name"]
        before = counts(follow())
        wait("the second container to go on", lambda: f"count {before[-1][0] + 20} " in self.log(name, "second"))
        self.unbroken(follow(), self.log(name, "second"))
        self.assertIn("connection True", follow())
        self.assertIn("connection False", self.log(name, "second").splitlines()[-1])

    def test_files_move_with_the_pod(self):
        a, b = self.nodes[:2]
        pod = self.pod("files", a, self.container("app", FILES, volumeMounts=[{"name": "scratch", "mountPath": "/scratch"}]),
                       volumes=[{"name": "scratch", "emptyDir": {}}])
        self.start(pod)
        _, target, _ = self.move("files", b)
        name = target["metadata"]["name"]

        def see(*argv):
            return kubectl("-n", self.namespace, "exec", name, "--", *argv)
        self.assertEqual(see("cat", "/data/deep/link"), "written before the move\n")
        self.assertEqual(see("stat", "-c", "%h", "/data/deep/hard").strip(), "2")
        self.assertNotEqual(kubectl("-n", self.namespace, "exec", name, "--", "cat", "/etc/os-release", check=False).returncode, 0)
        self.assertEqual(see("cat", "/scratch/closed"), "kept in an emptyDir\n")
        for path in ("/data/held", "/scratch/open"):
            numbers = [int(n) for n in see("cat", path).split()]
            self.assertEqual(numbers, list(range(1, len(numbers) + 1)))

    def test_a_node_selector_chooses_the_node(self):
        a, b = self.nodes[:2]
        self.start(self.pod("chooser", a))
        mig = self.migration("choose", "chooser", b)
        mig["spec"]["target"] = {"nodeSelector": {"kubernetes.io/hostname": b}}
        self.apply(mig)
        self.assertEqual(self.succeeded("migration", "choose")["status"]["targetNode"], b)

    def trio(self, name):
        """The pods of a Deployment of three, and a function that tells which pods were added and deleted since."""
        template = {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 3, "containers": [
            self.container(readinessProbe={"exec": {"command": ["true"]}, "periodSeconds": 1})]}}
        self.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
                    "spec": {"replicas": 3, "selector": {"matchLabels": {"app": name}}, "template": template}})
        kubectl("-n", self.namespace, "rollout", "status", f"deployment/{name}", "--timeout=90s")
        seen = tempfile.TemporaryFile("w+")
        watch = subprocess.Popen([str(KUBECTL), f"--kubeconfig={REPO}/build/cluster/kubeconfig", "-n", self.namespace, "get", "pods",
                                  "--watch", "--output-watch-events", "-o", "jsonpath={.type} {.object.metadata.name}{'\\n'}"],
                                 stdout=seen, stderr=subprocess.DEVNULL)
        self.addCleanup(watch.kill)

        def story():
            seen.seek(0)
            return [tuple(line.split()) for line in seen.read().splitlines() if line.startswith((f"ADDED {name}", f"DELETED {name}"))]
        wait("the watch to begin", lambda: len(story()) >= 3)
        pods = self.list("pods", "-l", f"app={name}")
        for pod in pods:
            wait("it to count", lambda: "count 20 " in self.log(pod["metadata"]["name"]))
        return pods, story

    def elsewhere(self, pod):
        a, b = self.nodes[:2]
        return b if pod["spec"]["nodeName"] == a else a

    def assertStory(self, story, added, deleted):
        print("   ", story())
        self.assertEqual({n for kind, n in story() if kind == "ADDED"}, set(added))
        self.assertEqual(sorted(n for kind, n in story() if kind == "DELETED"), sorted(deleted))

    def test_a_deployment_keeps_its_pods_and_its_replicaset_makes_none(self):
        pods, story = self.trio("trio")
        victim = pods[0]["metadata"]["name"]
        _, target, _ = self.move(victim, self.elsewhere(pods[0]), "move-trio")
        wait("the source to go", lambda: ("DELETED", victim) in story())
        self.assertStory(story, [p["metadata"]["name"] for p in pods] + [target["metadata"]["name"]], [victim])
        owner = target["metadata"].get("ownerReferences") or self.get("pod", target["metadata"]["name"])["metadata"]["ownerReferences"]
        self.assertEqual(owner[0]["kind"], "ReplicaSet")
        self.assertEqual(len(self.list("pods", "-l", "app=trio")), 3)

    def test_all_pods_of_a_deployment_move_one_after_the_other(self):
        pods, story = self.trio("drained")
        names = [p["metadata"]["name"] for p in pods]
        self.apply(*[self.migration(f"drain-{i}", name, self.elsewhere(pods[i])) for i, name in enumerate(names)])
        targets = [self.succeeded("migration", f"drain-{i}", 120)["status"]["targetPodName"] for i in range(3)]
        wait("the sources to go", lambda: {n for kind, n in story() if kind == "DELETED"} >= set(names))
        self.assertStory(story, names + targets, names)
        for name in targets:
            wait("it to count", lambda: len(counts(self.log(name))) > 5)
            self.assertGreater(counts(self.log(name))[0][0], 20, "it began anew")

    def test_nothing_is_left_behind(self):
        a, b = self.nodes[:2]
        self.start(self.pod("tidy", a))
        migration, target, _ = self.move("tidy", b)
        uid = migration["metadata"]["uid"]
        for node in (a, b):
            left = on_node(node, "sh", "-c", f"find /var/lib/godwit /run/godwit -name '*{uid}*' ! -path '*/journal/*'; "
                           f"cat /sys/fs/cgroup/godwit-guard/*/cgroup.procs 2>/dev/null; true")
            self.assertEqual(left.strip(), "", f"left on {node}")

    def test_a_restored_container_that_dies_restarts_fresh(self):
        a, b = self.nodes[:2]
        self.start(self.pod("mortal", a))
        _, target, _ = self.move("mortal", b)
        name = target["metadata"]["name"]
        on_node(b, "sh", "-c", "kill -9 $(cat /run/containerd/io.containerd.runtime.v2.task/k8s.io/%s/init.pid)" %
                target["status"]["containerStatuses"][0]["containerID"].split("//")[1])
        wait("the restart", lambda: self.get("pod", name)["status"]["containerStatuses"][0]["restartCount"] == 1)
        wait("it to count afresh", lambda: self.log(name).startswith("count 1 "), 60)


if __name__ == "__main__":
    unittest.main()
