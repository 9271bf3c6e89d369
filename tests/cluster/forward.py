#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lets this machine's ordinary shell reach an address inside the cluster's network.

usage: forward.py PORT ADDRESS:PORT 3</proc/PID/ns/net

Listens on 127.0.0.1:PORT (0: any free one; prints which), then joins the network namespace of descriptor 3 and connects
to ADDRESS:PORT there for each caller. It works because a socket stays in the namespace in which it was made.
"""
import asyncio, os, socket, sys


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def serve(listener, address, port):
    async def connected(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(address, port)
        except OSError as error:
            print(f"cannot connect to {address}:{port}: {error}", file=sys.stderr, flush=True)
            writer.close()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        for each in (writer, far_writer):
            each.close()

    server = await asyncio.start_server(connected, sock=listener)
    await server.serve_forever()


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    address, _, port = sys.argv[2].rpartition(":")
    os.setns(3, os.CLONE_NEWNET)
    os.close(3)
    print(listener.getsockname()[1], flush=True)
    asyncio.run(serve(listener, address, int(port)))


main()
