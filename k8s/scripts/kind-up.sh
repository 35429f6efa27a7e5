#!/usr/bin/env bash
# A whole Headrace on a laptop: kind, Strimzi, registry, Postgres, images built here, the chart. Needs docker, kind, kubectl, helm.
#
#   k8s/scripts/kind-up.sh          # about ten minutes the first time
#   k8s/scripts/kind-down.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

strimzi=${STRIMZI_VERSION:-0.51.0}

for program in docker kind kubectl helm; do
  command -v "$program" > /dev/null || { echo "x $program is missing: install it first" >&2; exit 1; }
done

kind get clusters | grep -qx headrace || kind create cluster --config k8s/kind/cluster.yaml --wait 120s
kubectl config use-context kind-headrace > /dev/null

for description in services/*/pyproject.toml; do
  service=$(basename "$(dirname "$description")")
  docker build -q -f services/Dockerfile --build-arg "SERVICE=$service" -t "headrace/$service:dev" .
  kind load docker-image "headrace/$service:dev" --name headrace
done

helm upgrade --install strimzi strimzi-kafka-operator --repo https://strimzi.io/charts/ --version "$strimzi" \
  --namespace strimzi --create-namespace --set watchAnyNamespace=true --wait
kubectl apply -f k8s/overlays/dev/namespace.yaml
k8s/scripts/secrets.sh headrace
kubectl apply -k k8s/overlays/dev
kubectl -n headrace wait kafka/headrace --for=condition=Ready --timeout=600s
kubectl -n headrace wait kafkauser --all --for=condition=Ready --timeout=180s
kubectl -n headrace rollout status statefulset/headrace-postgres deployment/headrace-registry --timeout=300s

helm upgrade --install headrace charts/headrace --namespace headrace \
  --values charts/headrace/values-small.yaml --values k8s/overlays/dev/values.yaml --wait --timeout 20m
helm -n headrace test headrace --logs
