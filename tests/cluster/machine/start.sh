# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Starts and ends the machines that are namespaces. Source it after lib.sh, pki.sh and machine/fill.sh.
# Nothing of a machine is visible outside its namespaces but its processes and its cgroup: when PID 1 is killed, the
# kernel removes the rest (processes, mounts, network devices).

# start_machine NAME: idempotent. A machine that died (or whose host was restarted) boots again with its old disk.
start_machine() {
  local name=$1 dir=$STATE/machines/$1 cgroup2
  ! machine_pid "$name" >/dev/null || return 0
  mkdir -p "$dir"/{upper,work,root,log} "$dir"/disk/{containerd,kubelet,etcd,godwit}
  rm -f "$dir/booted"
  fill_machine "$name" "$dir/upper" amd64
  cgroup2=$(cgroup2_root)
  remove_cgroups "$cgroup2/$CLUSTER_ID/$name" # of the boot before
  mkdir -p "$cgroup2/$CLUSTER_ID/$name"
  # The cgroup namespace's root is where the process stands when it makes the namespace.
  setsid bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$cgroup2/$CLUSTER_ID/$name" \
    unshare --net --mount --pid --uts --ipc --cgroup $(uptime_options "$name") --fork --propagation private \
    "$HERE/machine/boot" "$dir" "$NODE_ROOT" "$cgroup2" "$CLUSTER_ID/$name" </dev/null >"$dir/log/boot.log" 2>&1 9>&- &
  wait_until 30 "machine $name to boot" test -s "$dir/booted"
  remember_process "$dir/pid" "$(cat "$dir/booted")"
  echo $! >"$cgroup2/$CLUSTER_ID/$name/init/cgroup.procs" # unshare itself, the parent of PID 1
  hand_down_controllers "$cgroup2" "$name"
  connect_machine "$name"
}

# hand_down_controllers CGROUP2 NAME: each level of the tree must pass the controllers on to the next.
hand_down_controllers() {
  local controller level
  for controller in $(cat "$1/cgroup.controllers"); do
    for level in "$1" "$1/$CLUSTER_ID" "$1/$CLUSTER_ID/$2"; do
      echo "+$controller" >"$level/cgroup.subtree_control" || say "cgroup controller $controller cannot be had in $level"
    done
  done
}

# Nodes differ in uptime, as real ones do.
uptime_options() {
  case $1 in
    n*) local offset=$((100000 * $(number_of "$1"))); echo "--time --boottime $offset --monotonic $offset" ;;
  esac
}

# connect_machine NAME: the control plane has the bridge; a worker gets one end of a pair of devices, the bridge the other.
connect_machine() {
  local name=$1 pid cp
  pid=$(machine_pid "$name")
  if [ "$name" = cp ]; then
    nsenter -t "$pid" -n sh -ec "ip link add br0 type bridge; ip addr add $CONTROL_PLANE/24 dev br0; ip link set br0 up
      echo 1 >/proc/sys/net/ipv4/ip_forward"
    for_each_worker '$pods via $address' | while read -r route; do nsenter -t "$pid" -n ip route add $route; done
  else
    cp=$(machine_pid cp)
    # From outside, so that both process ids mean what they mean here.
    nsenter -t "$cp" -n ip link delete "to-$name" 2>/dev/null || true # of the boot before, if it is not buried yet
    nsenter -t "$cp" -n ip link add "to-$name" type veth peer name eth0 netns "$pid"
    nsenter -t "$cp" -n ip link set "to-$name" master br0 up
  fi
}

# stop_machine NAME: at once, as by pulling the plug.
stop_machine() {
  local pid
  if pid=$(machine_pid "$1"); then
    kill -KILL "$pid"
    wait_until 30 "machine $1 to end" eval "! alive '$STATE/machines/$1/pid'"
  fi
  rm -f "$STATE/machines/$1/pid"
}

# remove_cgroups FOLDER: kills whatever is left in it (a machine whose start was interrupted has no recorded process).
remove_cgroups() {
  [ -d "$1" ] || return 0
  echo 1 >"$1/cgroup.kill"
  wait_until 30 "cgroups under $1 to be empty" eval \
    "find '$1' -depth -type d -exec rmdir {} + 2>/dev/null; [ ! -d '$1' ]"
}

stop_forwarder() {
  local pid
  if pid=$(alive "$STATE/forward.pid"); then
    kill "$pid"
    wait_until 10 "the forwarder to end" eval "! alive '$STATE/forward.pid'"
  fi
}
