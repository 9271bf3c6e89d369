// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/sample_sink.h"

#include "absl/strings/str_cat.h"
#include "agent/transfer/compression.h"
#include "agent/transfer/page_frame.h"
#include "base/clock.h"
#include "base/status.h"

namespace godwit::transfer {

absl::Status TakeSample(Stream& stream, const Hello& hello) {
  const absl::Time deadline = SteadyNow() + kMaxRehearsal;
  if (hello.from_node != stream.peer_node()) {
    const std::string message =
        absl::StrCat("the agent of node ", stream.peer_node(), " speaks as another node's");
    (void)stream.SendMessage(FrameType::kRefused, Reason{"PermissionDenied", message}, deadline);
    return absl::PermissionDeniedError(message);
  }
  GODWIT_RETURN_IF_ERROR(stream.SendMessage(FrameType::kHelloOk, HelloOk{}, deadline));
  Decompressor decompressor;
  Frame frame;
  for (int64_t bytes = 0;;) {
    const absl::Status received = stream.Receive(frame, deadline);
    if (absl::IsUnavailable(received)) return absl::OkStatus();
    GODWIT_RETURN_IF_ERROR(received);
    if (frame.type == FrameType::kRoundEnd) {
      GODWIT_ASSIGN_OR_RETURN(const Round round, DecodeMessage<Round>(frame));
      GODWIT_RETURN_IF_ERROR(stream.SendMessage(FrameType::kRoundOk, round, deadline));
      continue;
    }
    if (frame.type != FrameType::kPages)
      return absl::InvalidArgumentError(
          absl::StrCat("a ", FrameTypeName(frame.type), " frame in a rehearsal"));
    GODWIT_ASSIGN_OR_RETURN(const Pages pages, DecodePages(frame.payload));
    GODWIT_RETURN_IF_ERROR(decompressor.Decode(pages.encoding, pages.encoded, pages.content_bytes).status());
    bytes += static_cast<int64_t>(pages.content_bytes);
    if (bytes > kMaxSampleBytes) return absl::ResourceExhaustedError("a rehearsal that sends too much");
  }
}

}  // namespace godwit::transfer
