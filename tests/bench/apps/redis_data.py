#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keys in database 0 of the redis-server in this container, whose values follow from key and version.

    redis_data.py fill MIB        writes version 0 of all
    redis_data.py rewrite MIB     writes the next versions of some, chosen at random, without end; each replaced value must be the
                                  one written last. Says "rewritten N wrong M" once a second, everything since the start
    redis_data.py check MIB       reads all back; prints "checked N wrong M", fails when M is not 0
"""

import hashlib
import random
import sys
import time

from redis_client import Redis

SIZE = 912  # of a value beside its version: with what redis adds, a key takes about 1 KiB
BATCH = 512


def key_of(number):
    return b"known:%08d" % number


def value(key, version):
    start = version.to_bytes(8, "little")
    return start + hashlib.shake_128(key + start).digest(SIZE)


def batches(mib):
    for first in range(0, mib * 1024, BATCH):
        yield [key_of(number) for number in range(first, first + BATCH)]


def fill(redis, mib):
    for keys in batches(mib):
        redis.call(b"MSET", *(part for key in keys for part in (key, value(key, 0))))


def rewrite(redis, mib):
    versions, done, wrong, told = {}, 0, 0, time.monotonic()
    while True:
        key = key_of(random.randrange(mib * 1024))
        version = versions.get(key, 0)
        wrong += redis.call(b"SET", key, value(key, version + 1), b"GET") != value(key, version)
        versions[key] = version + 1
        done += 1
        if done % 20 == 0:
            time.sleep(0.01)
        if time.monotonic() - told >= 1:
            print("rewritten", done, "wrong", wrong, flush=True)
            told = time.monotonic()


def check(redis, mib):
    checked = wrong = 0
    for keys in batches(mib):
        for key, got in zip(keys, redis.call(b"MGET", *keys), strict=True):
            checked += 1
            wrong += got is None or got != value(key, int.from_bytes(got[:8], "little"))
    print("checked", checked, "wrong", wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit({"fill": fill, "rewrite": rewrite, "check": check}[sys.argv[1]](Redis("/run/redis/socket", patience=30), int(sys.argv[2])))
