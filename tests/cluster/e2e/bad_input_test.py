# SPDX-License-Identifier: Apache-2.0
"""Everything that can be wrong before or in a migration: a clear message, and the source pod untouched."""

import json

from cluster import REPO, SYSTEM, ClusterTest, counts, kubectl, on_node, run, wait

# What CRIU cannot dump: a process that holds an io_uring.
IO_URING = r"""
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True); params = (ctypes.c_char * 120)()
fd = libc.syscall(425, 4, params); print("io_uring", fd, flush=True); n = 0
while True: n += 1; print("count", n, "at", time.time(), flush=True); time.sleep(0.05)
"""

AGENT_API = 9551
IMPOSTOR = r"""
set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=godwit-agent -keyout /run/impostor.key -out /run/impostor.crt 2>/dev/null
openssl s_server -quiet -accept 9999 -key /run/impostor.key -cert /run/impostor.crt </dev/null >/dev/null 2>&1 &
impostor=$!
for _ in $(seq 50); do
  ! openssl s_client -connect 127.0.0.1:9999 </dev/null >/dev/null 2>&1 || break
  sleep 0.1
done
nft "table ip impostor {
  chain new { type nat hook prerouting priority -150; tcp dport $0 redirect to :9999; }
  chain old { type filter hook input priority 0; tcp dport $0 reject with tcp reset; }
}"
echo $impostor
"""


