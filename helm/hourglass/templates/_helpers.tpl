{{- define "hourglass.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* 54 characters at most: "-headless" still fits a DNS label. */}}
{{- define "hourglass.fullname" -}}
{{- $name := include "hourglass.name" . }}
{{- $release := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $release | trunc 54 | trimSuffix "-" }}
{{- end }}

{{- /* What tells this release's pods from all others. A Deployment's selector can never change. */}}
{{- define "hourglass.selectorLabels" -}}
app.kubernetes.io/name: {{ include "hourglass.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "hourglass.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "hourglass.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: server
app.kubernetes.io/part-of: hourglass
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "hourglass.image" -}}
{{- $default := printf "%s%s" .Chart.AppVersion (ternary "-gpu" "" .Values.gpu.enabled) }}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $default) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The settings of hourglass-serve, as environment variables: `server.maxBatchRows` is HOURGLASS_MAX_BATCH_ROWS. */}}
{{- define "hourglass.settings" -}}
HOURGLASS_EXPORTED: /models
HOURGLASS_HOST: 0.0.0.0
HOURGLASS_GRPC_PORT: "8001"
HOURGLASS_METRICS_PORT: "8002"
HOURGLASS_DEVICE: {{ ternary "cuda" "cpu" .Values.gpu.enabled }}
{{- range $key, $value := .Values.server }}
HOURGLASS_{{ $key | snakecase | upper }}: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}

{{- /* After the drain the server gives calls up to 10 s to end; 15 s more are for a busy node. */}}
{{- define "hourglass.gracePeriod" -}}
{{- add .Values.server.drainSeconds 10 15 }}
{{- end }}

{{- /* What a schema cannot say. */}}
{{- define "hourglass.validate" -}}
{{- if not .Values.models.volume }}
{{- fail "models.volume is empty: name the volume that holds the published models, for example --set models.volume.persistentVolumeClaim.claimName=models" }}
{{- end }}
{{- with .Values.server }}
{{- /* drain > 1.1 x age, in whole numbers: grpc adds up to 10 % to each connection's age. */}}
{{- if le (mul 10 .drainSeconds) (mul 11 .maxConnectionAgeSeconds) }}
{{- fail (printf "server.drainSeconds (%v) must be more than 1.1 x server.maxConnectionAgeSeconds (%v): clients behind the Service would still be connected when the server stops" .drainSeconds .maxConnectionAgeSeconds) }}
{{- end }}
{{- if lt (int64 .maxQueueRows) (int64 .maxBatchRows) }}
{{- fail (printf "server.maxQueueRows (%v) is smaller than server.maxBatchRows (%v): no full request could wait" .maxQueueRows .maxBatchRows) }}
{{- end }}
{{- end }}
{{- $settings := include "hourglass.settings" . | fromYaml }}
{{- range .Values.extraEnv }}
{{- if hasKey $settings .name }}
{{- fail (printf "extraEnv: the chart itself sets %s; use the values under server or gpu" .name) }}
{{- end }}
{{- end }}
{{- end }}
