{{- /* The helpers take (dict "root" $ "part" "runner" or "retriever"). */ -}}

{{- define "name" -}}
{{ printf "%s-%s" (trunc 50 .root.Release.Name | trimSuffix "-") .part }}
{{- end }}

{{- define "selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- /* The options: what the chart knows, and the values' over that. */ -}}
{{- define "config" -}}
{{- $v := index .root.Values .part }}
{{- $known := dict }}
{{- if eq .part "runner" }}
{{- $_ := set $known "listen" ":8080" }}
{{- $_ := set $known "bundle" (printf "/bundle/%s" $v.bundle.path) }}
{{- if .root.Values.retriever.enabled }}
{{- $_ := set $known "retriever" (printf "http://%s:%v" (include "name" (dict "root" .root "part" "retriever")) .root.Values.retriever.service.port) }}
{{- end }}
{{- if $v.gpu }}{{- $_ := set $known "ort" (dict "provider" "cuda") }}{{- end }}
{{- else }}
{{- $_ := set $known "listen" ":8081" }}
{{- $_ := set $known "data" "/data" }}
{{- $_ := set $known "runners" (list (printf "http://%s:%v" (include "name" (dict "root" .root "part" "runner")) .root.Values.runner.service.port)) }}
{{- if $v.sources.claim }}{{- $_ := set $known "source_root" "/sources" }}{{- end }}
{{- if $v.gpu }}{{- $_ := set $known "device" "cuda" }}{{- end }}
{{- end }}
{{- toYaml (mergeOverwrite $known (deepCopy $v.config)) }}
{{- end }}

{{- define "secretName" -}}
{{- $v := index .root.Values .part }}
{{- if $v.existingSecret }}{{ $v.existingSecret }}{{ else if $v.secret }}{{ include "name" . }}{{ end }}
{{- end }}

{{- /* The pod's fields that both parts share. */ -}}
{{- define "pod" -}}
{{- $v := index .root.Values .part -}}
automountServiceAccountToken: false
enableServiceLinks: false # RUNNER_PORT and the like would look like options
terminationGracePeriodSeconds: {{ $v.graceSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with index $v $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The container's fields that both parts share; a list item without its mounts. */ -}}
{{- define "container" -}}
{{- $v := index .root.Values .part -}}
name: {{ .part }}
image: "{{ .root.Values.image.repository }}/{{ .part }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [serve, --config, /etc/imagebind/{{ .part }}.yaml]
env:
  - {name: HOME, value: /tmp}
{{- with include "secretName" . }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
ports:
  - {name: http, containerPort: {{ ternary 8080 8081 (eq .part "runner") }}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 5
  failureThreshold: {{ max 1 (div (int $v.startSeconds) 5) }}
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
resources:
  requests: {{- toYaml $v.resources.requests | nindent 4 }}
  limits:
    {{- toYaml $v.resources.limits | nindent 4 }}
    {{- if $v.gpu }}
    nvidia.com/gpu: {{ $v.gpu }}
    {{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
