#!/usr/bin/env bash
# Writes k8s/keda/scaledobjects.yaml and k8s/prometheus/servicemonitor.yaml from the chart, for installing these separately
# (with autoscaling.mode=none). With --check it writes nothing and reports whether they are current. HELM names the program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

render() {
  echo "# Generated from charts/headrace by k8s/scripts/render.sh; change that instead. Release and namespace: headrace."
  "${HELM:-helm}" template headrace charts/headrace --namespace headrace --kube-version 1.33.0 \
    --api-versions keda.sh/v1alpha1 --set autoscaling.mode=keda,monitoring.serviceMonitor.enabled=true \
    --show-only "templates/$1" | grep -v -e '^# Source:' -e '^ *$' |
    sed -e '/app.kubernetes.io\/managed-by:/d' -e '/helm.sh\/chart:/d'
}
keep_current() {
  local file=$1 template=$2 text
  text=$(render "$template")
  if [[ ${check:-} ]]; then
    [[ $text == "$(cat "$file")" ]] || { echo "$file is not current: run k8s/scripts/render.sh" >&2; exit 1; }
  else
    printf '%s\n' "$text" > "$file"
  fi
}

check=${1:+yes}
keep_current k8s/keda/scaledobjects.yaml autoscaling.yaml
keep_current k8s/prometheus/servicemonitor.yaml monitoring.yaml
