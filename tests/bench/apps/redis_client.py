# SPDX-License-Identifier: Apache-2.0
"""As much of a redis client as the bench needs: https://redis.io/docs/latest/develop/reference/protocol-spec (RESP 2)."""

import socket
import time


class Redis:
    """A connection to HOST:PORT or to the path of a Unix socket; every failure of it is an OSError."""

    def __init__(self, where, patience=0.0, timeout=None):
        """Tries for `patience` seconds; a reply may take `timeout` seconds."""
        deadline = time.monotonic() + patience
        while True:
            try:
                self.socket = self._connect(where, timeout)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.replies = self.socket.makefile("rb")

    @staticmethod
    def _connect(where, timeout):
        if ":" in where:
            host, port = where.rsplit(":", 1)
            connection = socket.create_connection((host, int(port)), timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(where)
        return connection

    def close(self):
        self.replies.close()
        self.socket.close()

    def call(self, *words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            parts += [b"$%d\r\n" % len(word), word, b"\r\n"]
        self.socket.sendall(b"".join(parts))
        return self._reply()

    def _reply(self):
        line = self.replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        if kind == b"$" and int(rest) < 0:
            return None
        if kind == b"$":
            data = self.replies.read(int(rest) + 2)
            if len(data) != int(rest) + 2:
                raise ConnectionError("redis closed the connection")
            return data[:-2]
        return rest
