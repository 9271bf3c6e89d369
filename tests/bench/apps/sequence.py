#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts in redis from another pod, and connects again when the connection breaks: sequence.py HOST:PORT

Each reply to INCR must be the one before plus one; after a broken connection it may be higher by as many as were sent and
not answered. Anything lower is an acknowledged increment that was lost. Says once a second, everything since the start:
    acknowledged <value> at <clock> reconnects <n> wrong <n>
and "outage <ms>" when nothing was answered for longer than 100 ms.
"""

import sys
import time

from redis_client import Redis

PATIENCE = 0.5  # seconds that a reply may take before the connection is given up


def main():
    redis, last, unanswered, reconnects, wrong = None, 0, 0, 0, 0
    answered = told = time.time()
    while True:
        try:
            if redis is None:
                redis = Redis(sys.argv[1], timeout=PATIENCE)
            unanswered += 1
            value = redis.call(b"INCR", b"sequence")
        except (OSError, RuntimeError):
            if redis is not None:
                redis.close()
                redis = None
                reconnects += 1
            time.sleep(0.02)
            continue
        if not last < value <= last + unanswered:
            wrong += 1
            print("WRONG: was", last, "is", value, "unanswered", unanswered - 1, flush=True)
        now = time.time()
        if now - answered > 0.1:
            print("outage %.1f" % ((now - answered) * 1000), flush=True)
        last, unanswered, answered = value, 0, now
        if now - told >= 1:
            print("acknowledged", last, "at %.6f" % now, "reconnects", reconnects, "wrong", wrong, flush=True)
            told = now
        time.sleep(0.002)


main()
