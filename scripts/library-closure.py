#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""library-closure.py ROOT ELF...: the shared libraries that ELF files need, transitively, as "NAME<TAB>FILE" lines.

Looks them up in ROOT, a Debian root file system of any architecture (so ldd, which runs the program, is no choice),
in the folders that Debian's loader searches. The loader itself is listed with the name that the programs ask for.
Fails when a library is not there.
"""
import os
import re
import subprocess
import sys


def dynamic(elf):
    """NEEDED names and the interpreter of an ELF file."""
    text = subprocess.run(["readelf", "--wide", "--dynamic", "--program-headers", elf], check=True,
                          capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    interpreter = re.search(r"Requesting program interpreter: (\S+?)\]", text)
    return re.findall(r"\(NEEDED\)\s+Shared library: \[(.+?)\]", text), interpreter and interpreter.group(1)


def machine(elf):
    with open(elf, "rb") as file:
        head = file.read(20)
    return head[18:20] if head[:4] == b"\x7fELF" else None


def inside(root, path):
    """`path` below root with its links resolved below root."""
    path = "/" + path.lstrip("/")
    for _ in range(40):
        full = root + path
        if not os.path.islink(full):
            return full
        target = os.readlink(full)
        path = target if target.startswith("/") else os.path.normpath(os.path.join(os.path.dirname(path), target))
        path = path.removeprefix(root) if root != "/" else path
    sys.exit(f"error: too many links at {path} in {root}")


def main():
    root, elves = sys.argv[1].rstrip("/"), sys.argv[2:]
    triplets = {b"\x3e\x00": "x86_64-linux-gnu", b"\xb7\x00": "aarch64-linux-gnu"}
    wanted_machine = machine(elves[0])
    triplet = triplets.get(wanted_machine) or sys.exit(f"error: {elves[0]} is for no architecture of ours")
    folders = [f"{top}/{sub}" for top in ("/usr/lib", "/lib") for sub in (triplet, "")] + ["/lib64", "/usr/lib64"]
    found, queue = {}, list(elves)
    while queue:
        elf = queue.pop()
        needed, interpreter = dynamic(elf)
        wishes = [(name, [f"{folder}/{name}" for folder in folders]) for name in needed]
        if interpreter:
            base = os.path.basename(interpreter)
            wishes.append((base, [interpreter] + [f"{folder}/{base}" for folder in folders]))
        for name, places in wishes:
            if name in found:
                continue
            files = [file for file in (inside(root, place) for place in places)
                     if os.path.isfile(file) and machine(file) == wanted_machine]
            if not files:
                sys.exit(f"error: {elf} needs {name}, which is not in {root or '/'}")
            found[name] = files[0]
            queue.append(files[0])
    for name, file in sorted(found.items()):
        print(f"{name}\t{file}")


main()
