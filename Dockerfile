# The images of inferbench, for any builder:
#
#   docker build --target operator    -t inferbench-operator .
#   docker build --target runner      -t inferbench-runner .         torch, ONNX Runtime and their CUDA libraries: 7 GB
#   docker build --target runner-slim -t inferbench-runner:slim .    ONNX files on CPUs, and the fake backend: 0.6 GB
#
# VERSION and REVISION are for the labels: --build-arg VERSION=0.1.0 --build-arg REVISION=$(git rev-parse HEAD).
# BASE is any Debian or Ubuntu with Python 3.11 or newer as `python3`. Everything of Python's comes from locks/ with its
# hash. Behind a proxy with a certificate of its own, mount its bundle over /etc/ssl/certs: uv is told to read it.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS base
# Modules come from where they were installed, never from the folder that a process happens to start in. Nothing is
# written at run time: the pods' root is read-only, and only HOME, which is a volume there, can be written to.
ENV VIRTUAL_ENV=/opt/inferbench PATH=/opt/inferbench/bin:$PATH HOME=/tmp \
    PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# For uv, which installs into VIRTUAL_ENV and is in no image.
ENV UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy UV_HTTP_TIMEOUT=180
# torch asks for the user's name, so the user is in the file of users.
RUN echo 'inferbench:x:65532:' >>/etc/group \
 && echo 'inferbench:x:65532:65532:inferbench:/tmp:/usr/sbin/nologin' >>/etc/passwd \
 && python3 -m venv --without-pip /opt/inferbench
LABEL org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /tmp

# What builds and installs, and is in no image: uv, from its lock.
FROM base AS tools
RUN python3 -c 'import ensurepip' 2>/dev/null && [ -s /etc/ssl/certs/ca-certificates.crt ] || { apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends ca-certificates python3-venv && rm -rf /var/lib/apt/lists/*; }
COPY locks/uv.txt /build/locks/
RUN python3 -m venv /opt/uv \
 && /opt/uv/bin/pip install --quiet --no-cache-dir --require-hashes -r /build/locks/uv.txt
# Behind the last RUN: buildah 1.28 finds nothing of a stage that it has in its cache and that ends with one.
WORKDIR /build

# inferbench itself, without what it needs. It changes most often, so it is the last and smallest layer of every image.
FROM tools AS program
COPY locks/dev.txt locks/
COPY pyproject.toml README.md LICENSE ./
COPY contract contract
COPY operator operator
COPY runner runner
COPY cli cli
RUN --mount=type=cache,target=/tmp/.cache/uv \
    /opt/uv/bin/uv build --quiet --wheel --build-constraints locks/dev.txt --require-hashes --out-dir dist \
 && /opt/uv/bin/uv pip install --quiet --no-deps --compile-bytecode dist/*.whl

# The operator: talks to Kubernetes, measures nothing, has no torch.
FROM base AS operator
COPY locks/operator.txt /opt/inferbench/lock.txt
# The generated classes of the Kubernetes client are left uncompiled: the operator speaks plain JSON and imports none.
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv --mount=type=cache,target=/tmp/.cache/uv \
    /opt/uv/bin/uv pip install --quiet --require-hashes -r /opt/inferbench/lock.txt \
 && python -m compileall -q -j 0 -x '/kubernetes/(aio/)?client/(api|models)/' /opt/inferbench/lib
COPY --from=program /opt/inferbench/bin/inferbench-operator /opt/inferbench/bin/
COPY --from=program /opt/inferbench/lib /opt/inferbench/lib
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="inferbench operator" \
      org.opencontainers.image.description="Runs InferenceBenchmark resources on a cluster and writes their answers into their status" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["inferbench-operator"]

# What both runners share: a folder for the cache that a bare `docker run` can write to; in pods a volume lies over it.
FROM base AS runner-base
RUN install -d -o 65532 -g 65532 /var/cache/inferbench
ENV INFERBENCH_CACHE=/var/cache/inferbench

# The runner for ONNX files on CPUs and for the fake backend: no torch, no compiler.
FROM runner-base AS runner-slim
COPY locks/runner-slim.txt /opt/inferbench/lock.txt
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv --mount=type=cache,target=/tmp/.cache/uv \
    /opt/uv/bin/uv pip install --quiet --compile-bytecode --require-hashes -r /opt/inferbench/lock.txt
COPY --from=program /opt/inferbench/bin/inferbench /opt/inferbench/bin/inferbench-runner /opt/inferbench/bin/
COPY --from=program /opt/inferbench/lib /opt/inferbench/lib
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="inferbench runner, slim" \
      org.opencontainers.image.description="Measures ONNX models on CPUs: one pod, one sweep" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["inferbench-runner"]

# The runner: every backend whose libraries may be passed on, and the compilers that inductor and Triton start when a
# model is compiled: g++, and Python's headers, which images of Python have and Debian keeps apart.
FROM runner-base AS runner
RUN apt-get update -qq \
 && headers="$(python3 -c 'import os, sysconfig; print(sysconfig.get_path("include") + "/Python.h")')" \
 && { [ -e "$headers" ] || headers_package=python3-dev; } \
 && apt-get install -qq -y --no-install-recommends g++ ${headers_package:-} \
 && rm -rf /var/lib/apt/lists/*
COPY locks/runner.txt /opt/inferbench/lock.txt
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv --mount=type=cache,target=/tmp/.cache/uv \
    /opt/uv/bin/uv pip install --quiet --compile-bytecode --require-hashes -r /opt/inferbench/lock.txt
COPY --from=program /opt/inferbench/bin/inferbench /opt/inferbench/bin/inferbench-runner /opt/inferbench/bin/
COPY --from=program /opt/inferbench/lib /opt/inferbench/lib
# The driver's libraries that NVIDIA's container runtime puts in: CUDA's, and NVML's, which reads clocks and heat. Which
# GPUs a container gets is the device plugin's to say: NVIDIA_VISIBLE_DEVICES set here would give every pod all of them.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="inferbench runner" \
      org.opencontainers.image.description="Measures models on NVIDIA GPUs and CPUs: one pod, one sweep" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["inferbench-runner"]
