#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The target's machine dies when the source has ceded and before anybody has heard that its copy runs (docs/migration.md, "When nobody
can know"): the Migration must say so and guess nothing, and end well by each of the ways that there are.

    uncertain.py [--only fence|word|return]

Ends with "N passed, N failed"."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

from chaos import OUT, Chaos, wait
from lost_agent import frozen_folder
from nodes import REPO, STATE, Machine

# Committed, and its first act not yet done: the copy never runs, which nobody can know.
CELL = ("kill target agent", "target.commit-0")
TOLD_LIMIT = 90.0  # an agent counts as silent after 30 s
HOLD = 15.0        # how long it is watched that nothing is guessed
WAYS = {"fence": "the node is tainted out-of-service", "word": "resolveUncertain: KeepSource", "return": "the machine boots again"}


def condition(lane, kind):
    return next((c for c in lane.status.get("conditions", []) if c["type"] == kind), {})


def taint(chaos, node, taints):
    chaos.api.call("PATCH", f"/api/v1/nodes/{node}", {"spec": {"taints": taints}}, "application/merge-patch+json")


def boot(chaos, name):
    """The cluster's own start finds the machine dead and boots it with its old disk."""
    subprocess.run([REPO / "tests/cluster/up"], env={**os.environ, "GODWIT_CLUSTER": str(STATE)}, check=True, capture_output=True, timeout=240)
    chaos.machines[name] = Machine(name)
    wait(lambda: all(chaos.is_ready(n) for n in chaos.api.list("/api/v1/nodes") if n["metadata"]["name"] in chaos.machines), 90, 0.5)


def one(chaos, lane, way):
    """What was wrong; seconds until it was told, and from the way out to the pod's next word."""
    pod = chaos.api.get(chaos.api.pods(lane.pod))
    chaos.begin(lane, CELL)
    source, target = lane.move.source, lane.move.target
    if not wait(lambda: target.reached(lane.move.uid, CELL[1]), 40, 0.002):
        return [f"{CELL[1]} was not reached"], 0, 0
    lane.reached = lane.struck = True
    folders = frozen_folder(source, pod)
    os.kill(target.pid, signal.SIGKILL)
    died = time.monotonic()

    def uncertain():
        chaos.look([lane])
        return condition(lane, "Switched").get("reason") == "OutcomeUncertain"
    wrong = [] if wait(uncertain, TOLD_LIMIT, 0.2) else [f"not told within {TOLD_LIMIT:.0f} s: {json.dumps(lane.status.get('conditions'))}"]
    told = time.monotonic() - died
    time.sleep(HOLD)
    still = [folder for folder in source.frozen() if folder in folders]
    if not folders or still != folders:
        wrong.append(f"the source does not stand still any more: {still} of {folders}")
    if chaos.collector.last(lane.name).at > died:
        wrong.append("somebody spoke while nobody could know who runs")
    resolved = time.monotonic()
    if way == "fence":
        taint(chaos, target.name, [{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}])
    elif way == "word":
        chaos.api.call("PATCH", chaos.api.migrations(lane.migration), {"spec": {"resolveUncertain": "KeepSource"}}, "application/merge-patch+json")
    else:
        boot(chaos, target.name)
    wait(lambda: chaos.collector.last(lane.name).at > resolved, 120, 0.01)
    heard = chaos.collector.last(lane.name).at - resolved
    chaos.await_end(lane)
    if way != "return":
        if condition(lane, "Complete").get("reason") != "TargetLost":
            wrong.append(f"ended as {lane.status.get('phase')}: {json.dumps(condition(lane, 'Complete'))}")
        boot(chaos, target.name)
        taint(chaos, target.name, None)
    chaos.fresh_system()
    lane.move.target = chaos.machines[target.name]
    chaos.conclude([lane])
    last = chaos.results[-1]
    return wrong + last["violations"] + [f"left: {line}" for line in last["left"]], told, heard


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=list(WAYS))
    parser.add_argument("--mib", type=int, default=16)
    options = parser.parse_args()
    options.lanes, options.mutation, options.short = 1, None, False
    OUT.mkdir(parents=True, exist_ok=True)
    chaos = Chaos(options)
    chaos.path = OUT / "uncertain.jsonl"
    failed, ways = 0, [options.only] if options.only else list(WAYS)
    with chaos.prepared([]):
        for way in ways:
            chaos.ready_lanes()
            wrong, told, heard = one(chaos, chaos.lanes[0], way)
            failed += bool(wrong)
            print(f"  {WAYS[way]:40} " + ("; ".join(wrong) if wrong else f"told after {told:.1f} s; the pod was heard {heard:.1f} s after the way out"), flush=True)
    print(f"{len(ways) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
