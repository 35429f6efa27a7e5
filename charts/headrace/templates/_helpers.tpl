{{/* Names */}}
{{- define "headrace.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods: of a component, or of the whole release. Takes (dict "root" $ "component" name). */}}
{{- define "headrace.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Largest record that the largest request leads to; see headrace_contracts.limits.record_bytes. */}}
{{- define "headrace.recordBytes" -}}
{{- add (mul 2 (int .Values.bodyLimitBytes)) 2097152 -}}
{{- end -}}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: headrace
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Pod labels hold no version, so that unchanged pods are not restarted. */}}
{{- define "headrace.podLabels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/part-of: headrace
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
What the services say of themselves. `topics` are what each reads as a member of the group called like it; `metric` is what
the names of its metrics begin with, where it is scaled by its outstanding work. The workers of a site are one more entry, `of`
the local worker: with its image, Kafka user and account, and names of their own for everything else.
*/}}
{{- define "headrace.traits" -}}
{{ .Files.Get "files/services.yaml" }}
{{- range .Values.localWorker.sites }}
localWorker/{{ .name }}:
  name: local-worker-{{ .name }}
  of: local-worker
  site: {{ .name }}
  group: local-worker.{{ .name }}
  kind: Deployment
  topics: [work.local.{{ .name }}.interactive, work.local.{{ .name }}.batch]
  metric: headrace_local_worker
{{- end }}
{{- end -}}

{{/* All sites, of workers here and elsewhere, as in HEADRACE_SITES. */}}
{{- define "headrace.sites" -}}
{{- $names := .Values.sites -}}
{{- range .Values.localWorker.sites }}{{ $names = append $names .name }}{{ end -}}
{{- uniq $names | join "," -}}
{{- end -}}

{{/* The values of a service over the defaults, those of a site over the local worker's. Takes (dict "root" $ "key" "router"). */}}
{{- define "headrace.values" -}}
{{- $parts := splitList "/" .key -}}
{{- $values := mergeOverwrite (deepCopy .root.Values.serviceDefaults) (deepCopy (index .root.Values (first $parts))) -}}
{{- range .root.Values.localWorker.sites -}}
{{- if eq .name (last $parts) -}}
{{- /* Nodes with fixed addresses are all that a site has, unless it says otherwise. */ -}}
{{- $values = mergeOverwrite $values (dict "enabled" true "discovery" (dict "enabled" (empty .nodes))) (deepCopy .) -}}
{{- end -}}
{{- end -}}
{{- $values | toYaml -}}
{{- end -}}

{{/* The values of a pool of Ollama nodes over the defaults. Takes (dict "root" $ "pool" name). */}}
{{- define "headrace.pool" -}}
{{- $own := index .root.Values.ollama.pools .pool | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.ollama.poolDefaults) (deepCopy $own) | toYaml -}}
{{- end -}}

{{- define "headrace.serviceAccount" -}}
{{- if .root.Values.serviceAccounts.create -}}{{ include "headrace.fullname" .root }}-{{ .name }}{{- else -}}default{{- end -}}
{{- end -}}

{{/* Image of a service. Takes (dict "root" $ "name" "router" "image" its values). */}}
{{- define "headrace.image" -}}
{{- $image := .root.Values.image -}}
{{- $parts := list -}}
{{- with $image.registry }}{{ $parts = append $parts . }}{{ end -}}
{{- with $image.repository }}{{ $parts = append $parts . }}{{ end -}}
{{- $repository := default (append $parts .name | join "/") .image.repository -}}
{{- if .image.digest -}}{{ $repository }}@{{ .image.digest }}
{{- else -}}{{ $repository }}:{{ .image.tag | default $image.tag | default .root.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* How pods are scaled: keda, hpa or none. */}}
{{- define "headrace.autoscaler" -}}
{{- $mode := .Values.autoscaling.mode -}}
{{- if ne $mode "auto" -}}{{ $mode }}
{{- else if .Capabilities.APIVersions.Has "keda.sh/v1alpha1" -}}keda
{{- else -}}hpa{{- end -}}
{{- end -}}

{{/* Partitions of the task group, and thus the most active routers. */}}
{{- define "headrace.taskPartitions" -}}
{{- $shipped := 0 -}}
{{- range (.Files.Get "files/topics.yaml" | fromYaml).topics }}{{ if eq .name "tasks.submitted" }}{{ $shipped = int .partitions }}{{ end }}{{ end -}}
{{- int (.Values.topics.partitions.tasks | default $shipped) -}}
{{- end -}}
