# The service in an image: docs/deploy.md says how to build, run and check it.
#
#   docker build .                  serves, and nothing else
#   docker build --target demo .    the same, and carries the demo's chunks
#   docker build --target full .    trains and embeds, too

# Any Debian or Ubuntu based image with `python` 3.11, its venv module and libstdc++.
ARG BASE_IMAGE=python:3.11-slim

# pip lives in a venv of its own, so that the one which is shipped never contains it.
FROM ${BASE_IMAGE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_NO_DEPS=1 \
    PIP_ONLY_BINARY=:all:
WORKDIR /src
RUN python -m venv /tools && python -m venv --without-pip /opt/venv

# Everything that serving imports and this project did not write: large, slow, rarely new. Locked
# with hashes, only wheels, nothing resolved here; docker/lock.py wrote the locks.
FROM tools AS locked
# Simple index of CPU-only torch builds; empty takes torch from the ordinary index.
ARG TORCH_INDEX_URL=
# SHA-256 of a torch wheel that the locks do not know.
ARG TORCH_SHA256=
COPY docker/locks/serve.txt docker/locks/torch.txt docker/locks/torch-cpu.txt docker/locks/gpu.txt ./
# A torch for CPUs only, from the index that is named, or wherever pip finds one; else the ordinary one.
# What a torch that was built for GPUs wants beside it is installed only if this one wants it.
RUN if [ -n "${TORCH_SHA256}" ]; then \
        torch=$(sed -n "s/^\(torch==[^ ]*\).*/\1/p" torch.txt) \
        && echo "${torch} --hash=sha256:${TORCH_SHA256}" > torch-cpu.txt; \
    fi \
    && if [ -n "${TORCH_INDEX_URL}" ]; then \
        /tools/bin/pip --python /opt/venv/bin/python install --require-hashes \
            --index-url "${TORCH_INDEX_URL}" -r torch-cpu.txt; \
    else \
        /tools/bin/pip --python /opt/venv/bin/python install --require-hashes -r torch-cpu.txt \
        || /tools/bin/pip --python /opt/venv/bin/python install --require-hashes -r torch.txt; \
    fi \
    && /tools/bin/pip --python /opt/venv/bin/python install --require-hashes -r serve.txt \
    && if ! /tools/bin/pip --python /opt/venv/bin/python check; then \
        /tools/bin/pip --python /opt/venv/bin/python install --require-hashes -r gpu.txt \
        && /tools/bin/pip --python /opt/venv/bin/python check; \
    fi

FROM locked AS dependencies
# Names of further locks, space-separated: otel, docs, milvus.
ARG EXTRAS=
COPY docker/locks docker/prune.sh ./
RUN for extra in ${EXTRAS}; do \
        /tools/bin/pip --python /opt/venv/bin/python install --require-hashes -r "${extra}.txt" || exit 1; \
    done \
    && sh prune.sh serve /opt/venv

FROM locked AS full-dependencies
COPY docker/locks docker/prune.sh ./
RUN for extra in training text embedder; do \
        /tools/bin/pip --python /opt/venv/bin/python install --require-hashes -r "${extra}.txt" || exit 1; \
    done \
    && sh prune.sh full /opt/venv

# The project itself, with and without `training`.
FROM tools AS project
COPY docker/locks/build.txt ./
RUN /tools/bin/pip install --require-hashes -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service
RUN /tools/bin/pip wheel --no-index --no-build-isolation --wheel-dir /wheels . \
    && /tools/bin/pip --python /opt/venv/bin/python install --no-index --root /out /wheels/*.whl \
    && mkdir -p /out/data

FROM project AS full-project
COPY training training
RUN rm -rf build /wheels \
    && /tools/bin/pip wheel --no-index --no-build-isolation --wheel-dir /wheels . \
    && /tools/bin/pip --python /opt/venv/bin/python install --no-index --root /full /wheels/*.whl

# What all images share. No RUN from here on, but for the demo's data, which are not shipped with
# what made them: nothing of the build can leak into what is shipped.
FROM ${BASE_IMAGE} AS runtime
COPY docker/healthcheck.py /opt/healthcheck.py
COPY --from=project --chown=10001:10001 /out/data /data
# HOME and USER for libraries that ask: the user has no line in /etc/passwd, as --user may give any.
# Nothing is downloaded at run time, whoever would like to.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=nextchunk \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    NEXTCHUNK_DATA=/data \
    NEXTCHUNK_CHECKPOINT=/opt/checkpoint \
    NEXTCHUNK_HOST=0.0.0.0 \
    NEXTCHUNK_PORT=8000
LABEL org.opencontainers.image.title="nextchunk" \
      org.opencontainers.image.description="Rank which chunk of a document comes next, and say which of two comes first" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]

FROM runtime AS unlabelled
COPY --from=full-dependencies /opt/venv /opt/venv
COPY checkpoints/p8-minilm-l6-v2 /opt/checkpoint
COPY --from=full-project /full/opt/venv /opt/venv

FROM unlabelled AS full
ARG VERSION=dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

# The language reference that the base image's Python carries, embedded, as one archive. Not made
# anew for another revision's labels.
FROM unlabelled AS embedded
RUN python -m training prepare --demo --topics --name demo --out prepared \
    && python -m training embed prepared \
    && python -m service index prepared --data store \
    && python -m service export --data store demo.zip

FROM runtime AS serve
COPY --from=dependencies /opt/venv /opt/venv
COPY checkpoints/p8-minilm-l6-v2 /opt/checkpoint
COPY --from=project /out/opt/venv /opt/venv
ARG VERSION=dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

FROM serve AS demo
COPY docker/demo.py /opt/demo.py
COPY --from=embedded /tmp/demo.zip /opt/demo.zip

# What is built if no target is named.
FROM serve
