# SPDX-License-Identifier: Apache-2.0
"""What is done to a migration, and at which steps of it."""

import contextlib
import dataclasses
import os
import subprocess
import time
import typing

from nodes import Machine, STATE

# The steps of a move that goes well, in their order on each side: names of failpoints (base/failpoint.h), as
# docs/design/chaos.md tells them. The stages' names come from agent/migration/handover.cc; target.commit-N are the acts of
# decisions.h.
SOURCE = ["source.connecting", "source.copying-while-the-pod-runs", "source.armed", "source.freezing", "source.dumping-and-sending",
          "source.waiting-until-the-target-has-restored", "source.ceding", "source.committing", "source.commit-sent",
          "source.serving-the-pages-that-the-target-lacks", "source.waiting-for-the-sources-end", "source.killing-the-frozen-source"]
GUARD = ["guard.armed", "guard.before-Frozen", "guard.after-Frozen", "guard.freezing", "guard.frozen", "guard.dump-begun", "guard.dumped",
         "guard.before-Ceded", "guard.after-Ceded", "guard.killing", "guard.before-Done", "guard.after-Done"]
TARGET = ["target.restoring", "target.at-gate", "target.state-complete", "target.gate-open", "target.restored", "target.confirmed",
          "target.preparing", "target.prepared", "target.committing", "target.commit-0", "target.commit-1", "target.commit-2",
          "target.commit-3", "target.commit-4", "target.commit-5"]
RUNTIME = ["runtime.create-asked", "runtime.ordered", "runtime.restore-begun", "runtime.restored", "runtime.confirmed"]
PAGER = ["pager.fills"]
STEPS = SOURCE + GUARD + TARGET + RUNTIME + PAGER
# Of a move that goes wrong before the decision.
SOURCE_ENDS = ["source.thawing", "guard.thawing", "guard.before-Aborted", "guard.after-Aborted"]
TARGET_ENDS = ["target.destroying-the-copy", "target.end-0", "target.end-1", "target.end-2"]
# CRIU's parasite is, or may be, in the tasks: who kills what holds it kills the application.
DUMPING = {"source.dumping-and-sending", "guard.dump-begun", "guard.dumped"}
WHILE_RUNTIME = TARGET[1:6] + RUNTIME
# Where the fault is a link's that is bad all the time, and a step says only when that begins.
FEW = ["source.connecting", "source.copying-while-the-pod-runs", "source.dumping-and-sending", "source.committing"]


def on_source(step):
    return step.startswith(("source.", "guard."))


@dataclasses.dataclass
class Move:
    """One lane's migration under way."""
    uid: str
    pod: str
    target_pod: typing.Callable[[], str]
    source: Machine
    target: Machine
    namespace: str


@dataclasses.dataclass
class Fault:
    name: str
    steps: list
    act: typing.Callable  # pod: act(move), else act(machine): what mends it, or None; False: there was no victim
    scope: str            # pod, node or cluster: whom it concerns beside this migration
    group: str = ""       # faults that are the same act; its node is one lane's source and another's target. Empty: the name
    alone: bool = False   # cannot be told from another lane's
    probed: bool = False  # of a pod with a liveness probe, which bears two seconds
    role: str = ""        # of the node: source or target
    destroys: typing.Callable = lambda step: False  # processes of the pod's, so that its state may be lost
    hold: float = 0.0     # seconds before it is mended; 0: when the migration has ended, if there is anything to mend
    first: tuple = ()     # (step, act(move)): another fault before it, for steps of a move that goes wrong


def kill(processes):
    for process in processes:
        process.kill()
    return None if processes else False


# --- of one pod

def kill_guard(move):
    return kill(move.source.find("godwit-guard", move.uid))


def runtimes(move):
    """godwit-runtime and its watcher: the shim's `create` of the target pod."""
    pod = move.target_pod()
    found = []
    for process in move.target.find("godwit-runtime", " create "):
        words = process.command.split()
        bundle = words[words.index("--bundle") + 1] if "--bundle" in words else ""
        try:
            text = (move.target.root / bundle.lstrip("/") / "config.json").read_text()
        except OSError:
            continue
        if pod and f'"{pod}"' in text:
            found.append(process)
    return found


def kill_runtime(move):
    """Not its watcher, which is its child."""
    found = runtimes(move)
    return kill([p for p in found if p.parent not in {q.pid for q in found}])


def kill_pager(move):
    """The pager alone: its keeper goes on for it."""
    return kill(move.target.find("godwit-pager", move.uid)[:1])


def source(move):
    return move.source


def target(move):
    return move.target


def kill_criu(machine):
    return lambda move: kill(machine(move).wait_for(lambda: machine(move).below(move.uid, "swrk")))


