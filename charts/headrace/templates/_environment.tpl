{{/*
The environment of a service: a map of name to entry, so that no variable is set twice.
*/}}

{{/* Secret of a service's Kafka user. Takes (dict "root" $ "name" "router" "override" ""). */}}
{{- define "headrace.kafkaSecret" -}}
{{- .override | default (printf "%s%s" .root.Values.kafka.auth.secretPrefix .name) -}}
{{- end -}}

{{/* Kafka and registry, for services and Jobs. Takes (dict "root" $ "name" "router" "kafkaSecret" name "registrySecret" name or "" "kafkaProperties" map). */}}
{{- define "headrace.connections" -}}
{{- $values := .root.Values -}}
{{- $kafka := $values.kafka -}}
{{- $sasl := eq $kafka.auth.type "sasl" -}}
HEADRACE_BOOTSTRAP_SERVERS: {value: {{ $kafka.bootstrapServers | quote }}}
HEADRACE_REGISTRY_URL: {value: {{ $values.registry.url | quote }}}
HEADRACE_TOPIC_PREFIX: {value: {{ $values.topicPrefix | quote }}}
HEADRACE_BODY_LIMIT_BYTES: {value: {{ $values.bodyLimitBytes | int | quote }}}
HEADRACE_INSTANCE_ID: {valueFrom: {fieldRef: {fieldPath: metadata.name}}}
HEADRACE_LOG_FORMAT: {value: {{ $values.observability.logFormat | quote }}}
HEADRACE_LOG_LEVEL: {value: {{ $values.observability.logLevel | quote }}}
{{- if or $sasl $kafka.tls.enabled }}
HEADRACE_KAFKA_SECURITY_PROTOCOL: {value: {{ printf "%s%s" (ternary "sasl_" "" $sasl) (ternary "ssl" "plaintext" $kafka.tls.enabled) | quote }}}
{{- end }}
{{- if and $kafka.tls.enabled $kafka.tls.caSecret.name }}
HEADRACE_KAFKA_SSL_CA_LOCATION: {value: /etc/headrace/kafka/ca.crt}
{{- end }}
{{- if $sasl }}
HEADRACE_KAFKA_SASL_MECHANISM: {value: {{ $kafka.auth.sasl.mechanism | quote }}}
{{- if $kafka.auth.sasl.usernameKey }}
HEADRACE_KAFKA_SASL_USERNAME: {valueFrom: {secretKeyRef: {name: {{ .kafkaSecret }}, key: {{ $kafka.auth.sasl.usernameKey }}}}}
{{- else }}
HEADRACE_KAFKA_SASL_USERNAME: {value: {{ .kafkaSecret | quote }}}
{{- end }}
HEADRACE_KAFKA_SASL_PASSWORD: {valueFrom: {secretKeyRef: {name: {{ .kafkaSecret }}, key: {{ $kafka.auth.sasl.passwordKey }}}}}
{{- else if eq $kafka.auth.type "mtls" }}
HEADRACE_KAFKA_SSL_CERTIFICATE_LOCATION: {value: /etc/headrace/kafka-user/user.crt}
HEADRACE_KAFKA_SSL_KEY_LOCATION: {value: /etc/headrace/kafka-user/user.key}
{{- end }}
{{- if $values.registry.caSecret.name }}
HEADRACE_REGISTRY_CA_FILE: {value: /etc/headrace/registry/ca.crt}
{{- end }}
{{- $auth := $values.registry.auth }}
{{- $login := .registrySecret | default $auth.secret }}
{{- if eq $auth.type "basic" }}
HEADRACE_REGISTRY_USERNAME: {valueFrom: {secretKeyRef: {name: {{ $login }}, key: {{ $auth.basic.usernameKey }}}}}
HEADRACE_REGISTRY_PASSWORD: {valueFrom: {secretKeyRef: {name: {{ $login }}, key: {{ $auth.basic.passwordKey }}}}}
{{- else if eq $auth.type "token" }}
HEADRACE_REGISTRY_TOKEN: {valueFrom: {secretKeyRef: {name: {{ $login }}, key: {{ $auth.token.tokenKey }}}}}
{{- else if eq $auth.type "mtls" }}
HEADRACE_REGISTRY_CLIENT_CERTIFICATE_FILE: {value: /etc/headrace/registry-user/tls.crt}
HEADRACE_REGISTRY_CLIENT_KEY_FILE: {value: /etc/headrace/registry-user/tls.key}
{{- end }}
{{- range $name, $value := mergeOverwrite (deepCopy $kafka.properties) (deepCopy .kafkaProperties) }}
HEADRACE_KAFKA_{{ $name | upper | replace "." "_" }}: {value: {{ $value | toString | quote }}}
{{- end }}
{{- end -}}

