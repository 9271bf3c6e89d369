#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One pod under load moved back and forth, without a fault: each move must succeed, and nothing may grow on the nodes, in the
agents or in the controllers (docs/design/chaos.md).

    soak.py [--runs 200] [--mib 64]

Ends with the figures before and after, and "N passed, N failed"."""

import argparse
import json
import sys
import time

from chaos import OUT, Chaos, wait
from story import judge

WARM_UP = 6  # moves before the first look: connections, certificates and allocators are as they stay then
# By how much a figure may differ without being a leak: kubelet's and containerd's own coming and going.
SLACK = {"processes": 3, "mounts": 2, "cgroups": 3, "files": 6, "godwit-agent descriptors": 8, "godwit-controller descriptors": 8,
         "godwit-agent KiB": 24 << 10, "godwit-controller KiB": 24 << 10}


def measure(chaos):
    """The figures of both nodes, once they are calm."""
    figures = {}

    def calm():
        now = {(name, what): value for name, machine in chaos.machines.items() for what, value in machine.figures().items()}
        same = now == figures
        figures.clear()
        figures.update(now)
        return same
    wait(calm, 15, 2)
    return dict(figures)


def grown(before, after):
    return [(name, what) for (name, what), value in after.items() if value > before.get((name, what), 0) + SLACK.get(what, 0)]


def move(chaos, lane, number):
    """One move; what was wrong with it."""
    mark, last = chaos.collector.mark(lane.name), chaos.collector.last(lane.name)
    target = next(name for name in chaos.machines if name != lane.node)
    name = f"soak-{number}"
    chaos.api.create(chaos.api.migrations(), {
        "apiVersion": "godwit.io/v1alpha1", "kind": "Migration", "metadata": {"name": name},
        "spec": {"podRef": {"name": lane.pod}, "target": {"nodeName": target}, "freezeBudget": "2s"}})
    status = {}

    def ended():
        status.update(chaos.api.get(chaos.api.migrations(name)).get("status", {}))
        return status.get("phase") in ("Succeeded", "Failed")
    wait(ended, 120, 0.1)
    wait(lambda: chaos.heard_lately(lane, 0.3), 10)
    verdict = judge(last, chaos.collector.since(lane.name, mark), False)
    wrong = list(verdict.violations)
    if status.get("phase") != "Succeeded":
        wrong.append(f"{status.get('phase')}: {[c.get('message') for c in status.get('conditions', []) if c['type'] == 'Complete']}")
    chaos.find_survivor(lane, wrong)
    chaos.api.delete(chaos.api.migrations(name))
    return wrong, verdict.silence


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--mib", type=int, default=64)
    options = parser.parse_args()
    options.lanes, options.mutation, options.short = 1, None, False
    chaos = Chaos(options)
    OUT.mkdir(parents=True, exist_ok=True)
    failed, silences, before = 0, [], {}
    with chaos.namespace_with_lanes([]):
        chaos.ready_lanes()
        lane, begin = chaos.lanes[0], time.monotonic()
        for number in range(1, options.runs + WARM_UP + 1):
            if number == WARM_UP + 1:
                before, begin = measure(chaos), time.monotonic()
            wrong, silence = move(chaos, lane, number)
            silences.append(silence)
            failed += bool(wrong)
            if wrong:
                print(f"  move {number}: {'; '.join(wrong)}", flush=True)
            elif number % 10 == 0:
                print(f"  {number} moves, {(time.monotonic() - begin) / max(1, number - WARM_UP):.1f} s each, longest silence "
                      f"{max(silences):.2f} s", flush=True)
        after = measure(chaos)
    growth = grown(before, after)
    print(f"\n| node | figure | before | after {options.runs} moves | |\n|---|---|---|---|---|")
    for key in sorted(after):
        print(f"| {key[0]} | {key[1]} | {before.get(key, 0)} | {after[key]} | {'GROWN' if key in growth else ''} |")
    silences.sort()
    print(f"\nsilence: median {silences[len(silences) // 2]:.3f} s, longest {silences[-1]:.3f} s")
    (OUT / "soak.json").write_text(json.dumps({"runs": options.runs, "failed": failed, "before": [[*k, v] for k, v in before.items()],
                                               "after": [[*k, v] for k, v in after.items()], "silences": silences}))
    bad = failed + len(growth)
    print(f"{options.runs + WARM_UP - failed + len(after) - len(growth)} passed, {bad} failed")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