def kill_runc(machine, word):
    return lambda move: kill([p for p in machine(move).wait_for(lambda: machine(move).below(move.uid, word)) if "runc" in p.name])


def kill_target_shim(move):
    every = move.target.processes()
    return kill([every[p.parent] for p in runtimes(move) if p.parent in every and every[p.parent].name.startswith("containerd-shim")])


def kill_source_shim(move):
    """The parent of the pod's own processes."""
    every = move.source.processes()
    own = [p for p in every.values() if f" {move.pod.split('-')[0]} " in p.command and p.name.startswith("python3")]
    return kill({every[p.parent].pid: every[p.parent] for p in own
                 if p.parent in every and every[p.parent].name.startswith("containerd-shim")}.values())


def outlast_the_probe(move):
    """Longer than the pod's liveness probe bears, wherever that is: the pod must go on by itself before."""
    time.sleep(4)


def exec_in_flight(move):
    subprocess.Popen([STATE / "bin/kubectl", f"--kubeconfig={STATE}/kubeconfig", "-n", move.namespace, "exec", move.pod, "--", "sleep", "3"],
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    move.source.wait_for(lambda: move.source.find("sleep", "sleep 3"), 3)


def corrupt(frame):
    """A byte of the next such frame, behind its checksum and before TLS."""
    def act(move):
        sender = move.target if frame in ("PREPARED", "RUNNING") else move.source
        sender.order("any", f"stream.{frame}", "corrupt")
        return lambda: sender.forget("any")
    return act


# --- of a node

def kill_agent(machine):
    return kill([p for p in machine.find("godwit-agent") if " install" not in p.command])


def kill_kubelet(machine):
    return kill(machine.find("kubelet", "--hostname-override"))


def cut(incoming="", outgoing=""):
    def act(machine):
        machine.break_link("chaos", incoming, outgoing)
        return lambda: machine.mend_link("chaos")
    return act


def fill_run(machine):
    """/run is the node's tmpfs: made as small as what is in it."""
    stat = os.statvfs(machine.root / "run")
    used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    machine.run("mount", "-o", f"remount,size={max(used, 1 << 16)}", "/run")
    return lambda: machine.run("mount", "-o", "remount,size=50%", "/run")


def fill_disk(machine):
    """/var/lib/godwit, which small_disks() has made small."""
    path = machine.root / "var/lib/godwit/filler"
    with path.open("wb", buffering=0) as filler:
        stat = os.statvfs(path)
        with contextlib.suppress(OSError):
            os.posix_fallocate(filler.fileno(), 0, stat.f_bavail * stat.f_frsize)
        filler.seek(0, os.SEEK_END)
        with contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 4096)
    return lambda: path.unlink(missing_ok=True)


def step_clock(seconds):
    """The agent's wall clock (agent/chaos_clock.cc), until the migration has ended; then it is set back."""
    def act(machine):
        machine.points.mkdir(parents=True, exist_ok=True)
        (machine.points / "clock").write_text(f"{seconds}\n")
        time.sleep(0.05)
        return lambda: (machine.points / "clock").unlink(missing_ok=True)
    return act


# --- of the cluster

def kill_controllers(machines):
    return kill([p for machine in machines for p in machine.find("godwit-controller")])


def kill_api_server(machines):
    return kill(Machine("cp").find("kube-apiserver"))


