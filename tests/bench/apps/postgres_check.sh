#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PostgreSQL's own consistency, while pgbench goes on: what its transactions must keep equal, every table and index (amcheck),
# and that the server neither crashed nor recovered since it was started. Prints
#   history <rows> started <time> loads <times that the load was started anew>
# and fails with what is wrong.
export PATH=/usr/lib/postgresql/17/bin:$PATH PGHOST=/tmp PGUSER=postgres PGDATABASE=postgres
sums=$(psql -qAt -F ' ' -c 'select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
  (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)') || exit 1
set -- $sums
if [ $# != 4 ] || [ "$1" != "$2" ] || [ "$1" != "$3" ] || [ "$1" != "$4" ]; then
  echo "wrong sums of accounts, tellers, branches, history: $sums"
  exit 1
fi
pg_amcheck --heapallindexed || { echo "wrong: pg_amcheck"; exit 1; }
if grep -E 'PANIC|FATAL|automatic recovery|not properly shut down|terminated by signal|invalid page|checksum|corrupt' /data/log/server.log; then
  echo "wrong: the server's log"
  exit 1
fi
echo "history $(psql -qAt -c 'select count(*) from pgbench_history') started $(psql -qAt -c \
  'select extract(epoch from pg_postmaster_start_time())') loads $(grep -c 'load ended' /data/log/load.log)"
