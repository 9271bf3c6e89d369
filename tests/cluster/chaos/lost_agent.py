#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""I6, measured: how long a frozen pod stands still when its agent is killed and does not come back.

    lost_agent.py [--runs 10]

Ends with "N passed, N failed": a run fails when the pod stands still for more than 5 s after the kill."""

import argparse
import sys
import time

from chaos import OUT, Chaos, wait
from faults import kill_agent
from nodes import read

LIMIT = 5.0
# The source is frozen and has not ceded: before the dump, after it, and while the target restores.
STEPS = ["source.dumping-and-sending", "source.waiting-until-the-target-has-restored", "target.gate-open"]


def scale(chaos, away_from):
    """No agent on this node, or on every node again with None: by a label that the DaemonSet asks for, because a change of its
    template would replace the other agents too."""
    for name in chaos.machines:
        label = {"kubernetes.io/os": "none" if name == away_from else "linux"}
        chaos.api.call("PATCH", f"/api/v1/nodes/{name}", {"metadata": {"labels": label}}, "application/merge-patch+json")


def frozen_folder(machine, pod):
    """By its containers' ids: not every kubelet names a pod's cgroup."""
    ids = [status["containerID"].split("//")[-1] for status in pod["status"]["containerStatuses"]]
    return [folder for folder in machine.frozen() if any(one in str(folder) for one in ids)]


def one(chaos, lane, step):
    """Seconds from the kill to the thaw, and from the kill until the pod is heard again; None: the step was not reached."""
    pod = chaos.api.get(chaos.api.pods(lane.pod))
    chaos.begin(lane, ("kill source agent", step))
    machine, source = chaos.machine_of(lane, step), lane.move.source
    if not wait(lambda: machine.reached(lane.move.uid, step), 30, 0.002):
        return None
    folders = frozen_folder(source, pod)
    if not folders:
        return None
    lane.reached = lane.struck = True
    killed = time.monotonic()
    kill_agent(source)
    scale(chaos, source.name)
    wait(lambda: read(f"{folders[0]}/cgroup.freeze").strip() != "1", 30, 0.0005)
    thawed = time.monotonic() - killed
    wait(lambda: chaos.collector.last(lane.name).at > killed + 0.001, 30, 0.001)
    heard = chaos.collector.last(lane.name).at - killed
    machine.let_go(lane.move.uid, step)
    time.sleep(3)  # it is not coming back
    scale(chaos, None)
    chaos.await_end(lane)
    chaos.conclude([lane])
    chaos.fresh_system()
    return thawed, heard


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--mib", type=int, default=32)
    options = parser.parse_args()
    options.lanes, options.mutation, options.short = 1, None, False
    OUT.mkdir(parents=True, exist_ok=True)
    chaos = Chaos(options)
    chaos.path = OUT / "lost_agent.jsonl"
    times = []
    with chaos.prepared([]):
        try:
            for run in range(options.runs):
                chaos.ready_lanes()
                step = STEPS[run % len(STEPS)]
                found = one(chaos, chaos.lanes[0], step)
                print(f"  {step:45} " + (f"thawed {found[0] * 1000:7.1f} ms, heard {found[1] * 1000:7.1f} ms after the kill" if found
                                         else "not reached"), flush=True)
                times.append(found)
        finally:
            scale(chaos, None)
    bad = sum(found is None or found[0] > LIMIT for found in times) + sum(bool(r["violations"] or r["left"]) for r in chaos.results)
    thaws = sorted(found[0] for found in times if found)
    if thaws:
        print(f"from the kill to the thaw: median {thaws[len(thaws) // 2] * 1000:.1f} ms, longest {thaws[-1] * 1000:.1f} ms of {len(thaws)}")
    print(f"{len(times) - bad} passed, {bad} failed")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
