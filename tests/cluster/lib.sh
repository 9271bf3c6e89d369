# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What every script of the test cluster shares: where things lie, names and addresses, how to reach a machine.
# Source it, do not run it.
#
# A machine is the control plane (cp), a worker (n1, n2, ...) or an ARM64 worker (a1, a2). A worker has a number: i for
# n<i>, 100+i for a<i>; its address is 10.89.0.(10+number), its pods' range 10.244.number.0/24. All addresses lie inside
# namespaces that `up` makes, so two checkouts can have a cluster each.
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"

HERE=$REPO/tests/cluster
STATE=${GODWIT_CLUSTER:-$REPO/build/cluster}   # everything the running cluster writes; `down` removes it
CONTROL_PLANE=10.89.0.1
REGISTRY=registry.godwit.test                  # the name nodes know the registry by; it listens on $CONTROL_PLANE:5000
REGISTRY_ADDRESS=$CONTROL_PLANE:5000
CLUSTER_ID=godwit-$(echo "$STATE" | sha256sum | cut -c1-6)  # the name of the machines' common cgroup

number_of() { case $1 in n[1-9]) echo "${1#n}" ;; a[12]) echo $((100 + ${1#a})) ;; *) die "no machine can be called '$1'" ;; esac; }
address_of() { if [ "$1" = cp ]; then echo $CONTROL_PLANE; else echo "10.89.0.$((10 + $(number_of "$1")))"; fi; }
pods_of() { echo "10.244.$(number_of "$1").0/24"; }
all_workers() { local i; for i in 1 2 3 4 5 6 7 8 9; do echo "n$i"; done; echo a1; echo a2; }
is_arm() { case $1 in a*) true ;; *) false ;; esac; }

# remember_process FILE PID, alive FILE: a process is known by its id and its start time, so that an id that the
# kernel gave to somebody else meanwhile is never taken for ours.
start_time() { local stat; stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1; set -- ${stat##*) }; echo "${20}"; }
remember_process() { echo "$2 $(start_time "$2")" >"$1.new"; mv "$1.new" "$1"; }
alive() {
  local pid started
  { read -r pid started <"$1"; } 2>/dev/null || return 1
  [ "$(start_time "$pid")" = "$started" ] || return 1
  echo "$pid"
}

# machine_pid NAME: the machine's PID 1 (for a VM: qemu) as this machine sees it; fails when it does not run.
machine_pid() { alive "$STATE/machines/$1/pid"; }
machines() { local dir; for dir in "$STATE"/machines/*/; do [ -d "$dir" ] && basename "$dir"; done; true; }

# wait_until SECONDS WHAT COMMAND...: polls COMMAND until it succeeds.
wait_until() {
  local deadline=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || die "waited too long for $what (logs: $STATE/machines/*/log)"
    sleep 0.1
  done
}

# in_control_plane_network COMMAND...: runs a program of this machine with the cluster's network.
in_control_plane_network() {
  local pid
  pid=$(machine_pid cp) || die "the cluster is not up: make cluster-up"
  nsenter -t "$pid" -n -- "$@"
}

kubectl() { "$KUBE" kubectl --kubeconfig "$STATE/kubeconfig" "$@"; }

# cgroup2_root: where this machine has cgroup v2 (alone, or beside v1).
cgroup2_root() {
  local dir
  dir=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
  [ -n "$dir" ] || die "cgroup v2 is not mounted on this machine (mount -t cgroup2 none /sys/fs/cgroup/unified)"
  echo "$dir"
}
