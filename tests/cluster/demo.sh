#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The demonstration: from nothing to a running pod that goes on counting on another node, told step by step.
# Fails if a single number is missing or comes twice. Run it by `make demo`.
. "$(dirname "$0")/lib.sh"

NAMESPACE=demo SOURCE=n1 TARGET=n2
work=$(mktemp -d)
background=()
finish() {
  local pid
  for pid in "${background[@]}"; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

bold() { printf '\n\033[1m%s\033[0m\n' "$*"; }
tell() { printf '%s\n' "$@"; }
indent() { sed 's/^/    /'; }
# show COMMAND...: a command, as a person would type it, and what it says.
show() {
  local text="$*"
  text=${text/#k /kubectl -n $NAMESPACE }
  printf '    \033[36m$ %s\033[0m\n' "${text//$work\//}"
  "$@" | indent
}
show_file() { indent <"$1"; }
k() { kubectl -n $NAMESPACE "$@"; }
kubectl() { "$STATE/bin/kubectl" --kubeconfig "$STATE/kubeconfig" "$@"; }

cluster() {
  bold "1. A Kubernetes cluster"
  tell "Two nodes and a control plane on this machine: real kubelets and containerd, each node a set of namespaces." \
    "The first time its parts are built, which takes minutes; then it is there in seconds."
  "$HERE/up"
  show kubectl get nodes -o wide
}

godwit() {
  bold "2. Godwit"
  tell "make deploy builds Godwit's images, pushes them to the cluster's registry and installs the Helm chart."
  make -C "$REPO" --no-print-directory deploy >&2
  tell "A controller decides (two of them, one leads); an agent on each node does the work."
  show kubectl -n godwit-system get pods -o wide
}

counter() {
  bold "3. A program that has something to lose"
  cat >"$work/pod.yaml" <<YAML
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  nodeName: $SOURCE            # it begins on $SOURCE
  terminationGracePeriodSeconds: 2
  containers:
  - name: counter
    image: $REGISTRY/workload:1
    command:
    - python3
    - -uc
    - |
      import time
      number = 0               # lives nowhere but in this process's memory
      while True:
          number += 1
          print("count", number, time.strftime("%H:%M:%S"))
          time.sleep(0.05)
YAML
  show_file "$work/pod.yaml"
  kubectl delete namespace $NAMESPACE --ignore-not-found >/dev/null
  kubectl create namespace $NAMESPACE >/dev/null
  # The API server refuses pods until the controllers have made this.
  wait_until 30 "the default ServiceAccount" kubectl -n $NAMESPACE get serviceaccount default
  show k apply -f "$work/pod.yaml"
  k wait --for=condition=Ready pod/counter --timeout=120s >/dev/null
  wait_until 30 "the counter to count" eval "k logs counter | grep -q 'count 40 '"
  show k get pod counter -o wide
  tell "It has counted to:"
  show k logs counter --tail=3
}

# The pod's log goes with the pod, so a reader on the node follows the file itself until the end.
# (tail polls here: it does not trust notifications of an overlay.)
follow_source_log() {
  local uid
  uid=$(k get pod counter -o jsonpath='{.metadata.uid}')
  "$HERE/node" $SOURCE tail -s 0.1 -n +1 -F "/var/log/pods/${NAMESPACE}_counter_$uid/counter/0.log" \
    </dev/null >"$work/source.log" 2>/dev/null &
  background+=($!)
}

migrate() {
  bold "4. The migration"
  cat >"$work/migration.yaml" <<YAML
apiVersion: godwit.io/v1alpha1
kind: Migration
metadata: {name: move-counter}
spec:
  podRef: {name: counter}
  target: {nodeName: $TARGET}
YAML
  show_file "$work/migration.yaml"
  show k apply -f "$work/migration.yaml"
  tell "Its phases as they pass:"
  watch_phases
  show k get migration move-counter -o wide
  [ "$(field .status.phase)" = Succeeded ] || {
    k describe migration move-counter
    die "the migration ended as '$(field .status.phase)': the text above says why; the pod was left where it was"
  }
  tell "" "The process stood still for $(field .status.freeze.duration), spent on:"
  k get migration move-counter -o jsonpath='{range .status.freeze.steps[*]}{.duration}{"\t"}{.name}{"\t"}{.container}{"\n"}{end}' | indent
  tell "What Kubernetes wrote down about it:"
  k get events --field-selector involvedObject.name=move-counter --sort-by=.metadata.creationTimestamp \
    -o custom-columns=REASON:.reason,MESSAGE:.message --no-headers | indent
}

field() { k get migration move-counter -o "jsonpath={$1}"; }

watch_phases() {
  local phase last='' begin=${EPOCHREALTIME/[.,]/}
  exec 7< <(exec "$STATE/bin/kubectl" --kubeconfig "$STATE/kubeconfig" -n $NAMESPACE get migration move-counter -w \
    -o 'jsonpath={.status.phase}{"\n"}')
  background+=($!)
  while read -r -t 180 phase <&7; do
    [ "$phase" != "$last" ] || continue
    printf '    %6d ms  %s\n' $(((${EPOCHREALTIME/[.,]/} - begin) / 1000)) "${phase:-(just created)}"
    last=$phase
    case $phase in Succeeded | Failed) break ;; esac
  done
  exec 7<&-
}

numbers() { sed -n 's/.*count \([0-9][0-9]*\) .*/\1/p' "$1"; }

check_logs() {
  bold "5. Did it lose count?"
  local target total
  target=$(field .status.targetPodName)
  show k get pods -o wide
  wait_until 30 "the moved counter to count on" eval "k logs '$target' | grep -q count"
  k logs "$target" >"$work/target.log"
  tell "The last lines on $SOURCE, read there from the log file, and the first ones on $TARGET:"
  numbers "$work/source.log" | tail -3 | sed "s/^/$SOURCE  count /" | indent
  numbers "$work/target.log" | head -3 | sed "s/^/$TARGET  count /" | indent
  { numbers "$work/source.log"; numbers "$work/target.log"; } >"$work/all"
  total=$(wc -l <"$work/all")
  seq 1 "$total" | cmp -s - "$work/all" || {
    diff <(seq 1 "$total") "$work/all" | head -20
    die "numbers are missing or come twice in the joined logs"
  }
  [ -n "$(numbers "$work/target.log")" ] || die "nothing was counted on $TARGET"
  tell "All numbers from 1 to $total are there, each once, in order: it is the same process, it only moved."
}

farewell() {
  bold "6. Look around, and tear down"
  local target
  target=$(field .status.targetPodName)
  cat <<TEXT
    export KUBECONFIG=$STATE/kubeconfig PATH=$STATE/bin:\$PATH
    kubectl -n $NAMESPACE get migrations -o wide         # all of them, with their freeze
    kubectl -n $NAMESPACE describe migration move-counter
    kubectl -n $NAMESPACE logs -f $target                # still counting
    kubectl -n godwit-system logs -l app.kubernetes.io/component=controller
    tests/cluster/node $TARGET bash                      # a shell on the node
    make undeploy                                  # takes Godwit away
    make cluster-down                              # takes everything away
TEXT
}

need_root
begin=$SECONDS
cluster
godwit
counter
follow_source_log
migrate
check_logs
farewell
bold "Done in $((SECONDS - begin)) s."
