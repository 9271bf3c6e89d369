#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Freeze and total time of migrations on the test cluster, measured by the pod that is moved.

    cluster_bench.py [--cells MIB:RATE[:shared],...] [--runs N] [--series MIB:RATE:RUNS,...] [--baseline METHOD:MIB:RATE[:shared],...]
                     [--workload FILE] [--spec JSON] [--json FILE [--fresh]]

For each cell (MiB of memory, MB/s rewritten; shared: mapped as processes share it) a pod of tests/bench/workload.cc is moved back and
forth N times; a series is a cell with runs of its own. The gap is what the workload itself saw on CLOCK_REALTIME (all nodes are on one
machine); after each move it compares every page of its memory with what was last written there. A baseline is moved as often, right
after the cell of the same memory and rate: by another strategy (StopAndCopy), or by runc and CRIU alone (plain_runc.py: runc,
lazy-pages; needs the program as --workload). Meanwhile it is watched what the agents take.

Prints a row as soon as it is complete, the ratios at the end. --json holds every single run as soon as it was made, and a measurement
that was broken off goes on from there. Ends with 1 when a page was wrong or a move failed.
"""

import argparse
import itertools
import json
import pathlib
import re
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster/e2e"))
from agent_use import AgentUse  # noqa: E402
from cluster import SYSTEM, ClusterTest, kubectl, on_node, seconds, wait  # noqa: E402
from plain_runc import METHODS, PlainContainer, large_pipes  # noqa: E402
from results import Results, Table, machine_facts, median, percentile, run_part  # noqa: E402

MATRIX = ",".join(f"{mib}:{rate}" for mib, rate in itertools.product((64, 512, 2048, 8192), (0, 10, 50, 200)))
MOVE_LIMIT = 900  # seconds
ROOM_LIMIT = 60
ATTEMPTS = 3  # to go on with a row after moves that failed one after another


def cluster_facts(nodes):
    """Facts of the cluster and of what of Godwit runs there."""
    info = json.loads(kubectl("get", "nodes", "-o", "json"))["items"][0]["status"]["nodeInfo"]
    agents = json.loads(kubectl("-n", SYSTEM, "get", "pods", "-o", "json"))["items"]
    images = sorted({status["imageID"].rpartition("@")[2] for pod in agents for status in pod["status"].get("containerStatuses", [])})
    criu, runc = (on_node(nodes[0], *command).splitlines()[0] for command in
                  (("/opt/godwit/criu/criu", "--version"), ("runc", "--version")))
    return {**machine_facts(), "nodes": nodes, "kubelet": info["kubeletVersion"], "containerd": info["containerRuntimeVersion"],
            "criu": criu, "runc": runc, "godwit_images": images}


def wait_for_room(mib):
    """Until what the pod before took has been given back: source, store and target need memory at a time."""
    def available():
        return int(re.search(r"MemAvailable:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1)) >> 10
    try:
        wait("memory", lambda: available() > 2.5 * mib, ROOM_LIMIT)
    except AssertionError:
        print(f"  only {available()} MiB are available for moving {mib} MiB", flush=True)


def label(key):
    """A row's method, and what its memory is where that is not a process' own."""
    return " ".join([key["method"], *([key["kind"]] if "kind" in key else [])])


class Bench(ClusterTest):
    def runTest(self):
        pass

    def begin(self, cell, name):
        pod = self.pod(name, self.nodes[0])
        pod["spec"]["containers"][0]["command"] = ["bench-workload", *cell]
        self.apply(pod)
        self.running(name)
        wait("the workload", lambda: "beat 4 " in self.log(name), 120)
        return name

    def end(self, pod):
        kubectl("-n", self.namespace, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false", check=False)
        wait("the pod to go", lambda: self.get("pod", pod) is None, 60)

    def move(self, pod, node, name, strategy, spec):
        """One migration; its figures, and the pod's new name."""
        began = time.monotonic()
        with AgentUse(self.nodes) as use:
            self.apply(self.migration(name, pod, node, strategy=strategy, **spec))
            migration = self.succeeded("migration", name, MOVE_LIMIT)
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
            "converged": next((c["status"] for c in status["conditions"] if c["type"] == "Converged"), ""),
            "predicted_ms": seconds(status.get("preCopy", {}).get("predictedFreeze", "")) * 1000,
            "memory_bytes": status["transfer"].get("memoryBytes", 0), "wire_bytes": status["transfer"].get("wireBytes", 0),
            "pages": int(checked.group(1)), "wrong": int(checked.group(2)), "use": use.figures(),
            "steps": [{"name": s["name"], "offset_ms": seconds(s.get("offset", "")) * 1000,
                       "duration_ms": seconds(s.get("duration", "")) * 1000} for s in status["freeze"].get("steps", [])]}


