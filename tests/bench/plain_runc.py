# SPDX-License-Identifier: Apache-2.0
"""The baseline: a container of tests/bench/workload.cc that is moved between two nodes by runc and CRIU alone.

Method "runc" is `runc checkpoint`, a copy over one TCP connection, `runc restore`; "lazy-pages" is CRIU's own post-copy: `runc
checkpoint --lazy-pages` as a page server on the source, `criu lazy-pages` and `runc restore --lazy-pages` on the target. Kernel,
nodes, runc and CRIU are the ones Godwit uses. Nothing is left against them: images lie on tmpfs and are never synced, the container
joins namespaces as a pod's does, CRIU forks no iptables (network-lock skip) and walks no cgroups (runc makes the container's anew),
and the connection for the copy is there before.
"""

import contextlib
import json
import pathlib
import re
import shlex
import subprocess

from cluster import NODE, on_node, wait

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = "/run/godwit-bench"
COPY_PORT, PAGES_PORT = 27001, 27002
PATH = "PATH=/opt/godwit/criu:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUNC = "/usr/sbin/runc"
MOVE_LIMIT = 1800  # seconds: a pod that touches its pages at random is filled slowly by lazy-pages
METHODS = ("runc", "lazy-pages")
# CRIU's pipes hold all pages while a page server serves them; without CAP_SYS_RESOURCE they may only be as large as these allow.
PIPES = {"/proc/sys/fs/pipe-max-size": "16777216", "/proc/sys/fs/pipe-user-pages-soft": "0", "/proc/sys/fs/pipe-user-pages-hard": "0"}

MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
     "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
]


@contextlib.contextmanager
def large_pipes():
    before = {path: pathlib.Path(path).read_text() for path in PIPES}
    try:
        for path, value in PIPES.items():
            pathlib.Path(path).write_text(value)
        yield
    finally:
        for path, value in before.items():
            pathlib.Path(path).write_text(value)


def put(node, path, content):
    subprocess.run([str(NODE), node, "sh", "-c", f"cat >{path} && chmod 755 {path}"], input=content, check=True)


