// SPDX-License-Identifier: Apache-2.0
#include "agent/tls/identity.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::tls {
namespace {

constexpr absl::Duration kLookEvery = absl::Seconds(1);

using FilePointer = std::unique_ptr<std::FILE, Deleter<std::fclose>>;

absl::StatusOr<FilePointer> OpenPem(const std::string& path) {
  FilePointer file(std::fopen(path.c_str(), "re"));
  if (file == nullptr) return ErrnoStatus(absl::StrCat("cannot read ", path));
  return file;
}

// All certificates of a PEM file, other blocks skipped.
absl::StatusOr<std::vector<CertificatePointer>> ReadCertificates(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(FilePointer file, OpenPem(path));
  std::vector<CertificatePointer> certificates;
  while (X509* certificate = PEM_read_X509(file.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(certificate);
  }
  const unsigned long code = ERR_peek_last_error();  // the end of the file is an error too
  const bool damaged = ERR_GET_REASON(code) != PEM_R_NO_START_LINE;
  const std::string errors = OpenSslErrors();
  if (damaged)
    return absl::DataLossError(absl::StrCat("cannot read the certificates in ", path, ": ", errors));
  if (certificates.empty()) return absl::NotFoundError(absl::StrCat("no certificate in ", path));
  return certificates;
}

absl::StatusOr<KeyPointer> ReadKey(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(FilePointer file, OpenPem(path));
  KeyPointer key(PEM_read_PrivateKey(file.get(), nullptr, nullptr, nullptr));
  if (key == nullptr)
    return absl::DataLossError(absl::StrCat("no usable private key in ", path, ": ", OpenSslErrors()));
  return key;
}

absl::Time NotAfter(const X509* certificate) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

absl::StatusOr<ContextPointer> NewContext(const SSL_METHOD* method) {
  ContextPointer context(SSL_CTX_new(method));
  if (context == nullptr)
    return absl::InternalError(absl::StrCat("cannot make a TLS context: ", OpenSslErrors()));
  return context;
}

void SetRules(SSL_CTX* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 0);  // every connection proves itself anew
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Identity>> Identity::Load(const IdentityFiles& files) {
  std::unique_ptr<Identity> identity(new Identity(files));
  GODWIT_ASSIGN_OR_RETURN(std::shared_ptr<const Material> material, identity->Read());
  absl::MutexLock lock(&identity->mutex_);
  identity->material_ = std::move(material);
  identity->looked_ = absl::Now();
  return identity;
}

std::string Identity::Stamp() const {
  std::string stamp;
  for (const std::string& path : {files_.certificate_and_key, files_.authority}) {
    struct stat info{};
    if (stat(path.c_str(), &info) != 0) return "";
    absl::StrAppend(&stamp, info.st_dev, ":", info.st_ino, ":", info.st_size, ":", info.st_mtim.tv_sec, ".",
                    info.st_mtim.tv_nsec, " ");
  }
  return stamp;
}

absl::StatusOr<std::shared_ptr<const Identity::Material>> Identity::Read() const {
  auto material = std::make_shared<Material>();
  material->stamp = Stamp();  // before reading: a change in between is seen as a change the next time
  GODWIT_ASSIGN_OR_RETURN(material->key, ReadKey(files_.certificate_and_key));
  GODWIT_ASSIGN_OR_RETURN(material->chain, ReadCertificates(files_.certificate_and_key));
  material->certificate = std::move(material->chain.front());
  material->chain.erase(material->chain.begin());
  if (X509_check_private_key(material->certificate.get(), material->key.get()) != 1) {
    ERR_clear_error();
    return absl::FailedPreconditionError(
        absl::StrCat("the certificate in ", files_.certificate_and_key, " does not belong to the key there"));
  }
  GODWIT_ASSIGN_OR_RETURN(std::vector<CertificatePointer> authorities, ReadCertificates(files_.authority));
  material->authority.reset(X509_STORE_new());
  for (const CertificatePointer& authority : authorities) {
    X509_STORE_add_cert(material->authority.get(), authority.get());  // takes a reference
  }
  material->not_after = NotAfter(material->certificate.get());
  return material;
}

absl::Status Identity::ReloadIfChanged() {
  absl::MutexLock lock(&mutex_);
  looked_ = absl::Now();
  const std::string stamp = Stamp();
  if (material_ != nullptr && stamp == material_->stamp) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<const Material>> material = Read();
  if (!material.ok()) return Annotate(material.status(), "keeping the old certificate");
  material_ = *std::move(material);
  LOG(INFO) << Log("certificates read anew").With("not_after", material_->not_after);
  return absl::OkStatus();
}

std::shared_ptr<const Identity::Material> Identity::Newest() {
  {
    absl::MutexLock lock(&mutex_);
    if (absl::Now() - looked_ < kLookEvery) return material_;
  }
  if (absl::Status status = ReloadIfChanged(); !status.ok()) {
    LOG(WARNING) << Log("certificates not read anew").With(status);
  }
  absl::MutexLock lock(&mutex_);
  return material_;
}

absl::Time Identity::not_after() { return Newest()->not_after; }

// A list that borrows the certificates.
STACK_OF(X509) * Identity::ChainOf(const Material& material) {
  STACK_OF(X509)* chain = sk_X509_new_null();
  for (const CertificatePointer& certificate : material.chain) sk_X509_push(chain, certificate.get());
  return chain;
}

absl::Status Identity::Use(const Material& material, SSL* ssl) {
  STACK_OF(X509)* chain = ChainOf(material);
  const bool used =
      SSL_use_cert_and_key(ssl, material.certificate.get(), material.key.get(), chain, /*override=*/1) == 1 &&
      SSL_set1_verify_cert_store(ssl, material.authority.get()) == 1;
  sk_X509_free(chain);
  return used ? absl::OkStatus()
              : absl::InternalError(absl::StrCat("cannot use the certificate: ", OpenSslErrors()));
}

int Identity::OnHandshake(SSL* ssl, void* self) {
  const absl::Status status = Use(*static_cast<Identity*>(self)->Newest(), ssl);
  if (!status.ok()) LOG(ERROR) << Log("TLS handshake refused").With(status);
  return status.ok() ? 1 : 0;
}

absl::Status Identity::SetUpServer(SSL_CTX* context) {
  SetRules(context);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_cb(context, &Identity::OnHandshake, this);
  return absl::OkStatus();
}

absl::StatusOr<ContextPointer> Identity::ServerContext() {
  GODWIT_ASSIGN_OR_RETURN(ContextPointer context, NewContext(TLS_server_method()));
  GODWIT_RETURN_IF_ERROR(SetUpServer(context.get()));
  return context;
}

absl::StatusOr<ContextPointer> Identity::ClientContext() {
  GODWIT_ASSIGN_OR_RETURN(ContextPointer context, NewContext(TLS_client_method()));
  SetRules(context.get());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  // Not by callback as a server does: a client is asked for its certificate only after it has checked the
  // server's.
  const std::shared_ptr<const Material> material = Newest();
  STACK_OF(X509)* chain = ChainOf(*material);
  const bool used =
      SSL_CTX_use_cert_and_key(context.get(), material->certificate.get(), material->key.get(), chain,
                               /*override=*/1) == 1;
  sk_X509_free(chain);
  SSL_CTX_set1_cert_store(context.get(), material->authority.get());
  if (!used) return absl::InternalError(absl::StrCat("cannot use the certificate: ", OpenSslErrors()));
  return context;
}

}  // namespace godwit::tls
