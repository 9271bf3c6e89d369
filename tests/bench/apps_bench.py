#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real applications moved back and forth under load on the test cluster; after each move each is checked by its own means.

    apps_bench.py --image NAME@DIGEST [--apps redis,gc,postgres] [--runs N] [--mib MIB] [--shared-buffers SIZE] [--json FILE]

redis     MIB of known content, some of it rewritten and compared all the time, under redis-benchmark. All of it is read back,
          the server must be the same process, and a client in another pod counts with INCR through a Service: no increment
          that was acknowledged may be lost.
gc        a Go program that rewrites a heap of MIB; it verifies the checksums of all live objects all the time.
postgres  under pgbench. Its sums must agree, pg_amcheck finds nothing, the server did not restart, history only grows.

`make bench-apps` builds and pushes the image. Prints a line a move; freeze as the Migration tells it, gap as the pod itself saw
it on CLOCK_REALTIME. Ends non-zero when a move or a check failed.
"""

import argparse
import json
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster/e2e"))
from cluster import ClusterTest, CommandFailed, kubectl, on_node, seconds, wait  # noqa: E402


class Wrong(Exception):
    """What an application's own check has found."""


class Bench(ClusterTest):
    image = ""

    def runTest(self):
        pass

    def begin(self, name, command, env=None, **spec):
        container = self.container(env=env, image=self.image, command=command)
        self.apply(self.pod(name, self.nodes[0], {**container, **spec.pop("container", {})}, **spec))
        self.running(name, 120)
        return name

    def execute(self, pod, *command):
        """What the command says in the pod; Wrong with that when it fails."""
        try:
            return kubectl("-n", self.namespace, "exec", pod, "-c", "app", "--", *command, timeout=300)
        except CommandFailed as failed:
            raise Wrong(str(failed).strip().splitlines()[-1]) from None

    def move(self, pod, node, name, spec):
        """One migration; the pod's new name, and its figures."""
        began = time.monotonic()
        self.apply(self.migration(name, pod, node, **spec))
        status = self.succeeded("migration", name, 900)["status"]
        total = time.monotonic() - began
        target = status["targetPodName"]
        log = wait("the target to beat", lambda: (lambda text: text if text.count("beat ") >= 3 else None)(self.log(target)), 60)
        before = status.get("preCopy", {})
        return target, {
            "freeze_ms": seconds(status["freeze"]["duration"]) * 1000, "total_s": total, "strategy": status.get("strategy", ""),
            "gap_ms": max((float(ms) for ms in re.findall(r"^gap ([\d.]+) ", log, re.M)), default=0.0),
            "rounds": before.get("rounds", 0), "predicted_ms": seconds(before.get("predictedFreeze", "")) * 1000,
            "transfer": status["transfer"], "preCopy": before,
            "converged": next((c["status"] for c in status["conditions"] if c["type"] == "Converged"), ""),
            "steps": [{"name": s["name"], "offset_ms": seconds(s.get("offset", "")) * 1000,
                       "duration_ms": seconds(s.get("duration", "")) * 1000} for s in status["freeze"].get("steps", [])]}

    def can_dump_others(self):
        """CRIU needs CAP_SYS_RESOURCE (24) for the processes of another user than its own. Real nodes have it."""
        bounding = re.search(r"CapBnd:\s*(\w+)", on_node(self.nodes[0], "cat", "/proc/1/status")).group(1)
        return bool(int(bounding, 16) >> 24 & 1)

    def check_not_restarted(self, pod):
        restarts = [c["restartCount"] for c in self.get("pod", pod)["status"]["containerStatuses"]]
        if any(restarts):
            raise Wrong(f"restarted: {restarts}")


