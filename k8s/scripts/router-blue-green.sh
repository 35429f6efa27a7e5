#!/usr/bin/env bash
# Runs a new version or policy of the router beside the current one, with rollback within seconds.
#
#   router-blue-green.sh start [helm options]   green joins: it takes a share of the partitions
#   router-blue-green.sh shift                  blue leaves: green has all partitions
#   router-blue-green.sh promote [helm options] blue returns with green's changes, green is removed
#   router-blue-green.sh abort                  blue takes all partitions again, green is removed
#   router-blue-green.sh status
#
# The options are those that differ, the same for start and promote:
#   --set-file router.policy=policy-v2.yaml      --set router.image.tag=1.4.0
#
# Green is a second release that contains only routers. It joins the same consumer group: the group assigns each partition,
# and the journal has one writer per partition. A second group would make two, which fence each other.
#
# NAMESPACE (headrace), RELEASE (headrace), CHART (charts/headrace beside this script), BLUE_REPLICAS (as before shift).
set -euo pipefail

namespace=${NAMESPACE:-headrace}
blue=${RELEASE:-headrace}
green="${blue}-green"
shipped="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../charts/headrace" && pwd)"
chart=${CHART:-$shipped}
green_set="statefulset/${green}-router"

# What green leaves out: every service but the router, as options of helm.
others() { sed -n 's/^\([A-Za-z]*\):$/\1.enabled=false/p' "$shipped/files/services.yaml" | grep -v '^router[.]' | paste -s -d , -; }
say() { echo "== $*" >&2; }
helm_ns() { helm --namespace "$namespace" "$@"; }
kube() { kubectl --namespace "$namespace" "$@"; }
# Found by labels: the name depends on the release and on fullnameOverride.
blue_router() {
  kube get statefulset -o jsonpath='{.items[0].metadata.name}' \
    -l "app.kubernetes.io/instance=$blue,app.kubernetes.io/component=router"
}
replicas() { kube get "$1" -o jsonpath='{.spec.replicas}'; }
wait_for() { kube rollout status "$1" --timeout=300s; }

# KEDA would wake a workload scaled to zero; the Horizontal Pod Autoscaler ignores one without pods.
pause_autoscaler() {
  if kube get "scaledobject/$blue_name" > /dev/null 2>&1; then
    kube annotate --overwrite "scaledobject/$blue_name" autoscaling.keda.sh/paused=true
  fi
}
resume_autoscaler() {
  if kube get "scaledobject/$blue_name" > /dev/null 2>&1; then
    kube annotate "scaledobject/$blue_name" autoscaling.keda.sh/paused-
  fi
}
back_to() {
  kube scale "$blue_set" --replicas="$1"
  wait_for "$blue_set"
}

case ${1:-} in
  start | shift | promote | abort)
    blue_name=$(blue_router)
    blue_set="statefulset/$blue_name"
    ;;
esac

case ${1:-} in
  start)
    shift
    count=$(replicas "$blue_set")
    say "green: $count routers beside $count blue ones"
    # Blue's values, reduced to routers: no topics, no hooks of other services, no second set of anything else.
    helm_ns get values "$blue" --all --output yaml |
      helm_ns upgrade --install "$green" "$chart" --values - \
        --set "fullnameOverride=$green" \
        --set "$(others)" \
        --set ollama.enabled=false,ingress.enabled=false,gateway.enabled=false,migrations.enabled=false \
        --set topics.manage=none,monitoring.rules.enabled=false,tests.enabled=false \
        --set "router.autoscaling.enabled=false,router.replicas=$count" \
        "$@" --wait --timeout 10m
    say "both route now; every decision names the version of its policy. Compare, then: shift, or abort"
    ;;
  shift)
    kube annotate --overwrite "$blue_set" "headrace.dev/blue-replicas=$(replicas "$blue_set")"
    pause_autoscaler
    # A member that stops keeps its partitions for router.sessionSeconds; until then their tasks wait, and none is lost.
    kube scale "$blue_set" --replicas=0
    wait_for "$green_set"
    say "green has all partitions after one session; blue is ready to come back: abort"
    ;;
  promote)
    shift
    count=${BLUE_REPLICAS:-$(kube get "$blue_set" -o jsonpath='{.metadata.annotations.headrace\.dev/blue-replicas}')}
    helm_ns upgrade "$blue" "$chart" --reuse-values "$@" --timeout 10m
    back_to "${count:-$(replicas "$green_set")}"
    helm_ns uninstall "$green" --wait
    resume_autoscaler
    say "blue runs what green ran"
    ;;
  abort)
    count=${BLUE_REPLICAS:-$(kube get "$blue_set" -o jsonpath='{.metadata.annotations.headrace\.dev/blue-replicas}')}
    back_to "${count:-$(replicas "$green_set")}"
    helm_ns uninstall "$green" --wait --ignore-not-found
    resume_autoscaler
    say "blue has all partitions again"
    ;;
  status)
    kube get pods -l app.kubernetes.io/component=router -o wide
    ;;
  *)
    sed -n '2,/^set -/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'
    exit 2
    ;;
esac
