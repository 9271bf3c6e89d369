# SPDX-License-Identifier: Apache-2.0
# For people with Docker: the same images as `make image` makes, by the same scripts. Builds on amd64, for amd64 and arm64:
#   docker build --target controller -t godwit-controller .
#   docker build --target agent --build-arg ARCH=arm64 --platform linux/arm64 -t godwit-agent .
FROM --platform=linux/amd64 debian:trixie AS build
ARG ARCH=amd64
# This machine is the Debian 13 root itself: the scripts make none.
ENV GODWIT_IN_PLACE=1
WORKDIR /godwit
COPY scripts scripts
RUN apt-get update && apt-get install -y --no-install-recommends $(scripts/debian-root.sh packages) debootstrap
COPY . .

FROM build AS build-controller
RUN scripts/stage-image "$ARCH" controller /stage

FROM build AS build-agent
RUN scripts/stage-image "$ARCH" agent /stage

FROM scratch AS controller
COPY --from=build-controller /stage/1-libraries/ /
COPY --from=build-controller /stage/2-programs/ /
USER 65532:65532
ENTRYPOINT ["/usr/bin/godwit-controller"]

FROM scratch AS agent
COPY --from=build-agent /stage/1-libraries/ /
COPY --from=build-agent /stage/2-programs/ /
ENTRYPOINT ["/usr/bin/godwit-agent"]
