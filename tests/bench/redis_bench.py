#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What pre-copy costs the workload: redis on the test cluster under apps/redis_load.cc, whose pod does not move.

    redis_bench.py --image NAME@DIGEST --track FILE [--mib MIB] [--connections N] [--seconds S] [--runs N] [--spec JSON]
                   [--json FILE [--fresh]]

Three things, one after another, on a redis with MIB of content:
maximum   as many requests as it answers, for S seconds
tracking  the same, while bench_track (track.cc) watches the memory in rounds and copies nothing; S seconds without and S with, by turns,
          N times
half      at half the maximum: S seconds before a Migration, while its pre-copy goes on, S seconds after it; back and forth N times.
          The more memory, the longer is the pre-copy
A request's time runs from when it was due; the freeze itself is left out of all three. Ends with 1 when a move failed.
"""

import argparse
import contextlib
import json
import pathlib
import re
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster/e2e"))
import apps_bench  # noqa: E402
from cluster import KUBECTL, NODE, REPO, kubectl, on_node, wait  # noqa: E402
from cluster_bench import cluster_facts  # noqa: E402
from plain_runc import put  # noqa: E402
from results import Results, Table, median, run_part  # noqa: E402

REDIS = """mkdir -p /run/redis
redis-server --protected-mode no --save '' --appendonly no --unixsocket /run/redis/socket --loglevel warning --locale-collate C &
python3 /apps/redis_data.py fill $MIB || exit 1
echo filled
bench-workload 1 0 &
wait"""
TRACK = "/run/bench_track"
SETTLE = 2  # seconds until what follows a start or a move is measured
EVER = 100000


def bucket_us(bucket):
    """The middle of what a bucket of redis_load.cc holds."""
    if bucket < 32:
        return float(bucket)
    return ((16 + bucket % 16) + 0.5) * (1 << (bucket // 16 - 1))


class Windows:
    """What redis_load has said: quarters of a second."""

    def __init__(self, text):
        self.all = [(float(end), int(done), int(left), int(reconnects), times) for end, done, left, reconnects, times in re.findall(
            r"^window ([\d.]+) done (\d+) left-out (\d+) reconnects (\d+) times (\S*)\n", text, re.M)]

    def between(self, begin, end):
        """Of the windows that lie in [begin, end]; None when there are none."""
        pairs = [(before, w) for before, w in zip(self.all, self.all[1:], strict=False) if before[0] >= begin and w[0] <= end]
        if not pairs:
            return None
        span = sum(w[0] - before[0] for before, w in pairs)
        chosen = [w for _, w in pairs]
        times, worst = {}, 0.0
        for _, _, _, _, text in chosen:
            own = {int(b): int(n) for b, _, n in (part.partition(":") for part in text.split(",") if part)}
            worst = max(worst, self._quantile(own, 0.99))
            for bucket, n in own.items():
                times[bucket] = times.get(bucket, 0) + n
        return {"seconds": round(span, 2), "requests_s": round(sum(w[1] for w in chosen) / span, 1),
                "p50_us": self._quantile(times, 0.5), "p99_us": self._quantile(times, 0.99), "p999_us": self._quantile(times, 0.999),
                "worst_window_p99_us": worst, "left_out": sum(w[2] for w in chosen), "reconnects": sum(w[3] for w in chosen)}

    @staticmethod
    def _quantile(times, part):
        wanted = sum(times.values()) * part
        for bucket in sorted(times):
            wanted -= times[bucket]
            if wanted <= 0:
                return bucket_us(bucket)
        return 0.0


class Load:
    """redis_load in the client's pod, from its making to `stop`."""

    def __init__(self, bench, address, connections, rate):
        self.bench = bench
        self.process = subprocess.Popen(
            [KUBECTL, f"--kubeconfig={REPO}/build/cluster/kubeconfig", "-n", bench.namespace, "exec", "client", "--", "redis_load",
             address, "6379", str(connections), f"{rate:.0f}", str(EVER)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        self.text = []
        self.reader = threading.Thread(target=lambda: self.text.extend(self.process.stdout), daemon=True)
        self.reader.start()

    def stop(self):
        kubectl("-n", self.bench.namespace, "exec", "client", "--", "sh", "-c", "kill $(busybox pidof redis_load)", check=False)
        self.process.kill()
        self.process.wait()
        self.reader.join()
        return Windows("".join(self.text))


@contextlib.contextmanager
def tracked(node, container):
    """While the processes of a container on the node are tracked. Gives a list of what the tracker says."""
    folder = on_node(node, "find", "/sys/fs/cgroup", "-type", "d", "-name", f"*{container}*").split("\n")[0]
    said = []
    with subprocess.Popen([NODE, node, TRACK, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        reader = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
        reader.start()
        try:
            wait("the tracker to attach", lambda: any("attached" in line for line in said) or process.poll() is not None, 20)
            if process.poll() is not None:
                raise AssertionError("".join(said))
            yield said
        finally:
            process.stdin.close()
            process.wait(20)
            reader.join()


class Phases:
    """Follows a Migration's phase: when each was first seen."""

    def __init__(self, bench, name):
        self.seen = {}
        self.process = subprocess.Popen(
            [KUBECTL, f"--kubeconfig={REPO}/build/cluster/kubeconfig", "-n", bench.namespace, "get", "migration", name, "--watch",
             "-o", 'jsonpath={.status.phase}{"\\n"}'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.seen.setdefault(line.strip(), time.time())

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        return self.seen


class Redis:
    def __init__(self, bench, options):
        self.bench, self.options = bench, options
        self.pod = bench.begin("redis", ["sh", "-c", REDIS], {"MIB": options.mib})
        bench.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "redis"},
                     "spec": {"selector": {"app": "redis"}, "ports": [{"port": 6379}]}})
        bench.begin("client", ["sleep", "1000000"])
        wait("redis to be filled", lambda: "filled" in bench.log("redis"), 300)
        self.address = bench.get("service", "redis")["spec"]["clusterIP"]

    def load(self, rate):
        return Load(self.bench, self.address, self.options.connections, rate)

    def maximum(self):
        load = self.load(0)
        time.sleep(SETTLE)
        begin = time.time()
        time.sleep(self.options.seconds)
        return load.stop().between(begin, time.time())

    def tracking(self):
        pod = self.bench.get("pod", self.pod)
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("//")[2]
        load = self.load(0)
        time.sleep(SETTLE)
        times = [time.time()]
        time.sleep(self.options.seconds)
        times.append(time.time())
        with tracked(pod["spec"]["nodeName"], container) as said:
            times.append(time.time())
            time.sleep(self.options.seconds)
            times.append(time.time())
        windows = load.stop()
        rounds = [tuple(map(float, one)) for one in re.findall(r"^round \d+ dirty (\d+) owned \d+ took ([\d.]+)", "".join(said), re.M)]
        return {"without": windows.between(*times[:2]), "with": windows.between(*times[2:]), "rounds": len(rounds),
                "dirty_bytes": median([dirty for dirty, _ in rounds]), "round_us": median([took for _, took in rounds])}

    def half(self, number, rate):
        load = self.load(rate)
        time.sleep(SETTLE)
        begin = time.time()
        time.sleep(self.options.seconds)
        name = f"redis-{number}"
        applied = time.time()
        self.bench.apply(self.bench.migration(name, self.pod, self.bench.nodes[(number + 1) % 2],
                                              **{"strategy": "PreCopy", **self.options.spec}))
        phases = Phases(self.bench, name)
        try:
            status = self.bench.succeeded("migration", name, 600)["status"]
        finally:
            seen = phases.stop()
        self.pod = status["targetPodName"]
        time.sleep(SETTLE)
        after = time.time()
        time.sleep(self.options.seconds)
        windows = load.stop()
        copying = seen.get("Copying", applied)
        switching = seen.get("Switching", max(seen.values()))
        return {"rate": rate, "before": windows.between(begin, applied), "during": windows.between(copying, switching),
                "after": windows.between(after, time.time()), "freeze": status["freeze"]["duration"], "preCopy": status.get("preCopy", {}),
                "transfer": status["transfer"], "freezing": windows.between(switching - 0.5, after)}


def tell(results):
    rows = {tuple(row["key"].values()): [run for run in row["runs"] if "error" not in run] for row in results.data["rows"]}
    table = Table("redis under load: what tracking and pre-copy cost it (medians of the runs; loss beside the line before)", ("", -24),
                  ("runs", 5), ("seconds", 8), ("requests/s", 11), ("loss %", 7), ("p50 us", 8), ("p99 us", 8), ("worst quarter's p99", 20))

    def line(name, runs, beside=None):
        runs = [run for run in runs if run]
        if not runs:
            return None
        figure = {key: median([run[key] for run in runs]) for key in runs[0]}
        loss = "-" if beside is None else f"{100 * (1 - figure['requests_s'] / beside):.1f}"
        table.row(name, len(runs), f"{figure['seconds']:.1f}", f"{figure['requests_s']:.0f}", loss, f"{figure['p50_us']:.0f}",
                  f"{figure['p99_us']:.0f}", f"{max(run['worst_window_p99_us'] for run in runs):.0f}")
        return figure["requests_s"]
    line("maximum", rows.get(("maximum",), []))
    tracked_runs = rows.get(("tracking",), [])
    without = line("without tracking", [run["without"] for run in tracked_runs])
    line("with tracking", [run["with"] for run in tracked_runs], without)
    halves = rows.get(("half",), [])
    before = line("half: before", [run["before"] for run in halves])
    line("half: during pre-copy", [run["during"] for run in halves], before)
    line("half: after", [run["after"] for run in halves], before)
    if tracked_runs:
        print(f"tracking: a round looked for {median([run['round_us'] for run in tracked_runs]):.0f} us and found "
              f"{median([run['dirty_bytes'] for run in tracked_runs]) / 1e6:.1f} MB written")
    if halves:
        print(f"pre-copy: {median([run['preCopy'].get('rounds', 0) for run in halves]):.0f} rounds, "
              f"{median([run['transfer'].get('memoryBytes', 0) for run in halves]) / 1e6:.0f} MB of memory sent")


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", required=True)
    parser.add_argument("--track", required=True, help="bench_track, built")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--spec", type=json.loads, default={}, help="more of the Migrations' spec, such as bandwidthLimit")
    parser.add_argument("--json", default="build/bench/redis.json")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    return parser.parse_args()


def main():
    options = parse()
    Bench = apps_bench.Bench
    Bench.image = options.image
    Bench.setUpClass()
    failed = False
    try:
        facts = {**cluster_facts(Bench.nodes), **{name: getattr(options, name) for name in ("image", "mib", "connections", "seconds", "spec")}}
        results = Results(options.json, facts, options.fresh)
        bench = Bench()
        redis = Redis(bench, options)
        put(bench.nodes[0], TRACK, pathlib.Path(options.track).read_bytes())
        if not results.runs(what="maximum"):
            results.add(redis.maximum(), what="maximum")
        while len(results.runs(what="tracking")) < options.runs:
            results.add(redis.tracking(), what="tracking")
        rate = results.runs(what="maximum")[0]["requests_s"] / 2
        for number in range(options.runs - len(results.runs(what="half"))):
            try:
                results.add(redis.half(number, rate), what="half")
            except AssertionError as error:
                results.add({"error": str(error)}, what="half")
                print(f"redis was not moved: {error}")
                failed = True
                break
        tell(results)
        results.finish()
    finally:
        on_node(Bench.nodes[0], "rm", "-f", TRACK, check=False)
        Bench.tearDownClass()
    return 1 if failed else 0


if __name__ == "__main__":
    run_part(main)
