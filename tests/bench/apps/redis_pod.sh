#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A pod's first process: redis-server with MIB of known content, some of it rewritten all the time, and redis-benchmark (SET and
# GET by turns) against another database of it without end. Says "filled" once the content is there, and a line each time that the
# load has to be started anew.
mkdir -p /run/redis
redis-server --protected-mode no --save '' --appendonly no --databases 2 --unixsocket /run/redis/socket --loglevel warning --locale-collate C &
server=$!
python3 /apps/redis_data.py fill "$MIB" || exit 1
echo filled
bench-workload 1 0 &
(python3 /apps/redis_data.py rewrite "$MIB"; echo "WRONG: rewriting ended with $?") &
while kill -0 $server; do
  nice redis-benchmark -p 6379 --dbnum 1 -t set,get -r "$KEYS" -d "$VALUE" -c "$CLIENTS" -n 20000 -l >/dev/null 2>&1
  echo "load ended with $?"
  sleep 0.2
done
echo "redis-server is gone"
exit 1