class Redis:
    """Its client lives in a pod of its own, which does not move."""

    def __init__(self, bench, options):
        self.bench, self.mib = bench, options.mib
        self.pod = bench.begin("redis", ["/apps/redis_pod.sh"], {"MIB": self.mib, "KEYS": 20000, "VALUE": 256, "CLIENTS": 8})
        bench.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "redis"},
                     "spec": {"selector": {"app": "redis"}, "ports": [{"port": 6379}]}})
        wait("redis to be filled", lambda: "filled" in bench.log("redis"), 180)
        address = bench.get("service", "redis")["spec"]["clusterIP"]
        bench.begin("client", ["python3", "/apps/sequence.py", f"{address}:6379"])
        self.acknowledged, self.told = 0, 0
        self.count()
        self.server = self.run_id()

    def run_id(self):
        return re.search(r"run_id:(\w+)", self.bench.execute(self.pod, "redis-cli", "info", "server")).group(1)

    def count(self):
        """Waits until the client's next increment is acknowledged; what it saw since the last time."""
        now = time.time()

        def counting():
            lines = re.findall(r"acknowledged (\d+) at ([\d.]+) reconnects (\d+) wrong (\d+)", self.bench.log("client"))
            return lines[-1] if lines and float(lines[-1][1]) > now + 1 else None
        value, _, reconnects, wrong = map(float, wait("the client to count on", counting, 120))
        text = self.bench.log("client")
        outages, self.told = re.findall(r"^outage ([\d.]+)", text[self.told:], re.M), len(text)
        if wrong or value <= self.acknowledged:
            raise Wrong(f"acknowledged increments lost: {re.findall('WRONG.*', text)}, {self.acknowledged} before, {value} now")
        self.acknowledged = value
        return {"acknowledged": int(value), "reconnects": int(reconnects), "outage_ms": max(map(float, outages), default=0.0)}

    def rewritten(self):
        log = wait("redis' content to be rewritten", lambda: (lambda text: text if text.count("rewritten ") > 2 else None)(
            self.bench.log(self.pod)), 60)
        count, wrong = map(int, re.findall(r"rewritten (\d+) wrong (\d+)", log)[-1])
        if wrong or "WRONG" in log:
            raise Wrong(f"rewritten {count} values, {wrong} were not what was written last {re.findall('WRONG.*', log)}")
        return count

    def check(self):
        counted = self.count()
        said = self.bench.execute(self.pod, "python3", "/apps/redis_data.py", "check", str(self.mib)).strip()
        rewritten = self.rewritten()
        if self.run_id() != self.server:
            raise Wrong("another redis-server answers")
        return {**counted, "rewritten": rewritten, "told": f"{said}; rewritten {rewritten} wrong 0; INCR at {counted['acknowledged']}, "
                                                           f"client without answer {counted['outage_ms']:.0f} ms"}


class GarbageCollected:
    def __init__(self, bench, options):
        self.bench = bench
        # Three quarters live; what may be garbage before it is collected makes it up to the heap's size.
        live = options.mib * 3 // 4
        self.pod = bench.begin("gc", ["sh", "-c", f"bench-workload 1 0 & exec churn {live} {options.churn}"])
        self.passes = 0
        self.check()

    def check(self):
        """Waits for a pass over all live objects that began after the move: the log is the target pod's own."""
        def passes():
            found = re.findall(r"pass (\d+) verified (\d+) objects, wrong (\d+), heap (\d+) MiB collections (\d+)",
                               self.bench.log(self.pod))
            return [tuple(map(int, one)) for one in found] if len(found) >= 2 else None
        found = wait("a pass over the heap", passes, 180)
        number, objects, wrong, heap, collections = found[-1]
        if wrong or found[0][0] <= self.passes:
            raise Wrong(f"{wrong} objects wrong, pass {found[0][0]} after {self.passes}\n" + "\n".join(
                sorted(set(re.findall("WRONG:.*", self.bench.log(self.pod))))[:20]))
        self.passes = number
        return {"objects": objects, "heap_mib": heap,
                "told": f"verified {objects} wrong {wrong}; heap {heap} MiB, collection {collections}"}


