{{- define "bridge.name" -}}
app.kubernetes.io/name: gumlet-kafka-bridge
{{- end }}
{{- define "bridge.labels" -}}
app.kubernetes.io/name: gumlet-kafka-bridge
app.kubernetes.io/part-of: gumlet-kafka-bridge
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "bridge.clients" -}}
podSelector:
  matchExpressions:
    - {key: app.kubernetes.io/part-of, operator: In, values: [gumlet-kafka-bridge]}
{{- end }}