class Measurement:
    """Rows of moves, each made to its number of runs."""

    def __init__(self, bench, results, options):
        self.bench, self.results, self.options = bench, results, options
        self.pods = 0
        self.rows = []  # keys, in the order of the table
        self.table = Table("Moves of a pod: the gap is what the pod itself saw", ("method", -18), ("MiB", 6), ("MB/s", 5), ("runs", 5), ("failed", 6),
                           ("gap ms p50", 10), ("p99", 8), ("max", 8), ("freeze p50", 10), ("total s p50", 11), ("max", 7),
                           ("wrong of pages", 16))

    def row(self, method, cell, runs):
        mib, rate, *kind = cell
        key = {"method": method, "mib": int(mib), "rate_mb_s": float(rate), "wanted": runs}
        if kind:
            key["kind"] = kind[0]
        if key in self.rows:
            return
        self.rows.append(key)
        failures = 0
        while failures < ATTEMPTS and (missing := runs - len(self.moved(key))) > 0:
            wait_for_room(key["mib"])
            try:
                (self._plain if method in METHODS else self._godwit)(key, missing, cell)
            except (AssertionError, subprocess.SubprocessError) as failed:  # go on with a pod of its own
                failures = 1 if len(self.moved(key)) > runs - missing else failures + 1
                self.results.add({"error": str(failed)}, **key)
                print(f"  {method} {':'.join(cell)} was not moved: {str(failed).strip()[:600]}", flush=True)
        self.tell(key)

    def _plain(self, key, missing, cell):
        with large_pipes(), PlainContainer(self.bench.nodes[:2], self.options.workload, *cell) as container:
            for _ in range(missing):
                self.results.add(container.move(key["method"]), **key)

    def _godwit(self, key, missing, cell):
        self.pods += 1
        name = f"bench{self.pods}"
        pod = self.bench.begin(cell, name)
        try:
            for run_number in range(missing):
                pod, figures = self.bench.move(pod, self.bench.nodes[(run_number + 1) % 2], f"{name}-{run_number}", key["method"],
                                               self.options.spec)
                self.results.add(figures, **key)
        finally:
            self.bench.end(pod)

    def moved(self, key):
        return [one for one in self.results.runs(**key) if "error" not in one]

    def tell(self, key):
        runs = self.moved(key)
        if not runs:
            return
        gaps, totals = ([one[name] for one in runs] for name in ("gap_ms", "total_s"))
        freezes = [one["freeze_ms"] for one in runs if "freeze_ms" in one]
        self.table.row(label(key), key["mib"], f"{key['rate_mb_s']:g}", len(runs),
                       len(self.results.runs(**key)) - len(runs), f"{median(gaps):.1f}", f"{percentile(gaps, 99):.1f}",
                       f"{max(gaps):.1f}", f"{median(freezes):.1f}" if freezes else "-", f"{median(totals):.2f}", f"{max(totals):.2f}",
                       f"{sum(one['wrong'] for one in runs)} of {sum(one['pages'] for one in runs)}")

    def tell_ratios(self):
        """Each baseline beside the move by Godwit of the same memory and rate."""
        own = [key for key in self.rows if key["method"] == "Auto" and self.moved(key)]
        pairs = [(base, mine) for base in self.rows if base["method"] != "Auto" and self.moved(base) for mine in own
                 if {**mine, "method": ""} == {**base, "method": ""}]
        if not pairs:
            return
        table = Table("Baselines by Godwit's, medians", ("method", -18), ("MiB", 6), ("MB/s", 5), ("gap ms", 10), ("Godwit's", 10),
                      ("ratio", 7), ("total s", 9), ("Godwit's", 9), ("ratio", 7))
        for base, mine in pairs:
            figures = []
            for name, digits in (("gap_ms", 1), ("total_s", 2)):
                theirs, ours = (median([one[name] for one in self.moved(key)]) for key in (base, mine))
                figures += [f"{theirs:.{digits}f}", f"{ours:.{digits}f}", f"{theirs / ours:.2f}"]
            table.row(label(base), base["mib"], f"{base['rate_mb_s']:g}", *figures)

    def tell_use(self):
        rows = [(key, [one["use"] for one in self.moved(key) if "use" in one]) for key in self.rows]
        if not any(uses for _, uses in rows):
            return
        table = Table("The agents meanwhile, the more loaded of the two: peaks over all runs, CPU time a move (median)",
                      ("method", -18), ("MiB", 6), ("MB/s", 5), ("RSS MiB", 8), ("of it anon", 10), ("PSS MiB", 8), ("CPU s", 7),
                      ("guard+pager CPU s", 17), ("page stores MiB", 15))
        for key, uses in rows:
            if uses:
                peaks = [max(node[name] for use in uses for node in use["nodes"].values()) for name in ("rss_mib", "anon_mib", "pss_mib")]
                cpu = [median([max(node[name] for node in use["nodes"].values()) for use in uses])
                       for name in ("agent_cpu_s", "helpers_cpu_s")]
                table.row(label(key), key["mib"], f"{key['rate_mb_s']:g}", *(f"{peak:.0f}" for peak in peaks),
                          *(f"{one:.2f}" for one in cpu), f"{max(use['store_mib'] for use in uses):.0f}")

    def bad(self):
        return sum(one.get("wrong", 0) > 0 or "error" in one for key in self.rows for one in self.results.runs(**key))


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", default="64:0,512:0,512:50,2048:50", help="or 'matrix'")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--series", default="")
    parser.add_argument("--baseline", default="")
    parser.add_argument("--workload", default="build/release-tests/tests/bench/bench_workload")
    parser.add_argument("--spec", type=json.loads, default={}, help="more of the Migrations' spec")
    parser.add_argument("--json", default="build/bench/migrations.json")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    options = parser.parse_args()
    options.cells = [cell.split(":") for cell in options.cells.replace("matrix", MATRIX).split(",") if cell]
    options.series = [one.split(":") for one in options.series.split(",") if one]
    options.baseline = [one.split(":") for one in options.baseline.split(",") if one]
    return options


def main():
    options = parse()
    Bench.setUpClass()
    try:
        results = Results(options.json, {**cluster_facts(Bench.nodes), "spec": options.spec}, options.fresh)
        measurement = Measurement(Bench(), results, options)
        plan = [("Auto", cell, options.runs) for cell in options.cells]
        for method, *cell in options.baseline:
            after = max((i for i, row in enumerate(plan) if row[1] == cell), default=len(plan) - 1)
            plan.insert(after + 1, (method, cell, options.runs))
        plan += [("Auto", cell, int(runs)) for *cell, runs in options.series]
        for row in plan:
            measurement.row(*row)
        measurement.tell_ratios()
        measurement.tell_use()
        results.finish()
    finally:
        Bench.tearDownClass()
    return 1 if measurement.bad() else 0


if __name__ == "__main__":
    run_part(main)