{{/* Whether what others write to Kafka unsigned is taken. */}}
{{- define "headrace.unsignedSubmissions" -}}
{{- .Values.apiKeys.unsignedSubmissions | default (ternary "accept" "refuse" (eq .Values.kafka.auth.type "none")) -}}
{{- end -}}

{{/* All variables of a service. Takes (dict "root" $ "key" "router" "traits" t "values" v). */}}
{{- define "headrace.environment" -}}
{{- $values := .root.Values -}}
{{- $v := .values -}}
{{- $full := include "headrace.fullname" .root -}}
{{- $of := .traits.of | default .traits.name -}}
{{- $secret := include "headrace.kafkaSecret" (dict "root" .root "name" $of "override" $v.kafkaSecret) -}}
{{ include "headrace.connections" (dict "root" .root "name" .traits.name "kafkaSecret" $secret "kafkaProperties" $v.kafkaProperties) }}
HEADRACE_OPS_HOST: {value: 0.0.0.0}
HEADRACE_OPS_PORT: {value: "9100"}
HEADRACE_DRAIN_SECONDS: {value: {{ $v.drainSeconds | toString | quote }}}
{{- with $values.observability.otlpEndpoint }}
HEADRACE_OTLP_ENDPOINT: {value: {{ . | quote }}}
HEADRACE_TRACE_SAMPLE_RATIO: {value: {{ $values.observability.traceSampleRatio | toString | quote }}}
{{- end }}
{{- if .traits.api }}
HEADRACE_API_HOST: {value: 0.0.0.0}
HEADRACE_API_PORT: {value: "8080"}
{{- end }}
{{- if and $values.tenants (or .traits.api (eq .key "router")) }}
HEADRACE_TENANTS_FILE: {value: /etc/headrace/tenants/tenants.yaml}
{{- end }}
{{- if .traits.secret }}
HEADRACE_KEY_PEPPER: {valueFrom: {secretKeyRef: {name: {{ $values.apiKeys.secret.name }}, key: {{ $values.apiKeys.secret.pepperKey }}}}}
{{- if and (eq $values.apiKeys.unsignedRecords "accept") (ne .key "localWorker") }}
HEADRACE_UNSIGNED_RECORDS: {value: accept}
{{- end }}
{{- end }}
{{- if .traits.submissions }}
HEADRACE_UNSIGNED_SUBMISSIONS: {value: {{ include "headrace.unsignedSubmissions" .root }}}
{{- end }}
{{- if .traits.database }}
{{- $own := ternary $v.postgresSecret $values.postgres.urlSecret (ne $v.postgresSecret.name "") }}
HEADRACE_DATABASE_URL: {valueFrom: {secretKeyRef: {name: {{ $own.name }}, key: {{ $own.key }}}}}
{{- end }}
{{- if eq .key "intake" }}
HEADRACE_BOOTSTRAP_KEY: {valueFrom: {secretKeyRef: {name: {{ $values.apiKeys.secret.name }}, key: {{ $values.apiKeys.secret.bootstrapKey }}, optional: true}}}
{{- else if eq .key "router" }}
HEADRACE_STATIC_MEMBER: {value: "true"}
{{- with include "headrace.sites" .root }}
HEADRACE_SITES: {value: {{ . | quote }}}
{{- end }}
HEADRACE_KAFKA_SESSION_TIMEOUT_MS: {value: {{ mul (int $v.sessionSeconds) 1000 | toString | quote }}}
{{- if $v.policy }}
HEADRACE_POLICY_FILE: {value: /etc/headrace/policy/policy.yaml}
{{- end }}
{{- if $values.priceBook }}
HEADRACE_PRICE_FILE: {value: /etc/headrace/prices/prices.yaml}
{{- end }}
{{- else if eq $of "local-worker" }}
{{- with .traits.site }}
HEADRACE_SITE: {value: {{ . | quote }}}
{{- end }}
{{- $nodes := list }}
{{- with $v.nodes }}{{ $nodes = append $nodes . }}{{ end }}
{{- $sources := list }}
{{- with $v.discovery.dns }}
{{- $sources = append $sources "dns" }}
HEADRACE_DISCOVERY_DNS: {value: {{ join "," . | quote }}}
{{- end }}
{{- if $v.discovery.announced }}{{ $sources = append $sources "announced" }}{{ end }}
{{- with $v.nodeTokenSecret }}
HEADRACE_NODE_TOKEN: {valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}}
{{- end }}
{{- if $v.nodeTlsSecret }}
HEADRACE_NODE_TLS_CA: {value: /etc/headrace/nodes/ca.crt}
HEADRACE_NODE_TLS_CERT: {value: /etc/headrace/nodes/tls.crt}
HEADRACE_NODE_TLS_KEY: {value: /etc/headrace/nodes/tls.key}
{{- end }}
{{- if $v.discovery.enabled }}
{{- $sources = prepend $sources "kubernetes" }}
HEADRACE_DISCOVERY_SELECTOR: {value: {{ $v.discovery.selector | quote }}}
HEADRACE_DISCOVERY_NAMESPACE: {value: {{ $v.discovery.namespace | default .root.Release.Namespace | quote }}}
HEADRACE_DISCOVERY_PORT: {value: {{ $v.discovery.port | quote }}}
HEADRACE_DISCOVERY_PEERS: {value: {{ printf "kubernetes.io/service-name=%s-%s-ops" $full .traits.name | quote }}}
{{- with $v.discovery.labels }}
HEADRACE_DISCOVERY_LABELS: {value: {{ join "," . | quote }}}
{{- end }}
{{- if $values.ollama.enabled }}
HEADRACE_NODE_SLOTS: {value: {{ $values.ollama.slots | toString | quote }}}
{{- end }}
{{- else if and $values.ollama.enabled (not .traits.site) }}
{{- range $pool, $_ := $values.ollama.pools }}
{{- $p := include "headrace.pool" (dict "root" $.root "pool" $pool) | fromYaml }}
{{- range $i := until (int $p.replicas) }}
{{- $nodes = append $nodes (printf "http://%s-ollama-%s-%d.%s-ollama-%s.%s.svc:11434;slots=%d" $full $pool $i $full $pool $.root.Release.Namespace (int $values.ollama.slots)) }}
{{- end }}
{{- end }}
{{- end }}
{{- if or $nodes (not $sources) }}
{{- $sources = prepend $sources "static" }}
HEADRACE_OLLAMA_NODES: {value: {{ join "," $nodes | quote }}}
{{- end }}
HEADRACE_DISCOVERY: {value: {{ join "," $sources | quote }}}
{{- else if eq .key "cloudWorker" }}
{{- range ($.root.Files.Get "files/providers.yaml" | fromYaml).keys }}
{{ . }}: {valueFrom: {secretKeyRef: {name: {{ $v.providerSecret }}, key: {{ . }}, optional: true}}}
{{- end }}
{{- $providers := list }}
{{- range $v.providers }}
{{- $entry := printf "%s=%s=%s" .name .url (.key | default "") }}
{{- if .dialect }}
{{- $entry = printf "%s=%s" $entry .dialect }}
{{- end }}
{{- $providers = append $providers $entry }}
{{- if .key }}
{{ .key }}: {valueFrom: {secretKeyRef: {name: {{ $v.providerSecret }}, key: {{ .key }}}}}
{{- end }}
{{- end }}
{{- if $providers }}
HEADRACE_OPENAI_COMPATIBLE: {value: {{ join "," $providers | quote }}}
{{- end }}
{{- else if eq .key "costAccountant" }}
HEADRACE_WINDOWS_REPLICATION: {value: {{ $values.topics.replication | toString | quote }}}
{{- if $values.priceBook }}
HEADRACE_PRICE_BOOK: {value: /etc/headrace/prices/prices.yaml}
{{- end }}
{{- end }}
{{- end -}}

