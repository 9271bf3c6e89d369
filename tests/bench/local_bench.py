#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What needs no cluster: the stream between agents beside bare TCP and TLS, and the pager beside CRIU's lazy-pages daemon.

    local_bench.py stream --build DIR [--mib MIB] [--runs N] [--json FILE [--fresh]]
    local_bench.py pager --build DIR [--mib MIB] [--runs N] [--json FILE [--fresh]]

DIR is a build folder with stream_bench, or with what tests/node/run needs. Both run programs that tell lines of JSON, a run at a time.
"""

import argparse
import json
import os
import subprocess
import sys

from results import REPO, Results, Table, machine_facts, median, run_part

MEASUREMENT = "FillMeasurement.DISABLED_BesideCriusDaemon"


def lines_of_json(command, **environment):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False,
                          env={**os.environ, **environment})
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def stream(options, results):
    program = f"{options.build}/tests/bench/stream_bench"
    while len(results.runs(what="stream")) < options.runs:
        results.add(lines_of_json([REPO / "scripts/in-root", program, options.mib, 1, "--json"]), what="stream")
    runs = results.runs(what="stream")
    names = [one["what"] for one in runs[0]]

    def figure(name, key):
        return median([one[key] for run in runs for one in run if one["what"] == name])
    table = Table(f"{options.mib} MiB over the loopback, one connection (medians of {len(runs)})", ("", -20), ("MB/s", 8),
                  ("% of TLS", 9), ("% of TCP", 9), ("sender us/MiB", 14), ("receiver us/MiB", 16), ("on the wire", 12))
    for name in names:
        rate = figure(name, "mb_s")
        table.row(name, f"{rate:.0f}", *(f"{100 * rate / figure(other, 'mb_s'):.0f}" for other in ("TLS", "TCP")),
                  *(f"{figure(name, key):.0f}" for key in ("sender_us_mib", "receiver_us_mib")), f"{figure(name, 'wire_part'):.3f}")


def pager(options, results):
    command = [REPO / "tests/node/run", "--gtest_also_run_disabled_tests", f"--gtest_filter={MEASUREMENT}"]
    while len(results.runs(what="pager")) < options.runs:
        told = lines_of_json(command, GODWIT_BUILD=options.build, GODWIT_PAGER_MIB=str(options.mib))
        if len(told) != 2:
            sys.exit(f"{MEASUREMENT} told {len(told)} lines of JSON, not 2")
        results.add(told, what="pager")
    runs = results.runs(what="pager")
    table = Table(f"{options.mib} MiB filled after a lazy restore (medians of {len(runs)})", ("", -14),
                  ("restored and filled s", 21), ("restored ms", 11), ("fill MB/s", 9), ("waits", 7), ("p50 us", 8), ("p99 us", 9), ("max us", 9))
    for number, one in enumerate(runs[0]):
        figure = {key: median([run[number][key] for run in runs]) for key in one if key != "how"}
        fill = figure["total_s"] - figure["restore_ms"] / 1000
        table.row(one["how"], f"{figure['total_s']:.2f}", f"{figure['restore_ms']:.0f}", f"{options.mib * 1.048576 / fill:.0f}",
                  f"{figure['waits']:.0f}", *(f"{figure[name]:.0f}" for name in ("wait_p50_us", "wait_p99_us", "wait_max_us")))


PARTS = {"stream": stream, "pager": pager}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--build", required=True)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", default="")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    options = parser.parse_args()
    results = Results(options.json or f"build/bench/{options.part}.json", {**machine_facts(), "mib": options.mib}, options.fresh)
    PARTS[options.part](options, results)
    results.finish()


if __name__ == "__main__":
    run_part(main)
