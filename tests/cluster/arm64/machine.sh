# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Starts the ARM64 machines: virtual machines under emulation whose network card is a port of the cluster's bridge.
# Source it after lib.sh, pki.sh and machine/fill.sh; ARM64_ROOT, ARM64_BOOT, ... are set (arm64/parts). They are ended
# like the others (stop_machine): their process is qemu.

# start_arm64_machine NAME: idempotent; returns when qemu runs. A machine that died boots again with its old disk.
start_arm64_machine() {
  local name=$1 dir=$STATE/machines/$1 cp cgroup
  ! machine_pid "$name" >/dev/null || return 0
  mkdir -p "$dir"/{upper,work,root,log}
  [ -s "$dir/disk.img" ] || make_disk "$name" "$dir"
  connect_tap "$name"
  # Emulated pointer authentication would be on in newer CPUs, on which CRIU hangs (criu#2709): neoverse-n1 has none.
  cp=$(machine_pid cp) cgroup=$(cgroup2_root)/$CLUSTER_ID/$name
  mkdir -p "$cgroup"
  setsid bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$cgroup" nsenter -t "$cp" -n -- \
    qemu-system-aarch64 -M virt -cpu neoverse-n1 -accel tcg,thread=multi,tb-size=512 -smp 2 -m "${ARM64_MEMORY:-2048}" \
    -nographic -nodefaults -no-reboot -serial "file:$dir/log/console.log" \
    -kernel "$ARM64_BOOT/vmlinuz" -initrd "$ARM64_BOOT/initrd.gz" \
    -append "console=ttyAMA0 loglevel=4 panic=-1 mitigations=off nokaslr audit=0 apparmor=0" \
    -drive "if=none,id=disk,file=$dir/disk.img,format=raw,cache=unsafe,aio=threads" -device virtio-blk-pci,drive=disk \
    -netdev "tap,id=net,ifname=to-$name,script=no,downscript=no" \
    -device "virtio-net-pci,netdev=net,mac=52:54:00:89:00:$(printf %02x "$((10 + $(number_of "$name")))"),romfile=" \
    -device virtio-rng-pci </dev/null >"$dir/log/qemu.log" 2>&1 9>&- &
  remember_process "$dir/pid" $!
}

# make_disk NAME DIR: the Debian root with the machine's own files over it, as one file system.
make_disk() {
  local name=$1 dir=$2
  fill_machine "$name" "$dir/upper" arm64
  cp -R "$HERE/machine/files/vm/." "$dir/upper/"
  put_ssh_key "$dir/upper"
  unshare -m --propagation private sh -ec '
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
    mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1,root_owner=0:0 -m 0 -d "$2/root" "$2/disk.new" 12g >/dev/null' \
    sh "$ARM64_ROOT" "$dir"
  mv "$dir/disk.new" "$dir/disk.img"
  rm -rf "$dir/upper"
}

put_ssh_key() {
  [ -s "$STATE/pki/ssh" ] || ssh-keygen -q -t ed25519 -N '' -C godwit-test -f "$STATE/pki/ssh"
  mkdir -p -m 700 "$1/root/.ssh"
  cp "$STATE/pki/ssh.pub" "$1/root/.ssh/authorized_keys"
}

# A tap device whose address starts with fe, so that the bridge keeps its own (it takes the lowest of its ports').
connect_tap() {
  in_control_plane_network ip link show "to-$1" >/dev/null 2>&1 || in_control_plane_network ip tuntap add "to-$1" mode tap
  in_control_plane_network ip link set "to-$1" address "fe:00:00:00:00:$(printf %02x "$(number_of "$1")")" master br0 up
}
