{{/*
The workload of a service. Takes (dict "root" $ "key" "router" "traits" t "values" v).
*/}}
{{- define "headrace.workload" -}}
{{- $root := .root -}}
{{- $v := .values -}}
{{- $t := .traits -}}
{{- $full := printf "%s-%s" (include "headrace.fullname" $root) $t.name -}}
{{- $selector := include "headrace.selector" (dict "root" $root "component" $t.name) -}}
{{- $scaled := and $v.autoscaling.enabled (ne (include "headrace.autoscaler" $root) "none") -}}
{{- $of := $t.of | default $t.name -}}
{{- $discovers := and (eq $of "local-worker") $v.discovery.enabled -}}
{{- $usesPrices := and $root.Values.priceBook (has .key (list "router" "costAccountant")) -}}
{{- $usesTenants := and $root.Values.tenants (or $t.api (eq .key "router")) -}}
{{- $files := dict "root" $root
      "kafkaSecret" (include "headrace.kafkaSecret" (dict "root" $root "name" $of "override" $v.kafkaSecret))
      "database" $t.database
      "policy" (ternary (printf "%s-policy" $full) "" (and (eq .key "router") (ne ($v.policy | default "") "")))
      "tenants" (ternary (printf "%s-tenants" (include "headrace.fullname" $root)) "" (not (empty $usesTenants)))
      "prices" (ternary (printf "%s-prices" (include "headrace.fullname" $root)) "" (not (empty $usesPrices)))
      "nodeTls" ($v.nodeTlsSecret | default "") -}}
apiVersion: apps/v1
kind: {{ $t.kind }}
metadata:
  name: {{ $full }}
  labels: {{- include "headrace.labels" (dict "root" $root "component" $t.name) | nindent 4 }}
spec:
  {{- if not $scaled }}
  replicas: {{ int $v.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  selector:
    matchLabels: {{- $selector | nindent 6 }}
  {{- if eq $t.kind "StatefulSet" }}
  serviceName: {{ $full }}-ops
  podManagementPolicy: Parallel
  updateStrategy: {type: RollingUpdate}
  {{- else }}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  {{- end }}
  template:
    metadata:
      labels:
        {{- include "headrace.podLabels" (dict "root" $root "component" $t.name) | nindent 8 }}
        {{- with $v.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ $of }}
        {{- if $files.policy }}
        checksum/policy: {{ $v.policy | sha256sum }}
        {{- end }}
        {{- if $files.tenants }}
        checksum/tenants: {{ $root.Values.tenants | sha256sum }}
        {{- end }}
        {{- if $files.prices }}
        checksum/prices: {{ $root.Values.priceBook | sha256sum }}
        {{- end }}
        {{- with $v.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      serviceAccountName: {{ include "headrace.serviceAccount" (dict "root" $root "name" $of) }}
      automountServiceAccountToken: {{ $discovers }}
      enableServiceLinks: false
      securityContext: {{- toYaml $root.Values.podSecurityContext | nindent 8 }}
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $v.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      # Time for draining, for the wait before it, and for closing connections.
      terminationGracePeriodSeconds: {{ add (ceil $v.drainSeconds | int) (int $v.preStopSeconds) 15 }}
      containers:
        - name: {{ $of }}
          image: {{ include "headrace.image" (dict "root" $root "name" $of "image" $v.image) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          securityContext: {{- toYaml $root.Values.securityContext | nindent 12 }}
          env: {{- include "headrace.env" . | nindent 12 }}
          ports:
            {{- if $t.api }}
            - {name: http, containerPort: 8080}
            {{- end }}
            - {name: ops, containerPort: 9100}
          # The ops server is the first part to start: a response means that the settings are valid and the event loop runs. An
          # outage of Kafka, the registry or Postgres makes the pod unready, but never gets it killed.
          startupProbe: {httpGet: {path: /healthz, port: ops}, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 60}
          livenessProbe: {httpGet: {path: /healthz, port: ops}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
          readinessProbe: {httpGet: {path: /readyz, port: ops}, periodSeconds: 3, timeoutSeconds: 3, failureThreshold: 2}
          {{- if $v.preStopSeconds }}
          lifecycle: {preStop: {sleep: {seconds: {{ int $v.preStopSeconds }}}}}
          {{- end }}
          resources: {{- toYaml $v.resources | nindent 12 }}
          volumeMounts: {{- include "headrace.mounts" $files | nindent 12 }}
      volumes: {{- include "headrace.volumes" $files | nindent 8 }}
      {{- with $v.spread.topologies }}
      topologySpreadConstraints:
        {{- range . }}
        - topologyKey: {{ . }}
          maxSkew: 1
          whenUnsatisfiable: {{ ternary "DoNotSchedule" "ScheduleAnyway" $v.spread.hard }}
          labelSelector:
            matchLabels: {{- $selector | nindent 14 }}
          {{- if eq $t.kind "Deployment" }}
          matchLabelKeys: [pod-template-hash]
          {{- end }}
        {{- end }}
      {{- end }}
      {{- with $v.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $v.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $v.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}
