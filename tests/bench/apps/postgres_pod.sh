#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A pod's first process: a fresh PostgreSQL in /data with SHARED_BUFFERS and pgbench's tables of SCALE; then pgbench over its Unix
# socket without end. Says "filled" once the tables are there, and a line each time that the load has to be started anew. The
# server's own log lies in /data/log, so that it moves along. Run as root, it makes PostgreSQL believe that it is not.
set -e
export PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/data/pg PGHOST=/tmp PGUSER=postgres PGDATABASE=postgres
if [ "$(id -u)" = 0 ]; then
  mkdir -m 700 $PGDATA && chown 65534 $PGDATA
  export LD_PRELOAD=/usr/lib/not_root.so
fi
initdb -U postgres --data-checksums --encoding=UTF8 --locale=C --no-instructions >/dev/null
# Memory is one shared anonymous mapping. Segments for parallel queries are files in the data folder: what lies in /dev/shm
# does not move.
cat >>$PGDATA/postgresql.conf <<CONF
listen_addresses = ''
unix_socket_directories = '/tmp'
shared_buffers = $SHARED_BUFFERS
shared_memory_type = mmap
dynamic_shared_memory_type = ${DYNAMIC_SHARED_MEMORY:-mmap}
huge_pages = off
jit = off
logging_collector = on
log_directory = '/data/log'
log_filename = 'server.log'
log_rotation_age = 0
log_rotation_size = 0
log_checkpoints = on
max_wal_size = 256MB
CONF
postgres &
server=$!
unset LD_PRELOAD
until pg_isready -q; do sleep 0.1; done 2>/dev/null
pgbench --initialize --quiet --scale="$SCALE" >/dev/null 2>&1
psql -qc 'create extension amcheck'
echo filled
bench-workload 1 0 &
set +e
while kill -0 $server; do
  # Not pgbench's own vacuum at the start: it empties the history, which the check sums up.
  pgbench --no-vacuum --client=4 --time=1000000 ${RATE:+--rate=$RATE} >>/data/log/load.log 2>&1
  echo "load ended with $?"
  echo "load ended" >>/data/log/load.log
  sleep 0.2
done
echo "postgres is gone"
exit 1
