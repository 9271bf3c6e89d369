#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes one of the Debian 13 root file systems that everything is built and tested in, and prints its path.
#   debian-root.sh build      compilers and libraries (amd64), with the arm64 cross compiler and Go
#   debian-root.sh node       what a node and the control plane of the test cluster run
#   debian-root.sh sysroot    arm64 headers and libraries for the cross build (unpacked only, nothing runs in it)
#   debian-root.sh criu-amd64, criu-arm64   CRIU and what it needs, for the agent's image (unpacked only)
#   debian-root.sh packages   makes nothing: prints the Debian packages of `build`, for a machine that is Debian 13 itself
# A root lies in the cache under a name that holds a hash of its recipe: changing the recipe makes a new one.
# CRIU and runc come from Debian testing: trixie's criu 4.1.1 cannot dump sockets on kernels >= 6.16.
. "$(dirname "$0")/lib.sh"

MIN_CRIU=4.2.1 MIN_RUNC=1.3.6

BUILD_PACKAGES="build-essential g++ g++-aarch64-linux-gnu cmake ninja-build ccache pkgconf git ca-certificates
 clang-19 clang-tidy-19 clang-format-19 libclang-rt-19-dev golang-go python3 python3-yaml jq xz-utils zstd cpio patchelf protobuf-compiler
 protobuf-c-compiler spin"
LIBRARY_PACKAGES="libcpp-httplib-dev libabsl-dev prometheus-cpp-dev rapidjson-dev libcurl4-openssl-dev libssl-dev
 libgtest-dev libgmock-dev libprotobuf-dev libyaml-cpp-dev libarchive-dev libzstd-dev liblz4-dev libxxhash-dev
 libcli11-dev libtomlplusplus-dev libbpf-dev zlib1g-dev libbrotli-dev libstdc++-14-dev"
NODE_PACKAGES="iproute2 nftables iptables kmod procps jq curl openssl ca-certificates util-linux busybox-static python3 psmisc
 containernetworking-plugins etcd-server docker-registry prometheus checkpointctl skopeo redis-server redis-tools
 postgresql conntrack socat strace less"
TESTING_PACKAGES="criu libcompel1 libnet9 runc"
CRIU_PACKAGES="criu/testing libcompel1/testing libnet9/testing libnl-3-200/testing tar gzip nftables"

name=${1:?usage: debian-root.sh build|node|sysroot|criu-amd64|criu-arm64|packages}
case $name in
  build) recipe="$BUILD_PACKAGES $LIBRARY_PACKAGES" arch=amd64 ;;
  node) recipe="$NODE_PACKAGES testing:$TESTING_PACKAGES" arch=amd64 ;;
  sysroot) recipe="$LIBRARY_PACKAGES libc6-dev" arch=arm64 ;;
  criu-amd64 | criu-arm64) recipe="$CRIU_PACKAGES" arch=${name#criu-} ;;
  packages) echo $BUILD_PACKAGES $LIBRARY_PACKAGES; exit 0 ;;
  *) die "no such root: $name" ;;
esac
hash=$(echo "trixie 1 $arch $recipe" | sha256sum | cut -c1-12)
root=$CACHE/roots/$name-$hash
[ ! -e "$root/.complete" ] || { echo "$root"; exit 0; }

need_root
case $name in
  build) [ -z "${GODWIT_IN_PLACE:-}" ] || { echo /; exit 0; } ;;
  criu-*) "$REPO/scripts/debian-root.sh" build >/dev/null ;; # its apt fetches the packages
esac
ensure_host_packages debootstrap=debootstrap xz=xz-utils
mkdir -p "$CACHE/roots" "$CACHE/log"
exec 9>"$CACHE/roots/$name.lock"; flock 9
[ ! -e "$root/.complete" ] || { echo "$root"; exit 0; }
log=$CACHE/log/root-$name.log
say "making the Debian 13 root '$name' (a few minutes; log in $log)"
rm -rf --one-file-system "$root"

# In the root: run a command with /proc there and no service ever started.
in_root() { unshare -m --propagation private sh -c 'mount -t proc proc "$0/proc"; r=$0; exec chroot "$r" "$@"' "$root" "$@"; }

