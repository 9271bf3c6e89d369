# SPDX-License-Identifier: Apache-2.0
"""What the moved pods themselves say, and what follows from it. Each pod sends its next number, with the token of its life and
the name of its pod, to a collector that no move concerns: a life is one start of the program, and goes on in another pod when it
is moved."""

import ctypes
import dataclasses
import os
import socket
import threading
import time

# argv: lane, collector's address and port, MiB of memory whose pages it checks over and over.
WORKLOAD = r"""
import os, socket, sys, time
lane, address, port, mib = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
server = socket.create_server(("0.0.0.0", 8080)); server.setblocking(False)
life = os.urandom(4).hex(); memory = bytearray(mib << 20); pages = len(memory) // 4096
for page in range(pages): memory[page*4096:page*4096+8] = (page ^ 0x5bd1e995).to_bytes(8, "little")
n = page = wrong = 0
while True:
    for _ in range(min(pages, 128)):
        if memory[page*4096:page*4096+8] != (page ^ 0x5bd1e995).to_bytes(8, "little"): wrong += 1
        page = (page + 1) % pages
    n += 1
    memory[8:16] = n.to_bytes(8, "little")
    if memory[8:16] != n.to_bytes(8, "little"): wrong += 1
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(f"{lane} {life} {os.uname().nodename} {n} {wrong}".encode(), (address, port))
    except OSError: pass
    try: server.accept()[0].close()  # a probe's; what nobody accepts piles up until no probe gets through
    except OSError: pass
    time.sleep(0.02)
"""


@dataclasses.dataclass(frozen=True)
class Word:
    at: float  # monotonic, as it was heard
    life: str
    pod: str
    number: int
    wrong: int = 0


class Collector:
    """Hears the pods, in the control plane's network, to which all nodes have a way."""

    ADDRESS = "10.89.0.1"

    def __init__(self, machine_pid):
        self.words = {}  # by lane
        self.lock = threading.Lock()
        self.socket = self._listen(machine_pid)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._hear, daemon=True).start()

    def _listen(self, machine_pid):
        """A socket belongs to the network in which its thread was when it made it."""
        made = []

        def make():
            with open(f"/proc/{machine_pid}/ns/net") as network:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(network.fileno(), 0x40000000) != 0:  # CLONE_NEWNET
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            heard.bind((self.ADDRESS, 0))
            made.append(heard)
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def _hear(self):
        while True:
            text = self.socket.recv(512).decode()
            now = time.monotonic()
            lane, life, pod, number, wrong = text.split()
            with self.lock:
                self.words.setdefault(lane, []).append(Word(now, life, pod, int(number), int(wrong)))

    def since(self, lane, mark):
        with self.lock:
            return list(self.words.get(lane, ())[mark:])

    def mark(self, lane):
        with self.lock:
            return len(self.words.get(lane, ()))

    def last(self, lane):
        with self.lock:
            return self.words[lane][-1] if self.words.get(lane) else None


@dataclasses.dataclass
class Verdict:
    violations: list
    restarted: bool  # a life has begun anew: its state is lost
    silence: float   # the longest time in seconds in which nobody was heard


def judge(before, words, may_be_lost):
    """What the words of one move, in the order in which they were heard, say of the invariants. `before`: the last word before it.
    `may_be_lost`: the fault destroys processes, so that a new life may begin."""
    violations = []
    last = {before.life: before} if before else {}
    pods = {before.life: [before.pod]} if before else {}  # of a life, in order
    lives = [before.life] if before else []
    silence = 0.0
    heard = before.at if before else (words[0].at if words else 0.0)
    for word in words:
        silence = max(silence, word.at - heard)
        heard = word.at
        if word.life not in lives:
            lives.append(word.life)
            pods[word.life] = [word.pod]
        elif word.life != lives[-1]:
            violations.append(f"I1: {word.pod} goes on at {word.number} beside {pods[lives[-1]][-1]}, which has begun anew")
        previous = last.get(word.life)
        if previous and word.number <= previous.number:
            violations.append(f"I1: {word.pod} says {word.number} after {previous.pod} has said {previous.number}")
        if word.pod != pods[word.life][-1]:
            if word.pod in pods[word.life]:
                violations.append(f"I1: {word.pod} goes on at {word.number} after its state has run as {pods[word.life][-1]}")
            pods[word.life].append(word.pod)
        if word.wrong and not (previous and previous.wrong):
            violations.append(f"I4: {word.pod} has found a page of its memory changed")
        last[word.life] = max(previous or word, word, key=lambda w: w.number)
    restarted = len(lives) > 1
    if restarted and not may_be_lost:
        violations.append("I2: the pod has begun anew, though the fault destroys no process")
    return Verdict(violations[:5], restarted, silence)
