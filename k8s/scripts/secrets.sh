#!/usr/bin/env bash
# Makes the Secrets that the chart names and nothing else creates, with random contents. What is there stays as it is.
#
#   k8s/scripts/secrets.sh [namespace] [host of Postgres]
#
# POSTGRES_PASSWORD is that of the user headrace, random unless set. POSTGRES_SSLMODE is libpq's: verify-full wherever the
# database has a certificate (the chart mounts its CA: postgres.caSecret); prefer, if unset, also takes no TLS at all.
# The keys of cloud providers (charts/headrace/files/providers.yaml) are taken from the environment if they are set.
set -euo pipefail

namespace=${1:-headrace}
postgres=${2:-headrace-postgres}

# The base32 alphabet: an API key contains no other characters.
random() { LC_ALL=C tr -dc 'a-z2-7' < /dev/urandom | head -c "$1" || true; }
there() { kubectl -n "$namespace" get secret "$1" > /dev/null 2>&1; }
make_secret() {
  local name=$1
  shift
  if there "$name"; then
    echo "$name exists already"
  else
    kubectl -n "$namespace" create secret generic "$name" "$@"
  fi
}

password=${POSTGRES_PASSWORD:-$(random 32)}
if there headrace-postgres; then
  password=$(kubectl -n "$namespace" get secret headrace-postgres -o jsonpath='{.data.password}' | base64 -d)
fi
make_secret headrace-postgres --from-literal=password="$password" \
  --from-literal=url="postgresql://headrace:$password@$postgres:5432/headrace?sslmode=${POSTGRES_SSLMODE:-prefer}"
make_secret headrace-registry --from-literal=url="jdbc:postgresql://$postgres:5432/registry" \
  --from-literal=username=headrace --from-literal=password="$password"
make_secret headrace-api-keys --from-literal=pepper="$(random 48)" \
  --from-literal=bootstrap-key="hr_$(random 16)_$(random 48)"

providers=()
for variable in $(grep -o '[A-Z0-9_]*_API_KEY' "$(dirname "${BASH_SOURCE[0]}")/../../charts/headrace/files/providers.yaml"); do
  if [[ -n ${!variable:-} ]]; then providers+=("--from-literal=$variable=${!variable}"); fi
done
make_secret headrace-providers "${providers[@]}"
