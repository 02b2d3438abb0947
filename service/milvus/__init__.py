"""Chunks in Milvus, which any number of replicas share; needs the extra ``milvus``.

``link`` speaks to the server and knows whether it is there; ``tables`` says what lies in it,
``store`` reads and writes that, ``view`` is what one request sees, and ``collection`` puts it
together as a ``service.backend.Backend``. docs/milvus.md and docs/decisions/0010 say why.
"""
