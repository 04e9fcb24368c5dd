{{- define "kpod-metrics.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "kpod-metrics.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "kpod-metrics.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "kpod-metrics.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "kpod-metrics.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kpod-metrics.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kpod-metrics.labels" -}}
{{ include "kpod-metrics.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "kpod-metrics.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "kpod-metrics.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "kpod-metrics.priorityClassName" -}}
{{- if .Values.priorityClass.create }}
{{- default (include "kpod-metrics.fullname" .) .Values.priorityClass.name }}
{{- else }}
{{- .Values.priorityClass.name }}
{{- end }}
{{- end }}

{{/* dict "image" one of .Values.image, "root" $ */}}
{{- define "kpod-metrics.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* Options as arguments. A list is joined with commas; of an option that is given several times,
each is an argument of its own. A number is JSON: %v would write 3.3e+07. */}}
{{- define "kpod-metrics.args" -}}
{{- range $name, $value := . }}
{{- if kindIs "invalid" $value }}
{{- else if kindIs "bool" $value }}
{{- if $value }}
- --{{ $name }}
{{- end }}
{{- else if kindIs "slice" $value }}
{{- if eq $name "histogram" }}
{{- range $value }}
- {{ printf "--%s=%s" $name . | quote }}
{{- end }}
{{- else if $value }}
- {{ printf "--%s=%s" $name (join "," $value) | quote }}
{{- end }}
{{- else if kindIs "string" $value }}
- {{ printf "--%s=%s" $name $value | quote }}
{{- else }}
- {{ printf "--%s=%s" $name (toJson $value) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where the pods' names come from: api, kubelet or none. */}}
{{- define "kpod-metrics.pods" -}}
{{- $pods := index .Values.aggregator.options "pods" | default "auto" -}}
{{- ternary "api" $pods (eq $pods "auto") -}}
{{- end }}

{{/* The loader's capabilities: docs/privileges.md says what each is for. */}}
{{- define "kpod-metrics.capabilities" -}}
{{- $options := .Values.loader.options -}}
- BPF
- PERFMON
{{- $overhead := index $options "max-overhead" }}
{{- if or (kindIs "invalid" $overhead) (ne (float64 $overhead) 0.0) }}
- SYS_ADMIN
{{- end }}
{{- $collectors := index $options "collectors" }}
{{- $filesystem := ne (index $options "profile" | default "standard") "minimal" }}
{{- $requests := $filesystem }}
{{- if $collectors }}
{{- $filesystem = has "filesystem" $collectors }}
{{- $requests = or (has "dns" $collectors) (has "l7" $collectors) }}
{{- end }}
{{- if $requests }}
- NET_ADMIN
{{- end }}
{{- if $filesystem }}
- SYS_PTRACE
- DAC_READ_SEARCH
{{- end }}
{{- end }}

{{/* A ring that grew stays until the last reader has left it: two of the largest. */}}
{{- define "kpod-metrics.segmentSize" -}}
{{- $max := int64 (index .Values.loader.options "ring-max" | default 268435456) -}}
{{ add (div (mul 2 $max) 1048576) 1 }}Mi
{{- end }}

{{- define "kpod-metrics.scheme" -}}
{{- ternary "HTTPS" "HTTP" .Values.aggregator.webConfig.tls -}}
{{- end }}

{{- define "kpod-metrics.otlpSecret" -}}
{{- .Values.aggregator.otlp.existingSecret | default (printf "%s-otlp" (include "kpod-metrics.fullname" .)) -}}
{{- end }}

{{/* dict "enabled" auto or a boolean, "root" $: "true" or nothing */}}
{{- define "kpod-metrics.operator" -}}
{{- if eq (toString .enabled) "auto" -}}
{{- if .root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}true{{- end -}}
{{- else if .enabled -}}true{{- end -}}
{{- end }}

{{/* dict "monitor" .Values.podMonitor or .serviceMonitor, "root" $: an endpoint of it. honorLabels:
the series have namespace, pod, container and node of what they are about, not of the agent. */}}
{{- define "kpod-metrics.endpoint" -}}
- port: metrics
  path: /metrics
  scheme: {{ include "kpod-metrics.scheme" .root | lower }}
  honorLabels: true
  interval: {{ .monitor.interval }}
  {{- with .monitor.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  relabelings:
    # The agent's own series (up, kpod_loader_up, …) are told apart by node.
    - sourceLabels: [__meta_kubernetes_pod_node_name]
      targetLabel: node
    - sourceLabels: [__meta_kubernetes_pod_node_name]
      targetLabel: instance
    # Of the agent's pod: series of the host would be taken for its own.
    - action: labeldrop
      regex: namespace|pod|container|endpoint|service
    {{- with .monitor.relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .monitor.endpoint }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