ALWAYS = lambda step: True  # noqa: E731
FAULTS = [
    Fault("kill source agent", STEPS, kill_agent, "node", "agents", role="source"),
    Fault("kill target agent", STEPS, kill_agent, "node", "agents", role="target"),
    Fault("kill guard", SOURCE[3:] + GUARD + TARGET[2:9], kill_guard, "pod", destroys=lambda step: step in DUMPING),
    Fault("kill runtime", WHILE_RUNTIME, kill_runtime, "pod", destroys=ALWAYS),
    Fault("kill pager", ["runtime.restore-begun", "target.gate-open", "target.restored", "target.prepared", "target.commit-2", "pager.fills"],
          kill_pager, "pod", destroys=ALWAYS),
    Fault("kill criu, source", ["guard.armed", "source.armed", "guard.frozen", "guard.dump-begun"], kill_criu(source), "pod", destroys=ALWAYS),
    Fault("kill criu, target", ["target.at-gate", "target.state-complete", "target.gate-open", "runtime.restore-begun"], kill_criu(target), "pod"),
    Fault("kill runc, source", ["guard.armed", "source.armed", "guard.frozen", "guard.dump-begun"], kill_runc(source, "checkpoint"), "pod", destroys=ALWAYS),
    Fault("kill runc, target", ["target.at-gate", "target.state-complete", "target.gate-open", "runtime.restore-begun"], kill_runc(target, "restore"), "pod"),
    Fault("kill shim, source", SOURCE[1:10], kill_source_shim, "pod", destroys=ALWAYS),
    Fault("kill shim, target", WHILE_RUNTIME, kill_target_shim, "pod", destroys=ALWAYS),
    Fault("exec in flight", ["source.copying-while-the-pod-runs", "source.freezing"], exec_in_flight, "pod"),
    # At no step of the guard's: it is the guard that lets the pod go on in time, and a step would stop it.
    Fault("a liveness probe fires", ["source.dumping-and-sending", "source.waiting-until-the-target-has-restored", "source.ceding",
                                     "target.gate-open", "target.restored", "target.prepared"], outlast_the_probe, "pod", "probe", alone=True, probed=True),
    *(Fault(f"corrupt a byte of {frame}", ["source.copying-while-the-pod-runs"], corrupt(frame), "pod", alone=True)
      for frame in ("PAGES", "ROUND_END", "FILE_DATA", "COMMIT", "PREPARED", "RUNNING")),
    Fault("kill source kubelet", SOURCE[3:] + TARGET[1:], kill_kubelet, "node", "kubelets", role="source"),
    Fault("kill target kubelet", SOURCE[3:] + TARGET[1:] + RUNTIME, kill_kubelet, "node", "kubelets", role="target"),
    Fault("cut source to target", STEPS, cut(outgoing="drop"), "node", "out", role="source", hold=3),
    Fault("cut target to source", STEPS, cut(outgoing="drop"), "node", "out", role="target", hold=3),
    Fault("cut both ways", STEPS, cut("drop", "drop"), "node", hold=3),
    Fault("cut both ways, long", SOURCE[1:10] + TARGET[5:10], cut("drop", "drop"), "node", hold=20),
    Fault("a tenth is lost", FEW, cut("numgen random mod 10 == 0 drop", "numgen random mod 10 == 0 drop"), "node"),
    Fault("300 kB/s", FEW, cut("limit rate over 300 kbytes/second drop", "limit rate over 300 kbytes/second drop"), "node"),
    Fault("full /run, source", SOURCE[:9] + GUARD[:9], fill_run, "node", "run", role="source", hold=2),
    Fault("full /run, target", TARGET, fill_run, "node", "run", role="target", hold=2),
    Fault("full disk, source", SOURCE[:9] + GUARD[:9], fill_disk, "node", "disk", role="source", hold=2),
    Fault("full disk, target", TARGET, fill_disk, "node", "disk", role="target", hold=2),
    *(Fault(f"clock of {role} set {way}", SOURCE[1:10] + TARGET[:10], step_clock(seconds), "node", f"clock {way}", role=role)
      for way, seconds in (("ahead", 3600), ("back", -3600)) for role in ("source", "target")),
    Fault("kill controllers", STEPS, kill_controllers, "cluster"),
    Fault("kill API server", SOURCE + TARGET, kill_api_server, "cluster"),
    *(Fault(f"{name}, in an abort", steps, act, scope, group, role=role, first=("runtime.restored", kill_runtime))
      for name, steps, act, scope, group, role in (
          ("kill source agent", SOURCE_ENDS + TARGET_ENDS, kill_agent, "node", "agents in an abort", "source"),
          ("kill target agent", SOURCE_ENDS + TARGET_ENDS, kill_agent, "node", "agents in an abort", "target"),
          ("kill guard", SOURCE_ENDS, kill_guard, "pod", "", ""))),
]
BY_NAME = {fault.name: fault for fault in FAULTS}
SMALL_DISKS = {"full disk, source", "full disk, target"}

# What `make test` has time for.
SHORT = [("kill source agent", "source.ceding"), ("kill source agent", "source.commit-sent"), ("kill target agent", "target.prepared"),
         ("kill target agent", "target.commit-1"), ("kill guard", "guard.after-Ceded"), ("kill guard", "guard.frozen"),
         ("kill runtime", "runtime.restored"), ("kill criu, target", "target.gate-open"), ("cut both ways", "source.committing"),
         ("cut both ways", "target.prepared"), ("kill controllers", "target.commit-0"), ("kill target kubelet", "target.restored")]

# Deliberate errors, and the faults that must show each.
MUTATIONS = {
    "thaws-when-agent-gone": [("kill source agent", "source.committing"), ("kill source agent", "source.commit-sent")],
    "thaws-before-running": [("kill target agent", "target.commit-0"), ("kill target agent", "target.commit-1")],
    "runs-without-commit": [("kill source agent", "source.ceding"), ("cut both ways, long", "source.ceding")],
}
