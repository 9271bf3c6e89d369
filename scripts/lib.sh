# Shared by every script of the project; source it, do not run it.
# SPDX-License-Identifier: Apache-2.0
# Gives: REPO (checkout), CACHE (third-party builds, outside the checkout), say, die, need_root, ensure_host_packages.
set -euo pipefail
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${GODWIT_CACHE:-/var/cache/godwit}
MIRROR=${GODWIT_DEBIAN_MIRROR:-http://deb.debian.org/debian}
export DEBIAN_FRONTEND=noninteractive

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "$0 needs root (namespaces, mounts, CRIU): run it with sudo"; }

# ensure_host_packages COMMAND=PACKAGE...: installs the Debian package of each command that the machine lacks.
ensure_host_packages() {
  local pair missing=()
  for pair in "$@"; do command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "missing: ${missing[*]}, and this machine has no apt-get to install them with"
  need_root
  say "installing on this machine: ${missing[*]}"
  mkdir -p "$CACHE"
  ( # one at a time: scripts that run side by side may all find something missing
    flock 8
    apt-get update -qq >/dev/null
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  ) 8>"$CACHE/apt.lock"
}
