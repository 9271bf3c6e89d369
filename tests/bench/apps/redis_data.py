#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keys whose values follow from their names, in database 0 of the redis-server in this container.

    redis_data.py fill MIB        writes them
    redis_data.py check MIB       reads all of them back; prints "checked N wrong M", fails when M is not 0
"""

import hashlib
import sys

from redis_client import Redis

SIZE = 920  # of a value: with what redis adds, a key takes about 1 KiB
BATCH = 512


def value(key):
    return hashlib.shake_128(key).digest(SIZE)


def batches(mib):
    for first in range(0, mib * 1024, BATCH):
        yield [b"known:%08d" % number for number in range(first, first + BATCH)]


def main():
    what, mib = sys.argv[1], int(sys.argv[2])
    redis = Redis("/run/redis/socket", patience=30)
    checked = wrong = 0
    for keys in batches(mib):
        if what == "fill":
            redis.call(b"MSET", *(part for key in keys for part in (key, value(key))))
            continue
        for key, got in zip(keys, redis.call(b"MGET", *keys), strict=True):
            checked += 1
            wrong += got != value(key)
    if what == "check":
        print("checked", checked, "wrong", wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