# A mirror's copy of testing can be older than its Release file's validity: what we took is recorded by hash instead.
trixie_and_testing() {
  printf 'deb %s trixie main\ndeb [check-valid-until=no] %s testing main\n' "$MIRROR" "$MIRROR" >"$root/etc/apt/sources.list"
  printf 'Package: *\nPin: release n=trixie\nPin-Priority: 900\n\nPackage: *\nPin: release a=testing\nPin-Priority: 100\n' >"$root/etc/apt/preferences.d/godwit"
}

testing_packages() {
  trixie_and_testing
  in_root apt-get update -qq
  in_root apt-get install -y -qq --no-install-recommends -t testing $TESTING_PACKAGES
  local have
  have=$(in_root dpkg-query -W -f '${Version}' criu)
  dpkg --compare-versions "$have" ge "$MIN_CRIU" || die "Debian testing offers criu $have; Godwit needs $MIN_CRIU or newer"
  have=$(in_root dpkg-query -W -f '${Version}' runc)
  dpkg --compare-versions "$have" ge "$MIN_RUNC" || die "Debian testing offers runc $have; Godwit needs $MIN_RUNC or newer"
  in_root sh -c "dpkg-query -W $TESTING_PACKAGES; sha256sum /usr/sbin/criu /usr/sbin/runc" >"$root/.testing-versions"
}

# CRIU's packages for any architecture: fetched by the build root's apt, unpacked, never configured.
unpack_criu() {
  mkdir -p "$root"/etc/apt/preferences.d "$root"/var/lib/apt/lists/partial "$root"/var/lib/dpkg "$root"/var/cache/apt/archives/partial
  : >"$root/var/lib/dpkg/status"
  trixie_and_testing
  cat >"$root/etc/apt/godwit.conf" <<CONF
Dir "$root/";
Dir::State::status "$root/var/lib/dpkg/status";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d/";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
CONF
  local apt=("$REPO/scripts/in-root" env APT_CONFIG="$root/etc/apt/godwit.conf" apt-get -qq)
  "${apt[@]}" update
  "${apt[@]}" install --download-only --yes $CRIU_PACKAGES
  local deb have
  for deb in "$root"/var/cache/apt/archives/*.deb; do
    dpkg-deb -x "$deb" "$root"
    echo "$(dpkg-deb -f "$deb" Package) $(dpkg-deb -f "$deb" Version) $(sha256sum "$deb" | cut -d' ' -f1)"
  done >"$root/.packages"
  have=$(awk '$1 == "criu" {print $2}' "$root/.packages")
  dpkg --compare-versions "${have:-0}" ge "$MIN_CRIU" ||
    die "Debian testing offers criu '$have' for $arch; Godwit needs $MIN_CRIU or newer"
  rm -rf --one-file-system "$root/var/cache/apt" "$root/var/lib/apt"
}

make_root() {
  if [ "${name%-*}" = criu ]; then
    unpack_criu
  elif [ "$name" = sysroot ]; then
    # Foreign architecture: unpack the packages and their dependencies, run nothing.
    debootstrap --arch=arm64 --foreign --variant=minbase --include="$(echo $recipe | tr ' ' ',')" trixie "$root" "$MIRROR"
    for deb in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$deb" "$root"; done
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root/debootstrap" "$root"/usr/share/doc "$root"/usr/share/man # licences: from the build root
    # Absolute links would lead out of the sysroot.
    find "$root/usr/lib" -type l -lname '/*' | while read -r link; do ln -sfn "$root$(readlink "$link")" "$link"; done
  else
    debootstrap --variant=minbase trixie "$root" "$MIRROR"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"; chmod 755 "$root/usr/sbin/policy-rc.d"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
    in_root apt-get update -qq
    in_root apt-get install -y -qq --no-install-recommends $(echo "$recipe" | sed 's/testing:.*//')
    [ "$name" != node ] || testing_packages
    in_root apt-get clean
    # The machine's own certificate authorities, so that downloads through its proxies work in the root too.
    [ ! -d /usr/local/share/ca-certificates ] || cp -rL /usr/local/share/ca-certificates "$root/usr/local/share/" 2>/dev/null || true
    in_root update-ca-certificates || true
    find "$root/usr/share/doc" -type f ! -name copyright -delete # licence texts go into the images
    rm -rf "$root"/usr/share/man
  fi
}

with_progress "$log" make_root
[ $status = 0 ] || { tail -20 "$log" >&2; die "could not make the root '$name': see $log"; }
touch "$root/.complete"
say "root '$name' is ready: $root"
echo "$root"
