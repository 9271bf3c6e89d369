# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: kubectl, waiting with a deadline, workloads that check themselves.

Every test works in a namespace of its own on the running cluster (make cluster-up deploy), so tests do not meet.
"""

import contextlib
import json
import os
import pathlib
import random
import re
import string
import subprocess
import tempfile
import threading
import time
import unittest

REPO = pathlib.Path(__file__).resolve().parents[3]
KUBECTL = REPO / "build/cluster/bin/kubectl"
NODE = REPO / "tests/cluster/node"
WORKLOAD = os.environ.get("GODWIT_WORKLOAD_IMAGE", "registry.godwit.test/workload:1")
SYSTEM = os.environ.get("GODWIT_NAMESPACE", "godwit-system")

# Counts without end, a line a number with the wall clock, and keeps `mib` MiB of memory whose pages it wrote once and
# checks over and over: "WRONG" in its log is a page that came back with other content.
COUNTER = r"""
import os, sys, time
mib = int(os.environ.get("MIB", "0")); period = float(os.environ.get("PERIOD", "0.01"))
memory = bytearray(mib << 20); pages = len(memory) // 4096
for page in range(pages): memory[page*4096:page*4096+8] = (page ^ 0x5bd1e995).to_bytes(8, "little")
n = 0; page = 0
while True:
    for _ in range(min(pages, 512)):
        if memory[page*4096:page*4096+8] != (page ^ 0x5bd1e995).to_bytes(8, "little"): print("WRONG page", page, flush=True)
        page = (page + 1) % pages
    n += 1
    print("count", n, "at", "%.6f" % time.time(), "host", os.uname().nodename, flush=True)
    time.sleep(period)
"""


class CommandFailed(AssertionError):
    pass


def run(*argv, stdin=None, check=True, timeout=120):
    """Runs a command; its output as text. A failure says what was run and what it said."""
    done = subprocess.run([str(a) for a in argv], input=stdin, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise CommandFailed(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout if check else done


def kubectl(*argv, **kwargs):
    return run(KUBECTL, f"--kubeconfig={REPO}/build/cluster/kubeconfig", *argv, **kwargs)


def on_node(node, *argv, **kwargs):
    return run(NODE, node, *argv, **kwargs)


def wait(what, condition, seconds=60, every=0.2):
    """The first true value of condition(); fails with `what` and the last value when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(every)


