{{- define "wisp.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "wisp.selector" -}}
app.kubernetes.io/name: wisp
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "wisp.labels" -}}
{{ include "wisp.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "wisp.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* What the chart decides itself wins over `config`. */ -}}
{{- define "wisp.settings" -}}
{{- $engine := dict "kind" (ternary "vllm" "torch" (gt (int .Values.gpus) 0)) -}}
{{- if gt (int .Values.gpus) 1 -}}
{{- $_ := set $engine "options" (dict "tensor_parallel_size" (int .Values.gpus)) -}}
{{- end -}}
{{- $tls := dict "cert" "/etc/wisp/tls/tls.crt" "key" "/etc/wisp/tls/tls.key" -}}
{{- if .Values.tls.clientCa -}}
{{- $_ := set $tls "client_ca" "/etc/wisp/tls/ca.crt" -}}
{{- end -}}
{{- $own := dict
  "target" .Values.model.path
  "http" (dict "host" "0.0.0.0" "port" 8000)
  "grpc" (dict "host" "0.0.0.0" "port" 8001)
  "admin" (dict "host" "0.0.0.0" "port" 9000)
  "tls" $tls
  "drain_s" .Values.drainSeconds
  "estimator" (dict "state_dir" "/var/lib/wisp")
-}}
{{- if .Values.keys.secret -}}
{{- $_ := set $own "keys" "/etc/wisp/keys/keys.yaml" -}}
{{- end -}}
{{- toYaml (mergeOverwrite (dict "engine" $engine) (deepCopy .Values.config) $own) -}}
{{- end -}}
