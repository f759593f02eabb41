{{/* The chart's name, as far as a label has room. */}}
{{- define "inferbench.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of every object: the release's, with the chart's where the release is not called after it. */}}
{{- define "inferbench.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "inferbench.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "inferbench.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "inferbench.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* What a Deployment selects its pods by. It must never change, so no version stands in it. */}}
{{- define "inferbench.selectorLabels" -}}
app.kubernetes.io/name: {{ include "inferbench.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "inferbench.labels" -}}
{{ include "inferbench.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{/* An image by digest where one is given, else by tag; nothing without a repository. Takes {image, version}. */}}
{{- define "inferbench.image" -}}
{{- with .image }}
{{- if and .repository .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else if .repository }}
{{- printf "%s:%s" .repository (.tag | default $.version) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A setting as the operator reads it: text as it is, anything else as JSON (200000, and not 2e+05). */}}
{{- define "inferbench.setting" -}}
{{- kindIs "string" . | ternary . (toJson .) | quote }}
{{- end }}

{{/* All that the operator may do with objects of others, and nothing else. docs/security.md says what for. */}}
{{- define "inferbench.rules" -}}
- apiGroups: [inferbench.dev]
  resources: [inferencebenchmarks]
  verbs: [list, watch, delete]
- apiGroups: [inferbench.dev]
  resources: [inferencebenchmarks/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end }}