{{/* The map above, and the service's own settings, as a container's `env`. Same arguments. */}}
{{- define "headrace.env" -}}
{{- $env := include "headrace.environment" . | fromYaml -}}
{{- if $env.Error }}{{ fail $env.Error }}{{ end -}}
{{- range $name, $value := .values.settings -}}
{{- if hasKey $env $name }}{{ fail (printf "%s.settings.%s: the chart sets this variable itself; use the corresponding value" $.key $name) }}{{ end -}}
{{- $_ := set $env $name (dict "value" ($value | toString)) -}}
{{- end -}}
{{ include "headrace.envList" $env }}
{{- end -}}

{{- define "headrace.envList" -}}
{{- range $name, $entry := . }}
- {{ dict "name" $name | merge $entry | toJson }}
{{- end }}
{{- end -}}

{{/* Files that come from Secrets and ConfigMaps: (dict "root" $ "kafkaSecret" name "registrySecret" name or "" "database" bool "policy" name "tenants" name "prices" name). */}}
{{- define "headrace.volumes" -}}
{{- $values := .root.Values -}}
- {name: tmp, emptyDir: {sizeLimit: 64Mi}}
{{- if and $values.kafka.tls.enabled $values.kafka.tls.caSecret.name }}
- {name: kafka-ca, secret: {secretName: {{ $values.kafka.tls.caSecret.name }}, items: [{key: {{ $values.kafka.tls.caSecret.key }}, path: ca.crt}], defaultMode: 0440}}
{{- end }}
{{- if eq $values.kafka.auth.type "mtls" }}
- name: kafka-user
  secret:
    secretName: {{ .kafkaSecret }}
    defaultMode: 0440
    items:
      - {key: {{ $values.kafka.auth.mtls.certificateKey }}, path: user.crt}
      - {key: {{ $values.kafka.auth.mtls.privateKeyKey }}, path: user.key}
{{- end }}
{{- if $values.registry.caSecret.name }}
- {name: registry-ca, secret: {secretName: {{ $values.registry.caSecret.name }}, items: [{key: {{ $values.registry.caSecret.key }}, path: ca.crt}], defaultMode: 0440}}
{{- end }}
{{- if eq $values.registry.auth.type "mtls" }}
- name: registry-user
  secret:
    secretName: {{ .registrySecret | default $values.registry.auth.secret }}
    defaultMode: 0440
    items:
      - {key: {{ $values.registry.auth.mtls.certificateKey }}, path: tls.crt}
      - {key: {{ $values.registry.auth.mtls.privateKeyKey }}, path: tls.key}
{{- end }}
{{- if and .database $values.postgres.caSecret.name }}
- {name: postgres-ca, secret: {secretName: {{ $values.postgres.caSecret.name }}, items: [{key: {{ $values.postgres.caSecret.key }}, path: ca.crt}], defaultMode: 0440}}
{{- end }}
{{- with .policy }}
- {name: policy, configMap: {name: {{ . }}}}
{{- end }}
{{- with .tenants }}
- {name: tenants, configMap: {name: {{ . }}}}
{{- end }}
{{- with .prices }}
- {name: prices, configMap: {name: {{ . }}}}
{{- end }}
{{- with .nodeTls }}
- {name: node-tls, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- end -}}