class Postgres:
    def __init__(self, bench, options):
        self.bench, self.history, self.started = bench, 0, None
        user = 65534 if bench.can_dump_others() else 0
        self.pod = bench.begin(
            "postgres", ["/apps/postgres_pod.sh"],
            {"SHARED_BUFFERS": options.shared_buffers, "SCALE": options.scale, "RATE": options.rate},
            container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]}, volumes=[{"name": "data", "emptyDir": {}}],
            securityContext={"runAsUser": user, "runAsGroup": user})
        wait("postgres to be filled", lambda: "filled" in bench.log("postgres"), 180)
        wait("pgbench to begin", lambda: "beat 8 " in bench.log("postgres"), 60)
        self.check()

    def check(self):
        said = self.bench.execute(self.pod, "/apps/postgres_check.sh")
        history, started, loads = re.search(r"history (\d+) started ([\d.]+) loads (\d+)", said).groups()
        if int(history) <= self.history:
            raise Wrong(f"history: {self.history} rows before, {history} now")
        if self.started not in (None, started):
            raise Wrong(f"another server: started {self.started}, now {started}")
        self.history, self.started = int(history), started
        return {"transactions": self.history, "loads": int(loads),
                "told": f"sums agree, amcheck clean; {history} transactions, pgbench broken off {loads} times"}


APPS = {"redis": Redis, "gc": GarbageCollected, "postgres": Postgres}
HEAD = f"{'app':>9} {'run':>3} {'strategy':>12} {'rounds':>6} {'freeze ms':>9} {'gap ms':>8} {'total s':>7} | check"


def measure(name, options, report):
    """Moves one application back and forth; ends early when it could not be moved."""
    bench = Bench()
    app = APPS[name](bench, options)
    for run in range(1, options.runs + 1):
        figures = {"app": name, "run": run, "error": ""}
        report.append(figures)
        try:
            app.pod, moved = bench.move(app.pod, bench.nodes[run % 2], f"{name}-{run}", {"strategy": "Auto", **options.spec})
        except AssertionError as failed:
            figures["error"] = f"not moved: {failed}"
            print(f"{name:>9} {run:>3} {figures['error']}", flush=True)
            break
        figures |= moved
        try:
            bench.check_not_restarted(app.pod)
            figures |= app.check()
        except (Wrong, AssertionError) as wrong:
            figures["error"] = f"WRONG: {wrong}"
        print(f"{name:>9} {run:>3} {moved['strategy']:>12} {moved['rounds']:>6} {moved['freeze_ms']:9.1f} {moved['gap_ms']:8.1f}"
              f" {moved['total_s']:7.2f} | {figures['error'] or figures['told']}", flush=True)
    kubectl("-n", bench.namespace, "delete", "pod", "--all", "--grace-period=0", "--force", "--wait=false", check=False)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", required=True)
    parser.add_argument("--apps", default=",".join(APPS))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--mib", type=int, default=1024, help="content of redis, heap of gc")
    parser.add_argument("--churn", type=float, default=50, help="gc: MB of new objects a second")
    parser.add_argument("--shared-buffers", default="128MB", help="of postgres")
    parser.add_argument("--scale", type=int, default=10, help="pgbench's")
    parser.add_argument("--rate", default="300", help="pgbench's, transactions a second; empty: as many as the processors do")
    parser.add_argument("--spec", type=json.loads, default={}, help="more of the Migration's spec, JSON")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    Bench.image = options.image
    Bench.setUpClass()
    report = []
    try:
        print(HEAD)
        for name in options.apps.split(","):
            measure(name, options, report)
    finally:
        if options.json:
            pathlib.Path(options.json).parent.mkdir(parents=True, exist_ok=True)
            pathlib.Path(options.json).write_text(json.dumps(report, indent=1))
        Bench.tearDownClass()
    failed = [one for one in report if one["error"]]
    print(f"{len(report) - len(failed)} moves with all right, {len(failed)} without")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
