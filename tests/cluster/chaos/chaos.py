#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Faults at every step of the hand-over, on the running test cluster with the chaos images: each fault at each of its steps so
many times, several pods side by side (docs/design/chaos.md).

    chaos.py [--times 1] [--lanes 6] [--only WORD;...] [--short | --mutation NAME] [--fresh]

Each result is a line of build/chaos/results.jsonl as soon as it is there; what is in that file is not run again. Ends with a
table and "N passed, N failed"."""

import argparse
import collections
import contextlib
import dataclasses
import json
import random
import string
import subprocess
import sys
import time

from api import Api
from faults import BY_NAME, FAULTS, MUTATIONS, SHORT, SMALL_DISKS, STEPS, Move, on_source
from nodes import REPO, Machine, has_failpoints, read
from story import WORKLOAD, Collector, judge

WORKLOAD_IMAGE = "registry.godwit.test/workload:1"
SYSTEM = "godwit-system"
OUT = REPO / "build/chaos"
REACH_LIMIT = 25     # seconds for a migration to come to a step
END_LIMIT = 150      # and to end, after the fault
GO_ON_LIMIT = 60     # and for the pod to be heard again
CLEAN_LIMIT = 45     # and for nothing to be left: kubelet's own housekeeping is slow where it was killed
FINAL = ("Succeeded", "Failed", "Cancelled")


def wait(condition, seconds, every=0.05):
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(every)


@dataclasses.dataclass
class Lane:
    """A pod that is moved again and again."""
    name: str
    probed: bool = False
    pod: str = ""
    node: str = ""
    # Of the migration under way:
    cell: tuple = ()
    move: Move = None
    migration: str = ""
    mark: int = 0
    before: object = None
    reached: bool = False
    first_done: bool = True
    struck: bool = False  # the fault has had its victim
    mends: list = dataclasses.field(default_factory=list)
    status: dict = dataclasses.field(default_factory=dict)
    began: float = 0.0
    struck_at: float = 0.0
    ended_at: float = 0.0

    @property
    def fault(self):
        return BY_NAME[self.cell[0]]

    @property
    def step(self):
        return self.cell[1]


class Chaos:
    def __init__(self, options):
        self.options = options
        self.namespace = "chaos-" + "".join(random.choices(string.ascii_lowercase, k=5))
        self.api = Api(self.namespace)
        self.machines = {name: Machine(name) for name in
                         sorted(node["metadata"]["name"] for node in self.api.list("/api/v1/nodes")
                                if node["metadata"]["labels"]["kubernetes.io/arch"] == "amd64")[:2]}
        self.collector = Collector(Machine("cp").pid)
        # Where kubelet gives pods no cgroup, only godwit-runtime keeps it from starting them again (docs/migration.md).
        held = any("cgroupsPerQOS: false" in (machine.root / "etc/kubernetes/kubelet.yaml").read_text() for machine in self.machines.values())
        self.runtime_class = {"runtimeClassName": "godwit"} if held else {}
        self.lanes = []
        self.count = 0
        self.results = []
        self.left_over = []
        self.path = OUT / f"{'short' if options.short else options.mutation or 'results'}.jsonl"
        self.revision = subprocess.run(["git", "-C", REPO, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()

    # --- pods

    def start_lane(self, lane, node):
        probe = {"livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 3}} if lane.probed else {}
        self.api.create(self.api.pods(), {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": lane.name, "labels": {"app": lane.name}},
            "spec": {**self.runtime_class, "nodeName": node, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False, "containers": [
                {"name": "app", "image": WORKLOAD_IMAGE, **probe,
                 "command": ["python3", "-c", WORKLOAD, lane.name, Collector.ADDRESS, str(self.collector.port), str(self.options.mib)]}]}})
        lane.pod, lane.node = lane.name, node

    def heard_lately(self, lane, seconds=1.0):
        last = self.collector.last(lane.name)
        return last is not None and time.monotonic() - last.at < seconds

    def ready_lanes(self):
        nodes = list(self.machines)
        for lane in self.lanes:
            if not lane.pod:
                self.start_lane(lane, nodes[self.lanes.index(lane) % 2])
        for lane in self.lanes:
            if not wait(lambda: self.heard_lately(lane), 90):
                raise RuntimeError(f"{lane.name} does not start")

    def pods_of(self, lane):
        return [p for p in self.api.list(self.api.pods()) if p["metadata"]["name"].startswith(lane.name)]

    def renew(self, lane):
        """A new pod, whatever has become of the old."""
        for pod in self.pods_of(lane):
            self.api.delete(self.api.pods(pod["metadata"]["name"]), 0)
        wait(lambda: not self.pods_of(lane), 60, 0.3)
        lane.name = self.new_name()
        lane.pod = ""

    def new_name(self):
        self.count += 1
        return f"l{self.count:04d}"

    # --- agents and controllers: kubelet waits longer and longer with one that dies again and again

    def system_pods(self):
        return [p for p in self.api.list(f"/api/v1/namespaces/{SYSTEM}/pods") if not p["metadata"].get("deletionTimestamp")]

    @staticmethod
    def is_ready(pod):
        return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))

    def fresh_system(self):
        time.sleep(1.5)  # for kubelet to see who has died
        for pod in self.system_pods():
            if any(s["restartCount"] > 0 for s in pod["status"].get("containerStatuses", [])):
                self.api.delete(f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}", 2)

        def ready():
            pods = self.system_pods()
            agents = [p for p in pods if p["metadata"]["labels"].get("app.kubernetes.io/component") == "agent"]
            return len(agents) == len(self.machines) and len(pods) > len(agents) and all(self.is_ready(p) for p in pods)
        if not wait(ready, 120, 0.2):
            raise RuntimeError("agents and controllers do not become ready")

    # --- one round: a migration of each lane, with a fault at a step of its own

    def begin(self, lane, cell):
        lane.cell, lane.status, lane.reached, lane.struck, lane.mends = cell, {}, False, False, []
        lane.mark, lane.before = self.collector.mark(lane.name), self.collector.last(lane.name)
        lane.first_done = not lane.fault.first
        source, target = self.machines[lane.node], next(m for m in self.machines.values() if m.name != lane.node)
        lane.migration = f"m-{self.new_name()}"
        made = self.api.create(self.api.migrations(), {
            "apiVersion": "godwit.io/v1alpha1", "kind": "Migration", "metadata": {"name": lane.migration},
            "spec": {"podRef": {"name": lane.pod}, "target": {"nodeName": target.name}, "freezeBudget": "10s"}})
        uid = made["metadata"]["uid"]
        lane.move = Move(uid, lane.pod, lambda: lane.status.get("targetPodName", ""), source, target, self.namespace)
        lane.began = time.monotonic()
        if lane.fault.first:
            self.machine_of(lane, lane.fault.first[0]).order(uid, lane.fault.first[0], "wait")
        self.machine_of(lane, lane.step).order(uid, lane.step, "wait")

    @staticmethod
    def machine_of(lane, step):
        return lane.move.source if on_source(step) else lane.move.target

    def look(self, lanes):
        """Takes over what the API server says of the lanes' Migrations."""
        try:
            now = {m["metadata"]["name"]: m.get("status", {}) for m in self.api.call("GET", self.api.migrations(), patience=0)["items"]}
        except Exception:  # it may be the victim
            return
        for lane in lanes:
            lane.status = now.get(lane.migration, lane.status)
            if not lane.ended_at and lane.status.get("phase") in FINAL:
                lane.ended_at = time.monotonic()

    def await_end(self, lane):
        """Of the lane's Migration; false when END_LIMIT is over."""
        lane.ended_at = 0.0

        def ended():
            self.look([lane])
            return lane.ended_at
        return wait(ended, END_LIMIT, 0.2)

    def strike(self, lane, act):
        try:
            mend = act()
        except Exception as error:  # the fault could not be made: said, and not counted as one
            print(f"    {lane.fault.name}: {error!r}", flush=True)
            mend = False
        lane.struck, lane.struck_at = mend is not False, time.monotonic()
        if callable(mend):
            lane.mends.append((lane.struck_at + lane.fault.hold if lane.fault.hold else None, mend))

    def mend(self, lane, all_of_them=False):
        for entry in list(lane.mends):
            at, act = entry
            if all_of_them or (at is not None and time.monotonic() > at):
                lane.mends.remove(entry)
                act()

    def run_round(self, assigned, node):
        """`assigned`: [(lane, cell)]; those whose fault is not one pod's own have the same, of node's or the cluster's."""
        lanes = [lane for lane, _ in assigned]
        for lane, cell in assigned:
            lane.ended_at = 0.0
            self.begin(lane, cell)
        shared = [lane for lane in lanes if lane.fault.scope != "pod"]
        struck, looked = False, 0.0
        deadline = time.monotonic() + REACH_LIMIT + END_LIMIT
        while time.monotonic() < deadline and not all(lane.ended_at for lane in lanes):
            if time.monotonic() - looked > 0.1:
                self.look(lanes)
                looked = time.monotonic()
            for lane in lanes:
                self.mend(lane)
                self.advance(lane)
            due = all(lane.reached or lane.ended_at or time.monotonic() - lane.began > REACH_LIMIT for lane in shared)
            if shared and not struck and due and any(lane.reached for lane in shared):
                struck = True
                self.strike_shared([lane for lane in shared if lane.reached], node)
            for lane in lanes:  # a step that this migration does not come to
                if not lane.reached and not lane.ended_at and time.monotonic() - lane.began > REACH_LIMIT:
                    self.machine_of(lane, lane.step).let_go(lane.move.uid, lane.step)
            time.sleep(0.002)
        for lane in lanes:
            self.mend(lane, all_of_them=True)
        self.conclude(lanes)
        if struck and shared[0].fault.scope != "pod":
            self.settle(shared[0].fault)

    def advance(self, lane):
        """A lane that has come to its step."""
        uid = lane.move.uid
        if not lane.first_done:
            step, act = lane.fault.first
            if self.machine_of(lane, step).reached(uid, step):
                lane.first_done = True
                act(lane.move)
                self.machine_of(lane, step).let_go(uid, step)
        if lane.reached or not self.machine_of(lane, lane.step).reached(uid, lane.step):
            return
        lane.reached = True
        if lane.fault.scope == "pod":
            self.strike(lane, lambda: lane.fault.act(lane.move))
            self.machine_of(lane, lane.step).let_go(uid, lane.step)

    def strike_shared(self, lanes, node):
        """One fault for all that have come to their steps; then they go on."""
        first = lanes[0]
        victim = list(self.machines.values()) if first.fault.scope == "cluster" else self.machines[node]
        self.strike(first, lambda: first.fault.act(victim))
        for lane in lanes:
            lane.struck, lane.struck_at = first.struck, first.struck_at
            self.machine_of(lane, lane.step).let_go(lane.move.uid, lane.step)

    def settle(self, fault):
        """What was killed is there again, for the next round."""
        if "agent" in fault.name or "controllers" in fault.name:
            self.fresh_system()
        if "API server" in fault.name or "kubelet" in fault.name:
            def ready():
                return all(self.is_ready(node) for node in self.api.list("/api/v1/nodes"))
            wait(ready, 60, 0.3)

    # --- what became of it

    def conclude(self, lanes):
        violations = {}
        for lane in lanes:
            may_be_lost = lane.struck and lane.fault.destroys(lane.step)
            lives = wait(lambda: self.heard_lately(lane, 0.5), GO_ON_LIMIT if not may_be_lost else 2 * GO_ON_LIMIT)
            violations[lane.name] = [] if lives else [f"I2: nobody runs {GO_ON_LIMIT} s after the end"]
            if not lane.ended_at:
                violations[lane.name].append(f"the Migration has not ended {END_LIMIT} s after the fault: {lane.status.get('phase')}")
        time.sleep(0.1)  # a second copy would be heard by now
        restarts = {lane.name: self.find_survivor(lane, violations[lane.name]) for lane in lanes}
        left = self.left([lane for lane in lanes if lane.ended_at])
        for lane in lanes:
            self.record(lane, violations[lane.name], restarts[lane.name], left.get(lane.name, []))

    def record(self, lane, violations, restarts, left):
        words = self.collector.since(lane.name, lane.mark)
        verdict = judge(lane.before, words, lane.struck and lane.fault.destroys(lane.step))
        violations = verdict.violations + violations
        complete = next((c for c in lane.status.get("conditions", []) if c["type"] == "Complete"), {})
        self.keep({"fault": lane.fault.name, "step": lane.step, "reached": lane.reached, "struck": lane.struck,
                   "phase": lane.status.get("phase", ""), "reason": complete.get("reason", ""), "message": complete.get("message", ""),
                   "restarted": verdict.restarted, "restarts": restarts, "silence": round(verdict.silence, 3),
                   "seconds": round((lane.ended_at or time.monotonic()) - lane.began, 2), "violations": violations, "left": left[:8],
                   "uid": lane.move.uid, "source": lane.move.source.name, "revision": self.revision}, lane, words)
        if lane.ended_at:
            self.api.delete(self.api.migrations(lane.migration))
        for machine in self.machines.values():
            machine.forget(lane.move.uid)
        if violations or verdict.restarted:  # kubelet waits longer and longer with what was restarted
            self.renew(lane)

    def find_survivor(self, lane, violations):
        """Where the pod is now; the message of its last restart."""
        def running():
            return [p for p in self.pods_of(lane) if p["status"].get("phase") == "Running" and not p["metadata"].get("deletionTimestamp")
                    and all("running" in s["state"] for s in p["status"].get("containerStatuses", [{"state": {}}]))]
        pods = wait(lambda: (lambda found: found if len(found) == 1 else None)(running()), 20, 0.1) or running()
        if len(pods) != 1:
            violations.append(f"{len(pods)} pods run: {[p['metadata']['name'] for p in pods]}")
            return ""
        lane.pod, lane.node = pods[0]["metadata"]["name"], pods[0]["spec"]["nodeName"]
        status = pods[0]["status"]["containerStatuses"][0]
        ended = status.get("lastState", {}).get("terminated", {})
        return f"{status['restartCount']}: {ended.get('reason', '')} {ended.get('message', '')}".strip() if status["restartCount"] else ""

    def left(self, lanes):
        """By lane, what of its migration is still there when it should be gone."""
        def look():
            pods = self.api.list(self.api.pods())
            there = {p["metadata"]["uid"] for p in pods}
            # Permits of pods that are gone are swept up by the agents once a minute: looked at in the end.
            lines = [f"{m.name}: {line}" for m in self.machines.values() for line in m.everything() if "/permits/" not in line]
            left = {}
            for lane in lanes:
                words = {lane.move.uid, lane.status.get("sourcePodUID"), lane.status.get("targetPodUID")} - there - {None, ""}
                left[lane.name] = [line for line in lines if any(word in line for word in words)] + [
                    f"pod {p['metadata']['name']}: {p['status'].get('phase')}" for p in pods
                    if p["metadata"]["name"].startswith(lane.name) and p["metadata"]["name"] != lane.pod]
            return left
        last = {}

        def clean():
            last.update(look())
            return not any(last.values())
        wait(clean, CLEAN_LIMIT, 0.3)
        return last

    def left_in_the_end(self):
        """What is on the nodes when no migration is under way and the agents have swept."""
        last = []

        def clean():
            there = {p["metadata"]["uid"] for p in self.api.list("/api/v1/pods")}
            last.clear()
            for machine in self.machines.values():
                found = [line for line in machine.everything() if line.startswith("nft table inet godwit-") or
                         line.startswith("file /var/lib/godwit/migrations/") or "/godwit-guard/" in line or
                         any(line.split(": ")[0].endswith(name) for name in (" godwit-guard", " godwit-runtime", " godwit-pager", " criu")) or
                         (not self.options.short and line.startswith("file /var/lib/godwit/permits/") and line.split("/")[5] not in there)]
                found += [f"frozen {folder}".replace(str(machine.root), "") for folder in machine.frozen()]
                found += [f"the agent's {name}" for name in machine.memory_files()]
                last.extend(f"{machine.name}: {line}" for line in found)
            return not last
        wait(clean, 100, 2)
        return last

    def keep(self, record, lane, words):
        self.results.append(record)
        bad = record["violations"] or record["left"]
        with self.path.open("a") as out:
            out.write(json.dumps(record) + "\n")
        outcome = record["reason"] or record["phase"] or "-"
        print(f"  {record['fault']:28} {record['step']:45} {outcome:20} {record['seconds']:6.1f} s"
              f"{'' if record['reached'] else '  (not reached)' }{'' if record['struck'] else '  (no victim)'}"
              f"{'  RESTARTED' if record['restarted'] else ''}{'  VIOLATION ' + '; '.join(record['violations']) if record['violations'] else ''}"
              f"{'  LEFT ' + '; '.join(record['left'][:3]) if record['left'] else ''}", flush=True)
        if bad:
            self.tell_story(record, lane, words)

    def tell_story(self, record, lane, words):
        """All that is known of a bad one, for whoever looks for the cause."""
        lines = [json.dumps(record, indent=1), json.dumps(lane.status, indent=1), "--- the last words"]
        lines += [f"{w.at:.3f} {w.life} {w.pod} {w.number} {w.wrong}" for w in words[-200:]]
        for machine in self.machines.values():
            for log in sorted(machine.root.glob(f"var/log/pods/{SYSTEM}_*/*/*.log")):
                lines += [f"{machine.name} {line}" for line in read(log).splitlines() if record["uid"] in line]
            for log in machine.root.glob(f"var/lib/godwit/migrations/{record['uid']}/*/*.log"):
                lines += [f"--- {machine.name} {log.name}", read(log)]
        (OUT / "bad").mkdir(parents=True, exist_ok=True)
        (OUT / "bad" / f"{record['uid']}.txt").write_text("\n".join(lines) + "\n")

    # --- the matrix

    def pending(self, cells, done):
        return collections.Counter({cell: self.options.times - done[cell] for cell in cells if done[cell] < self.options.times})

    def next_round(self, pending, lanes):
        """(node, [(lane, cell)]): as many lanes as possible with cells of one group."""
        best = (None, [])
        for group in sorted({self.group(cell) for cell in pending}):
            for node in self.machines:
                left, assigned = collections.Counter(pending), []
                for lane in lanes:
                    cell = next((c for c in left if left[c] > 0 and self.group(c) == group and self.fits(c, lane, node)), None)
                    if cell and not (assigned and BY_NAME[cell[0]].alone):
                        left[cell] -= 1
                        assigned.append((lane, cell))
                if len(assigned) > len(best[1]):
                    best = (node, assigned)
        return best

    @staticmethod
    def group(cell):
        """Cells of one group can be tried side by side: one fault strikes all of them, or each has its own."""
        fault = BY_NAME[cell[0]]
        return "pod" if fault.scope == "pod" and not fault.alone else fault.group or fault.name

    @staticmethod
    def fits(cell, lane, node):
        role = BY_NAME[cell[0]].role
        return lane.probed == BY_NAME[cell[0]].probed and (role == "" or (role == "source") == (lane.node == node))

    def run(self, cells):
        done = collections.Counter()
        path = self.path
        OUT.mkdir(parents=True, exist_ok=True)
        if self.options.fresh or self.options.short or self.options.mutation:
            path.unlink(missing_ok=True)
        self.results = results_in(path)
        done.update((r["fault"], r["step"]) for r in self.results)
        pending = self.pending(cells, done)
        begin = time.monotonic()
        print(f"{sum(pending.values())} migrations to be disturbed; {len(self.results)} are in {path.relative_to(REPO)}", flush=True)
        with self.prepared(cells):
            small = collections.Counter({cell: n for cell, n in pending.items() if cell[0] in SMALL_DISKS})
            self.run_cells(pending - small, begin)
            if small:
                with self.small_disks():
                    self.run_cells(small, begin)
            self.left_over = self.left_in_the_end()
        total = len(self.results) - sum(done.values())
        minutes = (time.monotonic() - begin) / 60
        print(f"{total} migrations in {minutes:.1f} min", flush=True)

    def run_cells(self, pending, begin):
        while pending and time.monotonic() - begin < self.options.minutes * 60:
            self.ready_lanes()
            node, assigned = self.next_round(pending, self.lanes)
            if not assigned:
                raise RuntimeError(f"no pod fits {list(pending)[:3]}")
            self.run_round(assigned, node)
            for _, cell in assigned:
                pending[cell] -= 1
            pending = +pending

    def renew_agents(self):
        for pod in self.system_pods():
            if pod["metadata"]["labels"].get("app.kubernetes.io/component") == "agent":
                self.api.delete(f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}", 2)
        time.sleep(1)
        self.fresh_system()

    @contextlib.contextmanager
    def small_disks(self):
        """What the agents keep lies on a small disk of its own: the machine's cannot be filled, it is everybody's."""
        for machine in self.machines.values():
            machine.run("mount", "-t", "tmpfs", "-o", "size=1g", "chaos", "/var/lib/godwit")
        try:
            self.renew_agents()
            yield
        finally:
            for machine in self.machines.values():
                machine.run("umount", "-l", "/var/lib/godwit")
            self.renew_agents()

    @contextlib.contextmanager
    def prepared(self, cells):
        """namespace_with_lanes() on machines with failpoints, with the deliberate error switched on."""
        for machine in self.machines.values():
            if not has_failpoints(machine):
                raise SystemExit(f"{machine.name} has no failpoints: start this by tests/cluster/chaos/run")
            if self.options.mutation:
                machine.points.mkdir(parents=True, exist_ok=True)
                (machine.points / "mutation").write_text(self.options.mutation)
        try:
            with self.namespace_with_lanes(cells):
                yield
        finally:
            for machine in self.machines.values():
                (machine.points / "mutation").unlink(missing_ok=True)

    @contextlib.contextmanager
    def namespace_with_lanes(self, cells):
        """A namespace with a pod for each lane; nothing of it is left, nor of what was broken."""
        self.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        wait(lambda: self.api.get(f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default"), 30)
        self.lanes = [Lane(self.new_name()) for _ in range(self.options.lanes)]
        if any(BY_NAME[name].probed for name, _ in cells):
            self.lanes.append(Lane(self.new_name(), probed=True))
        try:
            self.fresh_system()
            yield
        finally:
            for machine in self.machines.values():
                machine.mend_link("chaos")
                (machine.points / "clock").unlink(missing_ok=True)
            for lane in self.lanes:
                for _, mend in lane.mends:
                    mend()
            self.api.delete(f"/api/v1/namespaces/{self.namespace}")


def results_in(path):
    return [json.loads(line) for line in read(path).splitlines()]


def summary(results):
    """For each fault: how often, with which outcomes."""
    lines = [f"| {'fault':30} | runs | steps | succeeded | failed | restarted | violations | left behind | longest silence |",
             "|---|---|---|---|---|---|---|---|---|"]
    counted = [r for r in results if r["reached"] and r["struck"]]
    for name in [f.name for f in FAULTS] + ["all"]:
        of = [r for r in counted if name in ("all", r["fault"])]
        if not of:
            continue
        reasons = collections.Counter(r["reason"] for r in of if r["phase"] == "Failed")
        failed = f"{sum(reasons.values())}" + (f" ({', '.join(f'{reason} {n}' for reason, n in reasons.most_common())})" if reasons and name != "all" else "")
        lines.append(f"| {name:30} | {len(of)} | {len({r['step'] for r in of})} | {sum(r['phase'] == 'Succeeded' for r in of)} | {failed} | "
                     f"{sum(r['restarted'] for r in of)} | {sum(bool(r['violations']) for r in of)} | {sum(bool(r['left']) for r in of)} | "
                     f"{max(r['silence'] for r in of):.1f} s |")
    return "\n".join(lines)


def matrix(results):
    """Steps by faults: S succeeded, F failed, R restarted, ! a violation, + something left."""
    counted = [r for r in results if r["reached"] and r["struck"]]
    names = [f.name for f in FAULTS if any(r["fault"] == f.name for r in counted)]
    steps = [s for s in dict.fromkeys(STEPS + [r["step"] for r in counted]) if any(r["step"] == s for r in counted)]
    lines = ["| step | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for step in steps:
        row = []
        for name in names:
            of = [r for r in counted if (r["fault"], r["step"]) == (name, step)]
            marks = collections.Counter({"Succeeded": "S", "Failed": "F"}.get(r["phase"], "-") for r in of)
            row.append("".join(f"{m}{n if n > 1 else ''}" for m, n in sorted(marks.items())) + "R" * any(r["restarted"] for r in of) +
                       "!" * any(r["violations"] for r in of) + "+" * any(r["left"] for r in of))
        lines.append(f"| {step} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=6)
    parser.add_argument("--mib", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--only", default="", help="faults and steps whose name has one of these words, by semicolons")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS))
    parser.add_argument("--fresh", action="store_true", help="forgets earlier results")
    parser.add_argument("--table", action="store_true", help="the table of the results that are there, and nothing else")
    options = parser.parse_args()
    if options.table:
        results = results_in(OUT / "results.jsonl")
        print(matrix(results) + "\n\n" + summary(results))
        return
    cells = [(fault.name, step) for fault in FAULTS for step in fault.steps]
    if options.short:
        cells = SHORT
    if options.mutation:
        cells = MUTATIONS[options.mutation]
    cells = [c for c in cells if any(word in c[0] or word in c[1] for word in options.only.split(";"))]
    chaos = Chaos(options)
    chaos.run(cells)
    results = chaos.results
    bad = [r for r in results if r["violations"] or r["left"]]
    print("\n" + matrix(results) + "\n\n" + summary(results) + "\n")
    if options.mutation:
        found = sum(bool(r["violations"]) for r in results)
        print(f"{options.mutation}: found {found} times in {len(results)} migrations")
        print(f"{1 if found else 0} passed, {0 if found else 1} failed")
        sys.exit(0 if found else 1)
    not_struck = sum(not (r["reached"] and r["struck"]) for r in results)
    print(f"{len(results)} migrations, {not_struck} of them without the fault (the step was not reached, or there was no victim)")
    for line in chaos.left_over:
        print(f"left on the nodes in the end: {line}")
    failed = len(bad) + bool(chaos.left_over)
    print(f"{len(results) - len(bad)} passed, {failed} failed")
    sys.exit(1 if failed or not results else 0)


if __name__ == "__main__":
    main()
