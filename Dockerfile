# The service in an image: docs/deploy.md says how to build, run and check it.

# Any Debian or Ubuntu based image with `python`, its venv module and libstdc++.
ARG BASE_IMAGE=python:3.11-slim

# pip lives in a venv of its own, so that the one which is shipped never contains it.
FROM ${BASE_IMAGE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /tools && python -m venv --without-pip /opt/venv

# A stage of its own: the layers below hang on these lists, not on every edit of pyproject.toml.
FROM tools AS requirements
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py build > build.txt \
    && python requirements.py torch > torch.txt \
    && python requirements.py serve > serve.txt

# Everything that serving imports and this project did not write: large, slow, rarely new.
FROM tools AS dependencies
# Simple index of CPU-only torch builds; empty takes torch from the ordinary index.
ARG TORCH_INDEX_URL=
COPY --from=requirements /src/torch.txt /src/serve.txt ./
RUN if [ -n "${TORCH_INDEX_URL}" ]; then \
        /tools/bin/pip --python /opt/venv/bin/python install --no-deps \
            --index-url "${TORCH_INDEX_URL}" -r torch.txt; \
    fi \
    && /tools/bin/pip --python /opt/venv/bin/python install -r serve.txt
COPY docker/prune.sh ./
RUN sh prune.sh /opt/venv

# The project itself. `training` is not copied, so it is not in the wheel.
FROM tools AS project
COPY --from=requirements /src/build.txt ./
RUN /tools/bin/pip install -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service
RUN /tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /tools/bin/pip --python /opt/venv/bin/python install --no-deps --no-index --root /out \
        /wheels/*.whl \
    && mkdir -p /out/data

# No RUN from here on: nothing of the build can leak into what is shipped.
FROM ${BASE_IMAGE}
COPY --from=dependencies /opt/venv /opt/venv
COPY checkpoints/p8-minilm-l6-v2 /opt/checkpoint
COPY --from=project /out/opt/venv /opt/venv
COPY --from=project --chown=10001:10001 /out/data /data
COPY docker/healthcheck.py /opt/healthcheck.py

# HOME and USER for libraries that ask: the user has no line in /etc/passwd, as --user may give any.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=nextchunk \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NEXTCHUNK_DATA=/data \
    NEXTCHUNK_CHECKPOINT=/opt/checkpoint \
    NEXTCHUNK_HOST=0.0.0.0 \
    NEXTCHUNK_PORT=8000

ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="nextchunk" \
      org.opencontainers.image.description="Rank which chunk of a document comes next, and say which of two comes first" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

USER 10001:10001
WORKDIR /tmp
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]
