# Shared by every script of the project; source it, do not run it.
# SPDX-License-Identifier: Apache-2.0
# Gives: REPO (checkout), CACHE (third-party builds, outside the checkout), say, die, need_root, ensure_host_packages,
# with_progress.
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

# with_progress LOG FUNCTION...: runs it with errexit and its output in LOG, and tells every 15 s how far it is (LOG's last
# line). Sets `status` to the function's: this never fails itself, because errexit is off in a command whose failure is
# tested. Descriptor 9 (locks) is not passed on.
with_progress() {
  local log=$1 begin=$SECONDS teller
  shift
  : >"$log"
  while ! read -rt 15 <><(:); do
    printf '    %s, %d s: %s\n' "$(basename "$log" .log)" $((SECONDS - begin)) "$(tail -n 1 "$log" | tr -d '\r' | cut -c 1-100)" >&2
  done 9>&- &
  teller=$!
  set +e
  (set -e; "$@") >"$log" 2>&1 </dev/null 9>&-
  status=$?
  set -e
  kill $teller
  wait $teller 2>/dev/null || true
}
