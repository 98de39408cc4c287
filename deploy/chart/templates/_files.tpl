{{- /* ConfigMaps of files: one whose content changes has another name, so that pods which use it are replaced. */ -}}
{{- define "files" -}}
{{- $data := dict }}
{{- range .paths }}{{ $_ := set $data (base .) ($.files.Get .) }}{{ end }}
{{- dict "name" (printf "%s-%s" .name (toJson $data | sha256sum | trunc 10)) "data" $data | toYaml }}
{{- end }}

{{- define "files.server" -}}
{{- $paths := list "infer_probe.py" "start-triton.sh" }}
{{- include "files" (dict "name" "triton-scripts" "paths" $paths "files" .Files) }}
{{- end }}

{{- define "files.repository" -}}
{{- $paths := list "components/repository-init/fetch_repository.py" }}
{{- include "files" (dict "name" "repository-scripts" "paths" $paths "files" .Files) }}
{{- end }}

{{- define "files.dashboards" -}}
{{- $paths := list "watch/grafana/dashboards/triton-server.json" "watch/grafana/dashboards/plansmith-client.json" }}
{{- include "files" (dict "name" "triton-dashboards" "paths" $paths "files" .Files) }}
{{- end }}