class BadInputTest(ClusterTest):
    def untouched(self, pod):
        """The source runs on: the same containers, no restart, still counting."""
        now = counts(self.log(pod))[-1][0]
        wait(f"{pod} to count on", lambda: counts(self.log(pod))[-1][0] > now + 10)
        for status in self.get("pod", pod)["status"]["containerStatuses"]:
            self.assertEqual(status["restartCount"], 0)

    def refuses(self, name, pod, node, *words, **spec):
        self.apply(self.migration(name, pod, node, **spec))
        reason, message = self.failed("migration", name)
        print(f"    {reason}: {message}")
        for word in words:
            self.assertIn(word, message)
        made = [p["metadata"]["name"] for p in self.list("pods", "-l", "godwit.io/migration")
                if p["metadata"]["labels"]["godwit.io/migration"] == self.get("migration", name)["metadata"]["uid"]
                and not p["metadata"].get("deletionTimestamp")]
        self.assertEqual(made, [], "a target pod is left")

    def test_nonsense_is_refused_at_apply(self):
        node = self.nodes[0]
        both = self.migration("x", "p", node)
        both["spec"]["target"]["nodeSelector"] = {"a": "b"}
        neither = self.migration("x", "p", node)
        neither["spec"]["target"] = {}
        nobody = self.migration("x", "", node)
        for obj, word in ((both, "nodeName"), (neither, "nodeName"), (nobody, "podRef.name"),
                          (self.migration("x", "p", node, strategy="Teleport"), "strategy"),
                          (self.migration("x", "p", node, timeout="soon"), "timeout")):
            message = self.refused(obj)
            print("   ", message.strip().splitlines()[-1])
            self.assertIn(word, message)

    def test_the_spec_of_a_migration_stays_as_it_was(self):
        self.apply(self.migration("fixed", "p", self.nodes[0]))
        self.assertIn("cannot be changed", self.refused(self.migration("fixed", "q", self.nodes[0])))

    def test_no_such_pod(self):
        self.refuses("ghost", "nobody", self.nodes[1], "nobody")

    def test_a_pod_that_does_not_run(self):
        self.apply(self.pod("done", self.nodes[0], {**self.container(), "command": ["true"]}, restartPolicy="Never"))
        wait("it to end", lambda: self.get("pod", "done")["status"].get("phase") == "Succeeded")
        self.refuses("move-done", "done", self.nodes[1], "not Running")

    def test_bad_targets(self):
        a = self.nodes[0]
        self.start(self.pod("stay", a))
        self.refuses("to-nowhere", "stay", "no-such-node", "no-such-node")
        self.refuses("to-itself", "stay", a, "already")
        # A Node object without a machine behind it: not ready, no agent.
        kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "hollow"}}))
        self.addCleanup(kubectl, "delete", "node", "hollow", check=False)
        self.refuses("to-hollow", "stay", "hollow", "hollow", "not ready")
        self.untouched("stay")

    def test_a_second_migration_of_the_same_pod(self):
        a, b = self.nodes[:2]
        self.start(self.pod("wanted", a, self.container(env={"MIB": 256})))
        self.apply(self.migration("first", "wanted", b), self.migration("second", "wanted", b))
        outcomes = {n: self.finished("migration", n) for n in ("first", "second")}
        phases = sorted(o["status"]["phase"] for o in outcomes.values())
        self.assertEqual(phases, ["Failed", "Succeeded"])
        loser = next(o for o in outcomes.values() if o["status"]["phase"] == "Failed")
        self.assertRegex(json.dumps(loser["status"]["conditions"]), "first|second")
        self.assertRunsOnce("wanted")

    def test_what_criu_cannot_dump(self):
        a, b = self.nodes[:2]
        pod = self.start(self.pod("uring", a, self.container("app", IO_URING)))
        if "io_uring -1" in self.log("uring"):
            self.skipTest("this kernel refuses io_uring to containers")
        self.refuses("move-uring", "uring", b, "io_uring")
        self.untouched("uring")

    def test_volumes_and_owners_that_stay(self):
        a, b = self.nodes[:2]
        mount = [{"name": "v", "mountPath": "/v"}]
        self.start(self.pod("rooted", a, self.container(volumeMounts=mount), volumes=[{"name": "v", "hostPath": {"path": "/tmp"}}]))
        self.refuses("move-rooted", "rooted", b, "hostPath")
        self.untouched("rooted")
        self.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
            "replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [self.container()]}}}})
        self.running("db-0")
        at = self.get("pod", "db-0")["spec"]["nodeName"]
        self.refuses("move-db", "db-0", b if at == a else a, "StatefulSet")

    def test_the_image_is_missing_on_the_target(self):
        a, b = self.nodes[:2]
        # An image that only the source's node has got, for a pod that forbids to pull it.
        image = f"registry.godwit.test/{self.namespace}:1"
        layout = run(REPO / "tests/cluster/images/build").strip()
        run(REPO / "tests/cluster/push-image", f"{layout}/workload", f"{self.namespace}:1")
        self.start(self.pod("puller", a, self.container(image=image)))
        self.start(self.pod("pinned", a, self.container(image=image, imagePullPolicy="Never")))
        self.refuses("move-pinned", "pinned", b, "mage")
        self.untouched("pinned")

    def restart_agent(self, node):
        """Its mounts are taken anew from the node then."""
        kubectl("-n", SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/component=agent", f"--field-selector=spec.nodeName={node}")
        kubectl("-n", SYSTEM, "rollout", "status", "daemonset/godwit-agent", "--timeout=120s")

    def test_no_room_on_the_target(self):
        a, b = self.nodes[:2]
        self.start(self.pod("fat", a, self.container(env={"MIB": 512})))
        # Where images go, the target has a small disk.
        on_node(b, "mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", "/var/lib/godwit")
        try:
            self.restart_agent(b)
            self.refuses("move-fat", "fat", b, "MiB")
        finally:
            on_node(b, "umount", "-l", "/var/lib/godwit")
            self.restart_agent(b)
        self.untouched("fat")

    def test_an_annotation_without_a_migration_behind_it(self):
        pod = self.pod("impostor", self.nodes[0], metadata={"annotations": {"godwit.io/migration": "00000000-0000-0000-0000-000000000000"}},
                       runtimeClassName="godwit")
        self.apply(pod)

        def refused():
            statuses = self.get("pod", "impostor")["status"].get("containerStatuses", [])
            return next((t["message"] for s in statuses for t in (s["state"].get("terminated"), s["state"].get("waiting"), s["lastState"].get("terminated"))
                         if t and "no state" in t.get("message", "")), None)
        print("   ", wait("the refusal", refused))

    def test_a_certificate_of_another_authority_is_not_believed(self):
        a, b = self.nodes[:2]
        self.start(self.pod("wary", a))
        # Who connects to the target's agent comes to an impostor, with a certificate that nobody has signed.
        impostor = on_node(b, "sh", "-c", IMPOSTOR, str(AGENT_API)).split()[-1]
        try:
            self.refuses("move-wary", "wary", b, "certificate")
        finally:
            on_node(b, "nft", "delete", "table", "ip", "impostor")
            on_node(b, "kill", impostor)
        self.untouched("wary")

    def test_the_agent_is_unreachable(self):
        a, b = self.nodes[:2]
        self.start(self.pod("lonely", a))
        # The target's agent stops answering (the process stands still), so does its port.
        pid = on_node(b, "sh", "-c", "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = godwit-agent ] && echo ${p#/proc/}; done; true").split()
        self.assertTrue(pid)
        on_node(b, "kill", "-STOP", *pid)
        try:
            self.refuses("move-lonely", "lonely", b, "agent")
        finally:
            on_node(b, "kill", "-CONT", *pid)
        self.untouched("lonely")
        wait("the agent to be ready again", lambda: json.loads(kubectl("-n", SYSTEM, "get", "ds", "godwit-agent", "-o", "json"))["status"].get("numberReady") ==
             json.loads(kubectl("-n", SYSTEM, "get", "ds", "godwit-agent", "-o", "json"))["status"].get("desiredNumberScheduled"), 120)