{{- define "headrace.mounts" -}}
{{- $values := .root.Values -}}
- {name: tmp, mountPath: /tmp}
{{- if and $values.kafka.tls.enabled $values.kafka.tls.caSecret.name }}
- {name: kafka-ca, mountPath: /etc/headrace/kafka, readOnly: true}
{{- end }}
{{- if eq $values.kafka.auth.type "mtls" }}
- {name: kafka-user, mountPath: /etc/headrace/kafka-user, readOnly: true}
{{- end }}
{{- if $values.registry.caSecret.name }}
- {name: registry-ca, mountPath: /etc/headrace/registry, readOnly: true}
{{- end }}
{{- if eq $values.registry.auth.type "mtls" }}
- {name: registry-user, mountPath: /etc/headrace/registry-user, readOnly: true}
{{- end }}
{{- if and .database $values.postgres.caSecret.name }}
- {name: postgres-ca, mountPath: /etc/headrace/postgres, readOnly: true}
{{- end }}
{{- if .policy }}
- {name: policy, mountPath: /etc/headrace/policy, readOnly: true}
{{- end }}
{{- if .tenants }}
- {name: tenants, mountPath: /etc/headrace/tenants, readOnly: true}
{{- end }}
{{- if .prices }}
- {name: prices, mountPath: /etc/headrace/prices, readOnly: true}
{{- end }}
{{- if .nodeTls }}
- {name: node-tls, mountPath: /etc/headrace/nodes, readOnly: true}
{{- end }}
{{- end -}}
