# syntax=docker/dockerfile:1
# Four images: docker build --target server-vllm (or server-cpu, edge, edge-llama) -t wisp-server .
# For arm64, all but server-vllm: docker buildx build --platform linux/arm64 --target edge-llama .
# Base images are named by tag; where builds must repeat give digests: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY . .
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir build==1.3.0 setuptools==80.9.0
RUN /opt/build/bin/python -m build --wheel --no-isolation --outdir /dist .

# Everything but torch, whose builds for the CPU have an index of their own.
FROM ${PYTHON_IMAGE} AS cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt constraints-image.txt /src/
COPY --from=wheel /dist /dist
RUN python -m venv /opt/wisp
RUN /opt/wisp/bin/pip install --no-cache-dir --require-hashes --no-deps -r /src/constraints-image.txt
RUN /opt/wisp/bin/pip install --no-cache-dir --no-deps /dist/*.whl
RUN /opt/wisp/bin/pip install --no-cache-dir --extra-index-url ${TORCH_INDEX} -c /src/constraints.txt torch
RUN /opt/wisp/bin/python -m compileall -q /opt/wisp/lib

# For edges that draft GGUF files: llama.cpp in place of torch, built from source for any processor.
FROM ${PYTHON_IMAGE} AS llama
# What the processors of the fleet have, e.g. -DGGML_AVX2=ON, or -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod for a Raspberry Pi 5.
ARG LLAMA_FLAGS=""
COPY constraints.txt constraints-image.txt /src/
COPY --from=wheel /dist /dist
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/wisp
RUN /opt/wisp/bin/pip install --no-cache-dir --require-hashes --no-deps -r /src/constraints-image.txt
RUN /opt/wisp/bin/pip install --no-cache-dir --no-deps /dist/*.whl
RUN CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF ${LLAMA_FLAGS}" /opt/wisp/bin/pip install --no-cache-dir -c /src/constraints.txt llama-cpp-python gguf
RUN /opt/wisp/bin/python -m compileall -q /opt/wisp/lib

# The ports open when the target is loaded: TLS or not, that a connection is taken says that it serves.
FROM ${PYTHON_IMAGE} AS run
LABEL org.opencontainers.image.title="WISP" \
      org.opencontainers.image.description="Distributed speculative serving of large language models" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin wisp
ENV PATH=/opt/wisp/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
USER 10001:10001
STOPSIGNAL SIGTERM

FROM run AS server-cpu
COPY --from=cpu /opt/wisp /opt/wisp
EXPOSE 8000 8001
HEALTHCHECK --start-period=120s --interval=10s CMD ["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000), 3)"]
ENTRYPOINT ["wisp-server"]

FROM run AS edge
COPY --from=cpu /opt/wisp /opt/wisp
EXPOSE 8010
HEALTHCHECK --start-period=120s --interval=10s CMD ["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8010), 3)"]
ENTRYPOINT ["wisp-edge"]

FROM run AS edge-llama
# libgomp, which llama.cpp was built with.
USER root
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=llama /opt/wisp /opt/wisp
EXPOSE 8010
HEALTHCHECK --start-period=120s --interval=10s CMD ["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8010), 3)"]
ENTRYPOINT ["wisp-edge"]

# vLLM, its torch and CUDA are the base image's own; what WISP needs beside them comes on top.
FROM ${VLLM_IMAGE} AS server-vllm
LABEL org.opencontainers.image.title="WISP server" \
      org.opencontainers.image.description="Verifies the drafts of many edges, on vLLM" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=wheel /dist /dist
RUN python3 -m pip freeze | grep -iE "^(torch|vllm|transformers|numpy)==" > /tmp/keep.txt && python3 -m pip install --no-cache-dir -c /tmp/keep.txt /dist/*.whl && rm -r /dist /tmp/keep.txt
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin wisp
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
USER 10001:10001
STOPSIGNAL SIGTERM
EXPOSE 8000 8001
HEALTHCHECK --start-period=1800s --interval=10s CMD ["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000), 3)"]
ENTRYPOINT ["wisp-server"]
CMD ["--engine.kind", "vllm"]
