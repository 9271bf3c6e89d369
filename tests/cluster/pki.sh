# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# The cluster's certificates and kubeconfigs, in $STATE/pki. Source it after lib.sh. Everything is made once and kept.

new_key() { [ -s "$1" ] || openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

# certificate NAME SUBJECT ALTERNATIVE-NAMES: NAME.key and NAME.crt, for servers and clients alike, signed by our CA.
certificate() {
  local name=$1
  [ ! -s "$name.crt" ] || return 0
  new_key "$name.key"
  openssl req -new -key "$name.key" -subj "$2" -out "$name.csr"
  openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$name.crt" \
    -extfile <(printf '%s\n' "subjectAltName=$3" basicConstraints=CA:FALSE keyUsage=critical,digitalSignature \
      extendedKeyUsage=serverAuth,clientAuth subjectKeyIdentifier=hash authorityKeyIdentifier=keyid) 2>/dev/null
  rm "$name.csr"
}

# kubeconfig FILE NAME SERVER: with the certificate NAME inside, so that the file can be carried anywhere.
kubeconfig() {
  cat >"$1" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: godwit-test
  cluster: {server: "$3", certificate-authority-data: $(base64 -w0 ca.crt)}
users:
- name: $2
  user: {client-certificate-data: $(base64 -w0 "$2.crt"), client-key-data: $(base64 -w0 "$2.key")}
contexts:
- name: godwit-test
  context: {cluster: godwit-test, user: $2}
current-context: godwit-test
YAML
}

control_plane_certificates() {
  mkdir -p "$STATE/pki"; cd "$STATE/pki"
  new_key ca.key
  [ -s ca.crt ] || openssl req -x509 -new -key ca.key -days 365 -subj /CN=godwit-test-cluster \
    -addext keyUsage=critical,keyCertSign,cRLSign -out ca.crt
  new_key service-account.key
  openssl ec -in service-account.key -pubout -out service-account.pub 2>/dev/null
  certificate apiserver /CN=kube-apiserver \
    "IP:$CONTROL_PLANE,IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  certificate admin /O=system:masters/CN=admin DNS:admin
  certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client DNS:kubelet-client
  certificate controller-manager /CN=system:kube-controller-manager DNS:controller-manager
  certificate scheduler /CN=system:kube-scheduler DNS:scheduler
  certificate kube-proxy /CN=system:kube-proxy DNS:kube-proxy
}

# worker_certificate NAME: the kubelet's, as server and as client.
worker_certificate() { (cd "$STATE/pki"; certificate "$1" "/O=system:nodes/CN=system:node:$1" "DNS:$1,IP:$(address_of "$1")"); }
