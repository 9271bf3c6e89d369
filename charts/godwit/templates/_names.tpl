{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* Labels of everything; argument: dict "root" $ "component" "agent". */}}
{{- define "godwit.labels" -}}
{{ include "godwit.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: godwit
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What selects pods: never changes. The controller finds agents by it. */}}
{{- define "godwit.selector" -}}
app.kubernetes.io/name: godwit
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* An image; argument: dict "root" $ "name" "godwit-agent" "digest" "sha256:...". */}}
{{- define "godwit.image" -}}
{{- $registry := required "image.registry is not set: where are the images godwit-controller and godwit-agent? (--set image.registry=registry.example.com/godwit)" .root.Values.image.registry -}}
{{- $image := printf "%s/%s" (trimSuffix "/" $registry) .name -}}
{{- if .digest -}}
{{ $image }}@{{ .digest }}
{{- else -}}
{{ $image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "godwit.controllerImage" -}}
{{ include "godwit.image" (dict "root" . "name" "godwit-controller" "digest" .Values.image.controllerDigest) }}
{{- end }}

{{- define "godwit.agentImage" -}}
{{ include "godwit.image" (dict "root" . "name" "godwit-agent" "digest" .Values.image.agentDigest) }}
{{- end }}

{{- define "godwit.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where images exist for; argument: the component's own affinity. */}}
{{- define "godwit.platforms" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: kubernetes.io/os, operator: In, values: [linux]}
          - {key: kubernetes.io/arch, operator: In, values: [amd64, arm64]}
{{- end }}

{{/* For containers that need nothing of the node. */}}
{{- define "godwit.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/*
For the containers that work on the host. Privileged, with all capabilities and without seccomp, as what they start on the host
(godwit-guard, and by it runc and CRIU; nft; the restart of containerd) has no more than they have: a capability dropped or a
system call forbidden here is missing there. Nothing is written into their own file systems. docs/security.md has the list.
*/}}
{{- define "godwit.onHost" -}}
privileged: true
readOnlyRootFilesystem: true
seccompProfile: {type: Unconfined}
{{- end }}

{{- define "godwit.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The same flags for install and uninstall: what one did the other must find. */}}
{{- define "godwit.installArgs" -}}
- --containerd_restart={{ .Values.containerd.restart }}
- --containerd_restart_command={{ .Values.containerd.restartCommand }}
- --containerd_config={{ .Values.containerd.config }}
- --containerd_drop_in_folder={{ .Values.containerd.dropInFolder }}
{{- end }}
