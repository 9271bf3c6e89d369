#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What dry runs foretell against what then happened, for workloads of many kinds on the running test cluster.

    dry_run_bench.py [--workloads NAME,...] [--runs N] [--json FILE]

Each workload's pod is rehearsed and then moved, back and forth, N times. Prints a line a move: freeze, total time and bytes, foretold
and actual. Ends non-zero when a dry run did not pass, a move failed, or a page came back wrong.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster/e2e"))
from cluster import ClusterTest, seconds, wait  # noqa: E402

# Made of what the environment says, and then counting, with RATE MiB a second written over HOT MiB of its memory.
PROGRAM = r"""
import mmap, os, threading, time
want = lambda name: int(os.environ.get(name, "0"))
mib, rate, hot = want("MIB"), want("RATE"), want("HOT") or want("MIB")
memory = bytearray(mib << 20); pages = (hot << 20) // 4096; at = 0; n = 0
for page in range(len(memory) // 4096): memory[page * 4096:page * 4096 + 2048] = os.urandom(2048)
kept = []
for i in range(want("FILES")): kept.append(open("/tmp/file-%d" % i, "w+"))
for i in range(want("PIPES")): kept.append(os.pipe())
for i in range(want("MAPPINGS")):
    kept.append(mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | (mmap.PROT_WRITE if i % 2 else 0)))
for i in range(want("THREADS")): threading.Thread(target=lambda: time.sleep(1e6), daemon=True).start()
if want("SHARED"):
    shared = mmap.mmap(-1, want("SHARED") << 20)
    for page in range(len(shared) // 4096): shared[page * 4096:page * 4096 + 8] = os.urandom(8)
if want("MEMFD"):
    fd = os.memfd_create("frames"); os.ftruncate(fd, want("MEMFD") << 20); frames = mmap.mmap(fd, want("MEMFD") << 20)
    for page in range(len(frames) // 4096): frames[page * 4096:page * 4096 + 8] = os.urandom(8)
for i in range(want("PROCESSES")):
    if os.fork() == 0:
        while True: time.sleep(1e6)
while True:
    if want("FORKS"):
        child = os.fork()
        if child == 0: os._exit(0)
        os.waitpid(child, 0)
    for _ in range(rate * 256 // 100):
        memory[at * 4096:at * 4096 + 8] = os.urandom(8); at = (at + 1) % pages
    n += 1
    print("count", n, "at", "%.6f" % time.time(), flush=True)
    time.sleep(0.01)
"""

WORKLOADS = {
    "idle, 16 MiB": {"MIB": 16},
    "idle, 1 GiB": {"MIB": 1024},
    "256 MiB at 20 MiB/s": {"MIB": 256, "RATE": 20},
    "1 GiB at 40 MiB/s": {"MIB": 1024, "RATE": 40},
    "512 MiB, 8 MiB hot": {"MIB": 512, "RATE": 60, "HOT": 8},
    "60 processes": {"MIB": 16, "PROCESSES": 60},
    "200 threads": {"MIB": 16, "THREADS": 200},
    "1000 files": {"MIB": 16, "FILES": 1000},
    "500 pipes": {"MIB": 16, "PIPES": 500},
    "5000 mappings": {"MIB": 16, "MAPPINGS": 5000},
    "512 MiB shared": {"MIB": 16, "SHARED": 512, "PROCESSES": 1},
    "128 MiB in a memfd": {"MIB": 16, "MEMFD": 128},
    "forks all the time": {"MIB": 64, "FORKS": 1},
}


class Bench(ClusterTest):
    def runTest(self):
        pass

    def begin(self, name, env):
        program = self.container(program=PROGRAM, env=env)
        self.start(self.pod(name, self.nodes[0], program), seconds=180)
        return name

    def foretell(self, pod, node, name):
        self.apply(self.migration(name, pod, node, dryRun=True, freezeBudget="200ms"))
        status = self.succeeded("migration", name, 120)["status"]
        told = status["dryRun"]
        return {"freeze_ms": seconds(told["predictedFreeze"]) * 1000, "least_ms": seconds(told["leastFreeze"]) * 1000,
                "total_s": seconds(told["predictedDuration"]), "bytes": told["transferBytes"], "verdict": told["verdict"],
                "strategy": status["strategy"], "weight": {k: told.get(k, 0) for k in ("processes", "threads", "descriptors", "mappings")},
                "dirty_rate": status["preCopy"].get("dirtyRate", 0), "throughput": status["preCopy"].get("throughput", 0)}

    def move(self, pod, node, name):
        self.apply(self.migration(name, pod, node, freezeBudget="200ms", preCopyTimeout="60s"))
        status = self.succeeded("migration", name, 600)["status"]
        target = status["targetPodName"]
        wait("the target to count", lambda: self.log(target).count("count ") > 5, 60)
        return target, {"freeze_ms": seconds(status["freeze"]["duration"]) * 1000, "total_s": seconds(status["totalDuration"]),
                        "bytes": status["transfer"]["wireBytes"], "strategy": status["strategy"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="", help="names or parts of names, by commas; all by default")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    wanted = [part for part in options.workloads.split(",") if part]
    Bench.setUpClass()
    results, failed = [], 0
    print(f"{'workload':22} {'freeze: foretold':>16} {'actual':>9} {'total: foretold':>15} {'actual':>8} {'MiB: foretold':>13} {'actual':>8}  verdict, strategy")
    try:
        for index, (name, env) in enumerate(WORKLOADS.items()):
            if wanted and not any(part in name for part in wanted):
                continue
            bench = Bench()
            try:
                pod = bench.begin(f"w{index}", env)
                for run in range(options.runs):
                    node = bench.nodes[1 - run % 2]
                    told = bench.foretell(pod, node, f"try-{index}-{run}")
                    pod, was = bench.move(pod, node, f"move-{index}-{run}")
                    results.append({"workload": name, "run": run, "foretold": told, "actual": was})
                    print(f"{name:22} {told['freeze_ms']:13.0f} ms {was['freeze_ms']:6.0f} ms {told['total_s']:13.1f} s {was['total_s']:6.1f} s "
                          f"{told['bytes'] / 2**20:13.0f} {was['bytes'] / 2**20:8.0f}  {told['verdict']}, {was['strategy']}", flush=True)
                    time.sleep(1)  # the pager fills what it was given
            except AssertionError as error:
                failed += 1
                print(f"{name:22} FAILED: {str(error).strip().splitlines()[0]}", flush=True)
            finally:
                bench.doCleanups()
    finally:
        Bench.tearDownClass()
    if results:
        ratios = sorted(r["actual"]["freeze_ms"] / r["foretold"]["freeze_ms"] for r in results)
        print(f"{len(results)} moves; actual freeze to foretold: median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1))
    sys.exit(1 if failed or not results else 0)


main()
