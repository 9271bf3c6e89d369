# SPDX-License-Identifier: Apache-2.0
"""The test cluster's machines as seen from outside: their processes, files, failpoints and links. Nothing of a machine runs for
it, so that it is quick (a pod stands still meanwhile) and works whatever has been killed there."""

import dataclasses
import hashlib
import os
import pathlib
import signal
import subprocess
import time

REPO = pathlib.Path(__file__).resolve().parents[3]
STATE = pathlib.Path(os.environ.get("GODWIT_CLUSTER", REPO / "build/cluster"))
CLUSTER_ID = "godwit-" + hashlib.sha256(f"{STATE}\n".encode()).hexdigest()[:6]  # as in ../lib.sh
STREAM_PORT = 9552  # between agents


@dataclasses.dataclass
class Process:
    pid: int
    parent: int
    name: str
    command: str

    def kill(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def read(path):
    """The file's text; empty where there is none (any more)."""
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except OSError:
        return ""


class Machine:
    def __init__(self, name):
        self.name = name
        self.pid = int(read(STATE / "machines" / name / "pid").split()[0])
        self.root = pathlib.Path(f"/proc/{self.pid}/root")
        self.points = self.root / "run/godwit/chaos"

    def run(self, *argv, stdin=None, check=True):
        done = subprocess.run(["nsenter", "-t", str(self.pid), "--mount", "--net", "--pid", "--", *argv], input=stdin, text=True,
                              capture_output=True, timeout=30)
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: {done.stderr}")
        return done.stdout

    # --- processes

    def processes(self):
        """Its processes, by process id as this machine counts."""
        found = {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or f"/{CLUSTER_ID}/{self.name}/" not in read(f"/proc/{entry.name}/cgroup"):
                continue
            stat = read(f"/proc/{entry.name}/stat")
            if not stat or stat.rsplit(") ", 1)[1].startswith("Z"):
                continue
            found[int(entry.name)] = Process(int(entry.name), int(stat.rsplit(") ", 1)[1].split()[1]), stat.split("(", 1)[1].rsplit(")", 1)[0],
                                             read(f"/proc/{entry.name}/cmdline").replace("\0", " "))
        return found

    def find(self, name, word=""):
        """Processes of that name (15 letters at most count) or program, whose command has the word."""
        return [p for p in self.processes().values()
                if (p.name == name[:15] or p.command.split(" ")[0].rsplit("/", 1)[-1] == name) and word in p.command]

    def wait_for(self, find, seconds=1.0):
        """The first processes that find() finds."""
        deadline = time.monotonic() + seconds
        while True:
            found = find()
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.002)

    def below(self, uid, word):
        """Processes whose command has `word`, and their own or a forebear's has the Migration's UID."""
        every = self.processes()

        def belongs(process):
            while process:
                if uid in process.command:
                    return True
                process = every.get(process.parent)
            return False
        return [p for p in every.values() if word in p.command and belongs(p)]

    # --- failpoints

    def order(self, uid, point, what):
        folder = self.points / uid
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f".{point}"
        new.write_text(what)
        new.rename(folder / point)  # whole, when somebody finds it

    def reached(self, uid, point):
        return (self.points / uid / f"{point}.reached").exists()

    def let_go(self, uid, point):
        for name in (point, f"{point}.reached"):
            (self.points / uid / name).unlink(missing_ok=True)

    def forget(self, uid):
        folder = self.points / uid
        if folder.is_dir():
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()

    # --- links

    def break_link(self, table, incoming="", outgoing=""):
        """nft statements for packets between agents' stream ports: all that enter and leave this machine."""
        rules = {"input": incoming, "output": outgoing}
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; " +
            "".join(f"tcp {end} {STREAM_PORT} {rule}; " for end in ("dport", "sport")) + "}\n"
            for hook, rule in rules.items() if rule)
        self.run("nft", "-f", "-", stdin=f"table inet {table} {{ {chains} }}\n")

    def mend_link(self, table):
        self.run("nft", "delete", "table", "inet", table, check=False)

    # --- what is left

    def everything(self):
        """What a migration might leave here, a line each."""
        lines = [f"process {p.pid} {p.name}: {p.command[:300]}" for p in self.processes().values()]
        for top in ("var/lib/godwit", "run/godwit"):
            for folder, folders, files in os.walk(self.root / top):
                if folder.endswith("/chaos"):
                    folders.clear()
                    continue
                lines += [f"file {folder}/{name}".replace(str(self.root), "") for name in folders + files]
        lines += [f"mount {line.split()[4]}" for line in read(f"/proc/{self.pid}/mountinfo").splitlines()]
        lines += [f"nft {line}" for line in self.run("nft", "list", "tables", check=False).splitlines()]
        cgroups = self.root / "sys/fs/cgroup"
        lines += [f"cgroup {folder}".replace(str(cgroups), "") for folder, _, _ in os.walk(cgroups)]
        return lines

    def frozen(self):
        """Frozen cgroups."""
        return [folder for folder, _, files in os.walk(self.root / "sys/fs/cgroup")
                if "cgroup.freeze" in files and read(f"{folder}/cgroup.freeze").strip() == "1"]

    def memory_files(self):
        """The agent's memfds."""
        found = []
        for agent in self.find("godwit-agent"):
            for fd in pathlib.Path(f"/proc/{agent.pid}/fd").iterdir():
                try:
                    if "memfd:" in os.readlink(fd):
                        found.append(os.readlink(fd))
                except OSError:
                    pass
        return found

    def figures(self):
        """What must not grow from migration to migration."""
        figures = {}
        every = self.processes()
        figures["processes"] = len(every)
        figures["mounts"] = len(read(f"/proc/{self.pid}/mountinfo").splitlines())
        figures["nft tables"] = len(self.run("nft", "list", "tables").splitlines())
        figures["nft rules"] = self.run("nft", "list", "ruleset").count("\n")
        figures["cgroups"] = sum(1 for _ in os.walk(self.root / "sys/fs/cgroup"))
        figures["files"] = sum(len(files) + len(folders) for top in ("var/lib/godwit", "run/godwit")
                               for _, folders, files in os.walk(self.root / top))
        figures["agent memfds"] = len(self.memory_files())
        for name in ("godwit-agent", "godwit-controller"):
            for process in [p for p in every.values() if p.name == name[:15]]:
                fds = list(pathlib.Path(f"/proc/{process.pid}/fd").iterdir())
                figures[f"{name} descriptors"] = figures.get(f"{name} descriptors", 0) + len(fds)
                rss = [line for line in read(f"/proc/{process.pid}/status").splitlines() if line.startswith("VmRSS")]
                figures[f"{name} KiB"] = figures.get(f"{name} KiB", 0) + int(rss[0].split()[1])
        return figures


def has_failpoints(machine):
    """Which of Godwit's programs that run or lie on the machine have failpoints."""
    programs = list((machine.root / "opt/godwit/bin").iterdir()) + [pathlib.Path(f"/proc/{p.pid}/exe") for p in machine.find("godwit-agent")]
    return [str(p) for p in programs if b"/run/godwit/chaos" in p.read_bytes()]
