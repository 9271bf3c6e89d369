# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Writes what makes a machine this machine (names, addresses, services, certificates, programs) into its file system.
# The same for namespaces and VMs. Source it after lib.sh and pki.sh.

# fill_machine NAME ROOT ARCH: ROOT is laid over the Debian root file system. Programs come from $KUBE/$CONTAINERD_BIN
# (amd64) or $KUBE_ARM64/$CONTAINERD_BIN_ARM64.
fill_machine() {
  local name=$1 root=$2 arch=$3
  cp -R "$HERE/machine/files/all/." "$root/"
  if [ "$name" = cp ]; then fill_control_plane "$root"; else fill_worker "$name" "$root" "$arch"; fi
  mkdir -p "$root/etc"
  echo "$name" >"$root/etc/hostname"
  { echo "127.0.0.1 localhost"; echo "$CONTROL_PLANE cp $REGISTRY"; for_each_worker '$address $worker'; } >"$root/etc/hosts"
  echo "$CLUSTER_ID $name" | md5sum | cut -c1-32 >"$root/etc/machine-id"
  : >"$root/etc/resolv.conf" # there is no name server in these networks
  cat >"$root/etc/machine.env" <<ENV
NAME=$name
ADDRESS=$(address_of "$name")
GATEWAY=$CONTROL_PLANE
POD_ROUTES="$(for_each_worker '$pods=$address' "$name" | tr '\n' ' ')"
ENV
}

# for_each_worker TEMPLATE [BUT]: a line for every worker that can be, so that routes and names need no change later.
for_each_worker() {
  local worker address pods
  for worker in $(all_workers); do
    [ "$worker" != "${2:-}" ] || continue
    address=$(address_of "$worker") pods=$(pods_of "$worker")
    eval "echo \"$1\""
  done
}

put_certificate() { # NAME ROOT AS: key and certificate, and the CA's certificate
  mkdir -p "$2/etc/kubernetes/pki"
  cp "$STATE/pki/$1.crt" "$2/etc/kubernetes/pki/$3.crt"
  cp "$STATE/pki/$1.key" "$2/etc/kubernetes/pki/$3.key"
  cp "$STATE/pki/ca.crt" "$2/etc/kubernetes/pki/"
}

put_kubeconfig() { (cd "$STATE/pki"; kubeconfig "$2/etc/kubernetes/$3.kubeconfig" "$1" "https://$CONTROL_PLANE:6443"); }

put_kube() { # KUBE ROOT PROGRAM...: one binary under the names it answers to
  local kube=$1 bin=$2/usr/local/bin; shift 2
  [ -e "$bin/kube" ] || ln "$kube" "$bin/kube" 2>/dev/null || cp "$kube" "$bin/kube"
  for program in "$@"; do ln -sfn kube "$bin/$program"; done
}

fill_control_plane() {
  local root=$1
  cp -R "$HERE/machine/files/control-plane/." "$root/"
  put_kube "$KUBE" "$root" kube-apiserver kube-controller-manager kube-scheduler
  put_certificate apiserver "$root" apiserver
  put_certificate kubelet-client "$root" kubelet-client
  cp "$STATE"/pki/service-account.* "$root/etc/kubernetes/pki/"
  put_kubeconfig controller-manager "$root" controller-manager
  put_kubeconfig scheduler "$root" scheduler
}

fill_worker() {
  local name=$1 root=$2 arch=$3 kube=$KUBE containerd=$CONTAINERD_BIN program
  [ "$arch" = amd64 ] || kube=$KUBE_ARM64 containerd=$CONTAINERD_BIN_ARM64
  cp -R "$HERE/machine/files/worker/." "$root/"
  mkdir -p "$root/etc/containerd/conf.d" # imported by config.toml, empty at first
  put_kube "$kube" "$root" kubelet kube-proxy
  for program in containerd containerd-shim-runc-v2 ctr; do
    [ -e "$root/usr/local/bin/$program" ] || cp "$containerd/$program" "$root/usr/local/bin/"
  done
  worker_certificate "$name"
  put_certificate "$name" "$root" kubelet
  put_kubeconfig "$name" "$root" kubelet
  put_kubeconfig kube-proxy "$root" kube-proxy
  sed -i "s|@POD_RANGE@|$(pods_of "$name")|" "$root/etc/cni/net.d/10-pods.conflist"
  fit_to_kernel "$root" "$arch"
}

# fit_to_kernel ROOT ARCH: a VM has all cgroup controllers and rights; namespaces have what this machine has.
fit_to_kernel() {
  local root=$1 runc=/usr/sbin/runc restrict=false
  if [ "$2" = amd64 ] && ! has_limit_controllers; then
    cp -R "$HERE/machine/files/without-controllers/." "$root/"
    runc=/usr/local/sbin/runc
    printf 'cgroupsPerQOS: false\nenforceNodeAllocatable: []\n' >>"$root/etc/kubernetes/kubelet.yaml"
  fi
  if [ "$2" = amd64 ] && ! has_sys_resource; then restrict=true; fi
  sed -i "s|@RUNC@|$runc|; s|@RESTRICT_OOM_SCORE_ADJ@|$restrict|" "$root/etc/containerd/config.toml"
}

has_limit_controllers() {
  local controllers
  controllers=" $(cat "$(cgroup2_root)/cgroup.controllers") "
  [[ $controllers == *" cpu "* && $controllers == *" memory "* && $controllers == *" pids "* ]]
}

# CAP_SYS_RESOURCE (bit 24): without it nobody may lower a process's OOM score.
has_sys_resource() { (( 0x$(awk '/^CapEff/ { print $2 }' /proc/self/status) >> 24 & 1 )); }
