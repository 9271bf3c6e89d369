#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One end of a move by runc and CRIU alone; plain_runc.py runs it on the nodes.

    plain_node.py move HOST PORT IMAGES [--lazy] -- CHECKPOINT...    on the source
    plain_node.py receive PORT IMAGES LOG [--lazy DAEMON] -- RESTORE...    on the target; says "listening" first

The connection is there, and both programs run, before anything stands still. The source checkpoints, sends what lies in IMAGES
(each file is removed once the target has all of them) and ends; the target restores as soon as it has them, with LOG as the
container's output. With --lazy CHECKPOINT goes on as a page server, which is told to say when it is ready by --status-fd, and DAEMON
(a command line) is started before RESTORE. Each step is told as "<step> <CLOCK_REALTIME>".
"""

import os
import shlex
import socket
import struct
import subprocess
import sys
import time

CHUNK = 1 << 20
HEAD = struct.Struct("!HQ")  # of a file: length of its name, its size; a length of 0 ends them all


def tell(step, *more):
    print(step, f"{time.time():.6f}", *more, flush=True)


def read_exactly(connection, size):
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the source has gone")
        data += part
    return data


def send_files(connection, folder):
    names = sorted(os.listdir(folder))
    total = 0
    for name in names:
        with open(f"{folder}/{name}", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            connection.sendall(HEAD.pack(len(name.encode()), size) + name.encode())
            sent = 0
            while sent < size:
                sent += os.sendfile(connection.fileno(), file.fileno(), sent, min(size - sent, 1 << 26))
            total += size
    connection.sendall(HEAD.pack(0, 0))
    return names, total


def receive_files(connection, folder):
    buffer = memoryview(bytearray(CHUNK))
    total = 0
    while True:
        length, size = HEAD.unpack(read_exactly(connection, HEAD.size))
        if length == 0:
            return total
        name = os.path.basename(read_exactly(connection, length).decode())
        with open(f"{folder}/{name}", "wb", buffering=0) as file:
            left = size
            while left:
                got = connection.recv_into(buffer, min(left, CHUNK))
                if not got:
                    raise ConnectionError("the source has gone")
                file.write(buffer[:got])
                left -= got
        total += size


def move(host, port, images, lazy, checkpoint):
    connection = socket.create_connection((host, int(port)), 20)
    connection.settimeout(None)
    tell("began")
    ready, told = os.pipe()
    command = [*checkpoint[:-1], *(["--status-fd", str(told)] if lazy else []), checkpoint[-1]]  # the container is the last word
    with subprocess.Popen(command, pass_fds=[told] if lazy else [], stdin=subprocess.DEVNULL) as server:
        os.close(told)
        if lazy:
            if os.read(ready, 1) != b"\0":
                return server.wait() or 1
        elif server.wait() != 0:
            return server.returncode
        tell("checkpointed")
        names, total = send_files(connection, images)
        connection.recv(1)
        tell("sent", total)
        for name in names:
            os.unlink(f"{images}/{name}")
        return server.wait()


def start_daemon(command):
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    socket_path = f"{command[command.index('--work-dir') + 1]}/lazy-pages.socket"
    while not os.path.exists(socket_path) and daemon.poll() is None:
        time.sleep(0.001)
    return daemon


def receive(port, images, log, lazy, restore):
    output, write_end = os.pipe()
    with open(log, "ab") as file:  # ends with the container
        subprocess.Popen(["cat"], stdin=output, stdout=file, stderr=subprocess.DEVNULL)
    os.close(output)
    listener = socket.create_server(("", int(port)))
    tell("listening")
    connection, _ = listener.accept()
    receive_files(connection, images)
    connection.sendall(b"k")
    tell("received")
    daemon = start_daemon(shlex.split(lazy)) if lazy else None
    status = subprocess.call(restore, stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end)
    tell("restored")
    if daemon:
        status = daemon.wait() or status
        tell("filled")
    for name in os.listdir(images):
        os.unlink(f"{images}/{name}")
    return status


def main():
    mark = sys.argv.index("--")
    what, *words = sys.argv[1:mark]
    rest = sys.argv[mark + 1:]
    if what == "move":
        return move(words[0], words[1], words[2], "--lazy" in words, rest)
    lazy = words[words.index("--lazy") + 1] if "--lazy" in words else ""
    return receive(words[0], words[1], words[2], lazy, rest)


if __name__ == "__main__":
    sys.exit(main())
