#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Freeze and total time of migrations on the test cluster, measured by the pod that is moved.

    cluster_bench.py [--cells MIB:RATE,...] [--baseline MIB:RATE,...] [--runs N] [--strategy Auto] [--json FILE]

For each cell (MiB of memory, MB/s rewritten) a pod of tests/bench/workload.cc is moved back and forth N times. The gap is
what the workload itself saw on CLOCK_REALTIME (both nodes are on one machine); after each move it compares every page of its
memory with what was last written there. Prints a table; --json writes every single run.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster/e2e"))
from cluster import ClusterTest, kubectl, wait  # noqa: E402


def seconds(duration):
    """A Go duration ("1m2.5s", "87ms") in seconds."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
    return sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)(h|ms|us|µs|ns|m|s)", duration or ""))


class Bench(ClusterTest):
    def runTest(self):
        pass

    def begin(self, mib, rate, name):
        pod = self.pod(name, self.nodes[0])
        pod["spec"]["containers"][0]["command"] = ["bench-workload", str(mib), str(rate)]
        self.apply(pod)
        self.running(name)
        wait("the workload", lambda: "beat 4 " in self.log(name), 120)
        return name

    def move(self, pod, node, name, strategy, spec):
        """One migration; its figures, and the pod's new name."""
        began = time.monotonic()
        self.apply(self.migration(name, pod, node, strategy=strategy, **spec))
        migration = self.succeeded("migration", name, 600)
        total = time.monotonic() - began
        target = migration["status"]["targetPodName"]
        log = wait("the target to beat", lambda: (lambda text: text if text.count("beat ") >= 3 else None)(self.log(target)), 60)
        gaps = [float(ms) for ms in re.findall(r"^gap ([\d.]+) ", log, re.M)]
        kubectl("-n", self.namespace, "exec", target, "--", "kill", "-USR1", "1")
        checked = wait("the memory to be verified", lambda: re.search(r"verified (\d+) wrong (\d+)", self.log(target)), 120)
        status = migration["status"]
        return target, {
            "gap_ms": max(gaps, default=0.0), "freeze_ms": seconds(status["freeze"]["duration"]) * 1000, "total_s": total,
            "strategy": status.get("strategy", strategy), "rounds": status.get("preCopy", {}).get("rounds", 0),
            "predicted_ms": seconds(status.get("preCopy", {}).get("predictedFreeze", "")) * 1000,
            "memory_bytes": status["transfer"].get("memoryBytes", 0), "wire_bytes": status["transfer"].get("wireBytes", 0),
            "pages": int(checked.group(1)), "wrong": int(checked.group(2)),
            "steps": [{"name": s["name"], "offset_ms": seconds(s.get("offset", "")) * 1000,
                       "duration_ms": seconds(s.get("duration", "")) * 1000} for s in status["freeze"].get("steps", [])]}


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))]


HEAD = (f"{'strategy':>12} {'MiB':>6} {'MB/s':>5} {'runs':>4} | gap ms: {'p50':>7} {'p99':>7} {'max':>7} |"
        f" {'freeze p50':>10} | {'total s p50':>11} | wrong of pages")


def measure(bench, name, cell, strategy, runs, spec):
    """One cell: a row of the table, and every run's figures."""
    mib, rate = cell.split(":")
    pod = bench.begin(mib, rate, name)
    figures = []
    for run in range(runs):
        pod, one = bench.move(pod, bench.nodes[(run + 1) % 2], f"{name}-{run}", strategy, spec)
        figures.append(one)
    kubectl("-n", bench.namespace, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false", check=False)
    gaps = [r["gap_ms"] for r in figures]
    print(f"{strategy:>12} {mib:>6} {rate:>5} {len(figures):>4} |         {statistics.median(gaps):7.1f} {percentile(gaps, 99):7.1f}"
          f" {max(gaps):7.1f} | {statistics.median(r['freeze_ms'] for r in figures):10.1f} |"
          f" {statistics.median(r['total_s'] for r in figures):11.2f} |"
          f" {sum(r['wrong'] for r in figures)} of {sum(r['pages'] for r in figures)}", flush=True)
    return {"mib": int(mib), "rate_mb_s": float(rate), "strategy": strategy, "runs": figures}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", default="64:0,64:50,512:0,512:50,2048:50,8192:50")
    parser.add_argument("--baseline", default="512:50", help="cells to move by StopAndCopy too, in the same run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--strategy", default="Auto")
    parser.add_argument("--spec", default="{}", help="more of the Migration's spec, JSON")
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    cells = [(cell, args.strategy) for cell in args.cells.split(",") if cell]
    cells += [(cell, "StopAndCopy") for cell in args.baseline.split(",") if cell]
    Bench.setUpClass()
    results = []
    try:
        print(HEAD)
        for number, (cell, strategy) in enumerate(cells):
            results.append(measure(Bench(), f"bench{number}", cell, strategy, args.runs, json.loads(args.spec)))
        median = {(r["mib"], r["rate_mb_s"], r["strategy"]): statistics.median(x["gap_ms"] for x in r["runs"]) for r in results}
        for (mib, rate, strategy), gap in median.items():
            own = median.get((mib, rate, args.strategy))
            if strategy == "StopAndCopy" and own:
                print(f"{mib} MiB at {rate:g} MB/s: StopAndCopy stands still {gap / own:.1f} times as long as {args.strategy}")
    finally:
        if args.json:
            pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
            pathlib.Path(args.json).write_text(json.dumps(results, indent=1))
        Bench.tearDownClass()
    return 1 if any(r["wrong"] for cell in results for r in cell["runs"]) else 0


if __name__ == "__main__":
    sys.exit(main())
