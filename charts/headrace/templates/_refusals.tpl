{{/*
Checks that the JSON schema cannot express, or not with a helpful message: each names the value and what to do instead.
*/}}
{{- define "headrace.refuse" -}}
{{- $secretVariable := "PEPPER|PASSWORD|_TOKEN$|DATABASE_URL|BOOTSTRAP_KEY|_API_KEY$|^HEADRACE_KAFKA_" -}}
{{- $secretProperty := "password|secret|pem$|^sasl[.](username|jaas)|^oauthbearer" -}}
{{- $own := list "bootstrap.servers" "client.id" "group.id" "group.protocol" "group.instance.id" "partition.assignment.strategy"
      "enable.auto.commit" "enable.auto.offset.store" "auto.offset.reset" "partitioner" "enable.idempotence" "acks" "transactional.id" -}}
{{- $chart := list "security.protocol" "sasl.mechanism" "sasl.mechanisms" "ssl.ca.location" "ssl.certificate.location" "ssl.key.location" "session.timeout.ms" -}}
{{- $sets := dict "kafka.properties" .Values.kafka.properties -}}
{{- range .Values.localWorker.sites -}}
{{- if gt (len (printf "%s-local-worker-%s-ops" (include "headrace.fullname" $) .name)) 63 -}}
{{- fail (printf "localWorker.sites: %s makes names longer than the 63 characters that Kubernetes allows; shorten it, or fullnameOverride" .name) -}}
{{- end -}}
{{- if has .name (list "interactive" "batch") -}}
{{- fail (printf "localWorker.sites: a site cannot be named %s: that is a lane" .name) -}}
{{- end -}}
{{- end -}}
{{- range $key := prepend (keys (include "headrace.traits" . | fromYaml) | sortAlpha) "serviceDefaults" -}}
{{- $v := dict -}}
{{- if hasKey $.Values $key }}{{ $v = index $.Values $key }}{{ else }}{{ $v = include "headrace.values" (dict "root" $ "key" $key) | fromYaml }}{{ end -}}
{{- $_ := set $sets (printf "%s.kafkaProperties" $key) ($v.kafkaProperties | default dict) -}}
{{- range $name, $_ := $v.settings -}}
{{- if regexMatch $secretVariable $name -}}
{{- fail (printf "%s.settings.%s: values hold no secrets and no Kafka properties. Name a Secret instead: apiKeys.secret, postgres.urlSecret, kafka.auth, cloudWorker.providerSecret, localWorker.nodeTokenSecret; or use %s.kafkaProperties" $key $name $key) -}}
{{- end -}}
{{- end -}}
{{- if and $v.autoscaling $v.autoscaling.minReplicas $v.autoscaling.maxReplicas -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- fail (printf "%s.autoscaling: minReplicas (%d) is above maxReplicas (%d)" $key (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $where, $properties := $sets -}}
{{- range $name, $_ := $properties -}}
{{- if has $name $own -}}{{- fail (printf "%s.%s: Headrace sets this property itself, since its guarantees rest on it; leave it out" $where $name) -}}{{- end -}}
{{- if has $name $chart -}}{{- fail (printf "%s.%s: the chart sets this property itself; use kafka.tls, kafka.auth or router.sessionSeconds" $where $name) -}}{{- end -}}
{{- if regexMatch $secretProperty $name -}}{{- fail (printf "%s.%s: values hold no secrets; put it into the service's Kafka Secret (kafka.auth)" $where $name) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ollama.enabled (not .Values.ollama.pools) -}}
{{- fail "ollama.enabled is true and ollama.pools is empty: name a pool and its models, such as ollama.pools.general.models={llama3.2:3b}" -}}
{{- end -}}
{{- if .Values.ollama.enabled -}}
{{- $version := regexFind "^v?[0-9]+[.][0-9]+[.][0-9]+" .Values.ollama.image.tag -}}
{{- if and $version (semverCompare "<0.16.2" $version) -}}
{{- fail (printf "ollama.image.tag: Ollama %s does not know OLLAMA_NO_CLOUD, with which its pods pass nothing on to Ollama's cloud; use 0.16.2 or newer" $version) -}}
{{- end -}}
{{- range $pool, $_ := .Values.ollama.pools -}}
{{- range (include "headrace.pool" (dict "root" $ "pool" $pool) | fromYaml).models -}}
{{- if regexMatch "(?i)[:-]cloud$" (trim .) -}}
{{- fail (printf "ollama.pools.%s.models: %s runs in Ollama's cloud, not on the pool, and is never used as a local model; name a model that the pool can run" $pool .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