class PlainContainer:
    """Made on the first node; `move` takes it to the other one. Closes itself as a context."""

    def __init__(self, nodes, workload, *arguments):
        self.nodes, self.workload = nodes, pathlib.Path(workload)
        self.arguments = ["/workload", *arguments]
        self.at, self.id = nodes[0], "bench"

    def __enter__(self):
        self.__exit__()  # what one that was killed has left
        try:
            for node in self.nodes:
                self._prepare(node)
            self._shell(self.at, f"{PATH} {RUNC} run --detach --bundle {FOLDER}/bundle --pid-file {FOLDER}/pid {self.id}"
                                 f" </dev/null 2>&1 | cat >>{FOLDER}/log", detach=True)
            wait("the workload", lambda: "beat 4 " in self.log(self.at), 120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            self._shell(node, f"{RUNC} delete --force {self.id}; [ ! -e {FOLDER}/sandbox ] || kill $(cat {FOLDER}/sandbox);"
                              f" for _ in $(seq 50); do ! mountpoint -q {FOLDER} || umount {FOLDER} || sleep 0.2; done;"
                              f" rmdir {FOLDER} /sys/fs/cgroup/godwit-bench", check=False)

    def log(self, node):
        return self._shell(node, f"cat {FOLDER}/log 2>/dev/null", check=False)

    def move(self, method):
        """One move, and what it took: the gap is the workload's own."""
        source, target = self.at, next(node for node in self.nodes if node != self.at)
        for node in self.nodes:
            self._shell(node, f"rm -rf {FOLDER}/images {FOLDER}/work; mkdir {FOLDER}/images {FOLDER}/work")
        self._shell(target, f": >{FOLDER}/log")
        lazy, images = method == "lazy-pages", ["--image-path", f"{FOLDER}/images", "--work-path", f"{FOLDER}/work",
                                                 "--manage-cgroups-mode", "ignore"]
        restore = ["env", PATH, RUNC, "restore", "--detach", "--bundle", f"{FOLDER}/bundle", "--pid-file", f"{FOLDER}/pid",
                   *images, *(["--lazy-pages"] if lazy else []), self.id]
        receive = ["receive", str(COPY_PORT), f"{FOLDER}/images", f"{FOLDER}/log"]
        if lazy:
            receive += ["--lazy", f"env {PATH} criu lazy-pages --page-server --address {self._address(source)} --port {PAGES_PORT}"
                                  f" --images-dir {FOLDER}/images --work-dir {FOLDER}/work --log-file lazy.log"]
        checkpoint = ["env", PATH, RUNC, "checkpoint", *images,
                      *(["--lazy-pages", "--page-server", f"0.0.0.0:{PAGES_PORT}"] if lazy else []), self.id]
        told = self._run_ends(method, (target, *receive, "--", *restore),
                              (source, "move", self._address(target), str(COPY_PORT), f"{FOLDER}/images",
                               *(["--lazy"] if lazy else []), "--", *checkpoint))
        self.at = target
        at = {step: float(time) for step, time in re.findall(r"^(\w+) ([\d.]+)", told, re.M)}
        log = wait("the target to beat", lambda: (lambda text: text if text.count("beat ") >= 3 else None)(self.log(target)), 60)
        self._shell(target, f"{RUNC} kill {self.id} USR1")
        checked = wait("the memory to be verified", lambda: re.search(r"verified (\d+) wrong (\d+)", self.log(target)), 180)
        return {"gap_ms": max(map(float, re.findall(r"^gap ([\d.]+) ", log, re.M)), default=0.0),
                "total_s": at["filled" if lazy else "restored"] - at["began"], "checkpoint_s": at["checkpointed"] - at["began"],
                "copy_s": at["received"] - at["checkpointed"], "restore_s": at["restored"] - at["received"],
                "wire_bytes": int(re.search(r"^sent [\d.]+ (\d+)", told, re.M).group(1)),
                "pages": int(checked.group(1)), "wrong": int(checked.group(2))}

    def _run_ends(self, method, receiving, sending):
        """Both ends of a move, to their end; what they told."""
        receiver = sender = None
        try:
            receiver = self._program(*receiving)
            began = receiver.stdout.readline()
            if not began.startswith("listening"):
                raise AssertionError(f"the target does not listen: {began}{receiver.communicate()[1]}")
            sender = self._program(*sending)
            (told, errors), (told_there, errors_there) = (end.communicate(timeout=MOVE_LIMIT) for end in (sender, receiver))
        finally:
            for end in (receiver, sender):
                if end and end.poll() is None:
                    end.kill()
        if sender.returncode or receiver.returncode:
            logs = [self._shell(node, f"grep -h 'Error (' {FOLDER}/work/*.log | tail -n 5", check=False) for node in self.nodes]
            said = [line for line in (errors + errors_there).splitlines() if "level=warning" not in line]
            raise AssertionError("\n".join([method, *logs, *said]))
        return told + told_there

    def _prepare(self, node):
        self._shell(node, f"mkdir -p {FOLDER}; mountpoint -q {FOLDER} || mount -t tmpfs -o size=100% tmpfs {FOLDER};"
                          f" mkdir -p {FOLDER}/bundle/rootfs/dev {FOLDER}/bundle/rootfs/proc {FOLDER}/bundle/rootfs/sys")
        put(node, f"{FOLDER}/bundle/rootfs/workload", self.workload.read_bytes())
        put(node, f"{FOLDER}/plain_node.py", (HERE / "plain_node.py").read_bytes())
        put(node, f"{FOLDER}/criu.conf", b"network-lock skip\n")
        # As the pause container of a pod: namespaces to join.
        self._shell(node, f"unshare --net --ipc --uts sh -c 'echo $$ >{FOLDER}/sandbox; exec sleep 1000000'", detach=True)
        pid = wait("the sandbox", lambda: self._shell(node, f"cat {FOLDER}/sandbox", check=False).strip())
        put(node, f"{FOLDER}/bundle/config.json", json.dumps(self._config(pid)).encode())

    def _config(self, sandbox):
        return {
            "ociVersion": "1.0.2", "annotations": {"org.criu.config": f"{FOLDER}/criu.conf"},
            "process": {"terminal": False, "user": {"uid": 0, "gid": 0}, "args": self.arguments, "env": ["PATH=/"], "cwd": "/",
                        "noNewPrivileges": True},
            "root": {"path": "rootfs"}, "mounts": MOUNTS,
            "linux": {"cgroupsPath": f"/godwit-bench/{self.id}", "resources": {"devices": [{"allow": False, "access": "rwm"}]},
                      "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
                                     *({"type": kind, "path": f"/proc/{sandbox}/ns/{name}"}
                                       for kind, name in (("network", "net"), ("ipc", "ipc"), ("uts", "uts")))]}}

    @staticmethod
    def _address(node):
        return re.search(r"inet (10\.89\.[\d.]+)/", on_node(node, "ip", "-4", "-o", "address")).group(1)

    @staticmethod
    def _shell(node, script, check=True, detach=False):
        if detach:
            script = f"setsid sh -c {shlex.quote(script)} >/dev/null 2>&1 </dev/null &"
        done = on_node(node, "sh", "-c", script, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{node}: {script}: {done.stdout}{done.stderr}")
        return done.stdout

    @staticmethod
    def _program(node, *words):
        return subprocess.Popen([str(NODE), node, "python3", f"{FOLDER}/plain_node.py", *words], text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