@contextlib.contextmanager
def watching(*argv, seconds):
    """The lines of `kubectl get --watch`, for so long."""
    with subprocess.Popen([str(KUBECTL), f"--kubeconfig={REPO}/build/cluster/kubeconfig", "get", "--watch", *argv],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        timer = threading.Timer(max(seconds, 0), process.kill)
        timer.start()
        try:
            yield process.stdout
        finally:
            timer.cancel()
            process.kill()


def seconds(duration):
    """A Go duration ("1m2.5s", "87ms") in seconds."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
    return sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)(h|ms|us|µs|ns|m|s)", duration or ""))


def counts(log):
    """[(number, wall clock)] of a counter's log; fails on pages that came back wrong."""
    assert "WRONG" not in log, re.search("WRONG.*", log).group()
    return [(int(n), float(at)) for n, at in re.findall(r"count (\d+) at ([\d.]+)", log)]


class ClusterTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.namespace = "e2e-" + "".join(random.choices(string.ascii_lowercase, k=6))
        kubectl("create", "namespace", cls.namespace)
        # The controllers make the default ServiceAccount a moment later; pods are refused before.
        wait("the default ServiceAccount", lambda: kubectl("-n", cls.namespace, "get", "sa", "default", check=False).returncode == 0)
        cls.nodes = sorted(n["metadata"]["name"] for n in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
                           if n["metadata"]["labels"]["kubernetes.io/arch"] == "amd64")

    @classmethod
    def tearDownClass(cls):
        kubectl("delete", "namespace", cls.namespace, "--wait=false")
        wait("the namespace to go", lambda: kubectl("get", "namespace", cls.namespace, check=False).returncode != 0, 120)

    # --- objects

    def get(self, kind, name):
        done = kubectl("-n", self.namespace, "get", kind, name, "-o", "json", check=False)
        if done.returncode != 0:
            if "NotFound" in done.stderr:
                return None
            raise CommandFailed(done.stderr)
        return json.loads(done.stdout)

    def list(self, kind, *argv):
        return json.loads(kubectl("-n", self.namespace, "get", kind, "-o", "json", *argv))["items"]

    def apply(self, *objects):
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return kubectl("-n", self.namespace, "apply", "-f", "-", stdin=text)

    def refused(self, obj):
        """What the API server says when it refuses the object."""
        done = kubectl("-n", self.namespace, "apply", "-f", "-", stdin=json.dumps(obj), check=False)
        self.assertNotEqual(done.returncode, 0, f"accepted: {obj}")
        return done.stderr

    def container(self, name="app", program=COUNTER, env=None, **more):
        return {"name": name, "image": WORKLOAD, "command": ["python3", "-c", program],
                "env": [{"name": k, "value": str(v)} for k, v in (env or {}).items()], **more}

    def pod(self, name, node, *containers, metadata=None, **spec):
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}, **(metadata or {})},
                "spec": {"nodeName": node, "terminationGracePeriodSeconds": 5,
                         "containers": list(containers) or [self.container()], **spec}}

    def migration(self, name, pod, node, **spec):
        return {"apiVersion": "godwit.io/v1alpha1", "kind": "Migration", "metadata": {"name": name},
                "spec": {"podRef": {"name": pod}, "target": {"nodeName": node}, **spec}}

    def checkpoint(self, name, pod):
        return {"apiVersion": "godwit.io/v1alpha1", "kind": "Checkpoint", "metadata": {"name": name},
                "spec": {"podRef": {"name": pod}}}

    def restore(self, name, checkpoint, node=None):
        spec = {"checkpointRef": {"name": checkpoint}}
        if node:
            spec["target"] = {"nodeName": node}
        return {"apiVersion": "godwit.io/v1alpha1", "kind": "Restore", "metadata": {"name": name}, "spec": spec}

    # --- what happens to them

    def running(self, name, seconds=60):
        def check():
            pod = self.get("pod", name)
            if not pod or pod["status"].get("phase") != "Running":
                return None
            states = pod["status"].get("containerStatuses", [])
            return pod if states and all("running" in s["state"] for s in states) else None
        return wait(f"pod {name} to run", check, seconds)

    def start(self, pod, until=lambda log: "count 20 " in log, seconds=60):
        """Applies a pod and waits until it runs and its log says that it is at work."""
        self.apply(pod)
        name = pod["metadata"]["name"]
        self.running(name, seconds)
        container = pod["spec"]["containers"][0]["name"]
        wait(f"{name} to work", lambda: until(self.log(name, container)), seconds)
        return self.get("pod", name)

    def log(self, pod, container="app"):
        return kubectl("-n", self.namespace, "logs", pod, "-c", container, check=False).stdout

    def finished(self, kind, name, seconds=150):
        """The object once its phase is final. One kubectl watches it: the start-ups of many that ask would take the processors of the
        freeze that is looked at."""
        final = ("Succeeded", "Failed", "Ready")
        deadline = time.monotonic() + seconds
        while True:
            with watching("-n", self.namespace, kind, name, "-o", 'jsonpath={.status.phase}{"\\n"}',
                          seconds=deadline - time.monotonic()) as phases:
                any(phase.strip() in final for phase in phases)
            obj = self.get(kind, name)
            if obj and obj.get("status", {}).get("phase") in final:
                return obj
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s for {kind} {name} to finish\n"
                                     f"{kubectl('-n', self.namespace, 'describe', kind, name, check=False).stdout}")
            time.sleep(0.2)

    def succeeded(self, kind, name, seconds=150):
        obj = self.finished(kind, name, seconds)
        self.assertIn(obj["status"]["phase"], ("Succeeded", "Ready"), json.dumps(obj["status"], indent=1))
        return obj

    def failed(self, kind, name, seconds=150):
        """(reason, message) of a failed object, and the same as an Event."""
        obj = self.finished(kind, name, seconds)
        self.assertEqual(obj["status"]["phase"], "Failed", json.dumps(obj["status"], indent=1))
        told = [(c.get("reason", ""), c.get("message", "")) for c in obj["status"]["conditions"]
                if c["type"] in ("Complete", "Succeeded", "Failed", "Ready")]
        self.assertTrue(told, json.dumps(obj["status"], indent=1))
        reason, message = told[-1]
        wait(f"an Event of {name}", lambda: any(
            e["involvedObject"]["name"] == name and e["type"] == "Warning" for e in self.list("events")), 20)
        return reason, message

    def follow(self, pod, container="app"):
        """Follows a container's log on its node, beyond the life of the pod object. Returns a function that stops and gives the text."""
        folder = f"/var/log/pods/{self.namespace}_{pod['metadata']['name']}_{pod['metadata']['uid']}/{container}"
        out = tempfile.TemporaryFile("w+")
        process = subprocess.Popen([str(NODE), pod["spec"]["nodeName"], "tail", "-s", "0.1", "-n", "+1", "-F", f"{folder}/0.log"],
                                   stdout=out, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        self.addCleanup(process.kill)

        def text():
            process.kill()
            process.wait()
            out.seek(0)
            return out.read()
        return text

    def unbroken(self, source_log, target_log):
        """No number missing, none twice, in the joined logs; returns the gap in seconds that the workload saw."""
        before, after = counts(source_log), counts(target_log)
        self.assertTrue(before and after, "no numbers in the logs")
        numbers = [n for n, _ in before + after]
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))))
        return after[0][1] - before[-1][1]

    def left_nothing(self, migration):
        """That the nodes have no file, cgroup or nft table of a Migration that has ended, and nothing frozen, and that no process of a move
        runs, when this is the only one."""
        uid, status = migration["metadata"]["uid"], migration["status"]
        script = f"""find /var/lib/godwit /run/godwit /sys/fs/cgroup -path '*{uid}*' 2>/dev/null
            nft list tables | grep -i {uid}
            cat /proc/[0-9]*/comm 2>/dev/null | grep -x -e godwit-guard -e godwit-pager -e godwit-runtime
            find /sys/fs/cgroup -path '*{status["sourcePodUID"]}*' -name cgroup.freeze -exec grep -l 1 {{}} + 2>/dev/null; true"""
        for node in self.nodes[:2]:
            deadline = time.monotonic() + 90
            while (left := on_node(node, "sh", "-c", script).strip()) and time.monotonic() < deadline:
                time.sleep(1)
            self.assertEqual(left, "", f"left on {node}")

    def copies(self, name_prefix):
        """The pods of this name and those that came from it that run."""
        return [p for p in self.list("pods") if p["metadata"]["name"].startswith(name_prefix)
                and p["status"].get("phase") == "Running" and not p["metadata"].get("deletionTimestamp")]

    def told(self, obj):
        return next(f"{c['reason']}: {c['message']}" for c in obj["status"]["conditions"] if c["type"] == "Complete")

    def assertRunsOnce(self, name_prefix):
        """Exactly one pod with this prefix runs, with no container restarted."""
        pods = self.copies(name_prefix)
        self.assertEqual(len(pods), 1, [(p["metadata"]["name"], p["status"]) for p in pods])
        return pods[0]
