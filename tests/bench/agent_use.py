# SPDX-License-Identifier: Apache-2.0
"""What Godwit's processes on the nodes take of memory and CPU while something is done, read from /proc of this machine.

    with AgentUse(nodes) as use: ...
    use.figures()

All machines of the test cluster are namespaces of this one, so their processes can be seen from here. Agents are looked at four times
a second; guards and pagers come and go, so all that is counted of them is the CPU time that they were last seen with.
"""

import contextlib
import os
import pathlib
import re
import threading

from cluster import REPO

STATE = pathlib.Path(os.environ.get("GODWIT_CLUSTER", REPO / "build/cluster"))
PERIOD = 0.25
TICK = os.sysconf("SC_CLK_TCK")
HELPERS = ("godwit-guard", "godwit-pager", "godwit-runtime")


def _read(path):
    try:
        return pathlib.Path(path).read_text(errors="replace")  # a process may call itself anything
    except OSError:  # it has ended
        return ""


def _cgroup(pid):
    found = re.search(r"^0::(.*)$", _read(f"/proc/{pid}/cgroup"), re.M)
    return found.group(1) if found else ""


def _cpu_seconds(pid):
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK if fields else None  # utime, stime (proc_pid_stat(5))


def _mib(text, name):
    found = re.search(rf"^{name}:\s*(\d+) kB", text, re.M)
    return int(found.group(1)) / 1024 if found else 0.0


class AgentUse:
    def __init__(self, nodes):
        pids = {node: (STATE / f"machines/{node}/pid").read_text().split()[0] for node in nodes}
        # A machine's first process is in <its cgroup>/init.
        self.cgroups = {node: os.path.dirname(_cgroup(pid)) + "/" for node, pid in pids.items()}
        self.known = {}  # pid: (node, comm) of processes on the nodes; None of others
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.first, self.last = {}, {}  # CPU seconds by (node, comm, pid)
        self.peak = {node: {"rss_mib": 0.0, "anon_mib": 0.0, "pss_mib": 0.0} for node in nodes}
        self.shared_before = self.shared_peak = 0.0

    def __enter__(self):
        self._find()
        self._look(rollup=True)
        self.first = {key: cpu for key, cpu in self.last.items() if key[1] == "godwit-agent"}
        self.shared_before = self.shared_peak = _mib(_read("/proc/meminfo"), "Shmem")
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self._find()
        self._look(rollup=True)

    def figures(self):
        """By node: the agent's peaks and its CPU seconds, those of its helpers. `store_mib`: how much the shared memory of the whole
        machine (page stores, tmpfs) grew at most."""
        by_node = {}
        for node, peak in self.peak.items():
            used = {kind: sum(cpu - self.first.get(key, 0) for key, cpu in self.last.items()
                              if key[0] == node and (key[1] == "godwit-agent") == (kind == "agent_cpu_s"))
                    for kind in ("agent_cpu_s", "helpers_cpu_s")}
            by_node[node] = {**{k: round(v, 1) for k, v in peak.items()}, **{k: round(v, 2) for k, v in used.items()}}
        return {"nodes": by_node, "store_mib": round(self.shared_peak - self.shared_before, 1)}

    def _find(self):
        pids = {name for name in os.listdir("/proc") if name.isdigit()}
        for pid in pids - self.known.keys():
            comm = _read(f"/proc/{pid}/comm").strip()
            self.known[pid] = None
            if comm == "godwit-agent" or comm in HELPERS:
                cgroup = _cgroup(pid)
                self.known[pid] = next(((node, comm) for node, top in self.cgroups.items() if cgroup.startswith(top)), None)
        for pid in self.known.keys() - pids:
            del self.known[pid]

    def _look(self, rollup):
        for pid, known in self.known.items():
            if not known:
                continue
            cpu = _cpu_seconds(pid)
            if cpu is not None:
                self.last[(*known, pid)] = cpu
            if known[1] == "godwit-agent":
                status, peak = _read(f"/proc/{pid}/status"), self.peak[known[0]]
                peak["rss_mib"] = max(peak["rss_mib"], _mib(status, "VmRSS"))
                peak["anon_mib"] = max(peak["anon_mib"], _mib(status, "RssAnon"))
                if rollup:  # walks the agent's page tables: not each time
                    peak["pss_mib"] = max(peak["pss_mib"], _mib(_read(f"/proc/{pid}/smaps_rollup"), "Pss"))
        self.shared_peak = max(self.shared_peak, _mib(_read("/proc/meminfo"), "Shmem"))

    def _watch(self):
        number = 0
        while not self.stop.wait(PERIOD):
            number += 1
            with contextlib.suppress(OSError):
                self._find()
                self._look(rollup=number % 4 == 0)
