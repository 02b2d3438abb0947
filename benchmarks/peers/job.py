"""The job that every server does: P8's forward, and a search of its query among all chunks.

Settings come as environment variables, since each server starts its processes in its own way.
"""

import base64
import copy
import json
import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.checkpoint import load_checkpoint
from models.packed import Dtype
from models.scoring import Method, Scorer

FOLDER, PRECISION, THREADS = "CONTEST_FOLDER", "CONTEST_PRECISION", "CONTEST_THREADS"
BATCH, WAIT_MS, PORT = "CONTEST_BATCH", "CONTEST_WAIT_MS", "CONTEST_PORT"
CHECKPOINT, INDEX, IDS = "checkpoint", "peers.faiss", "ids.json"
TOP_K = 10
SEARCH_EF = 64
WINDOW, DIMENSION = 5, 384

Floats = NDArray[np.float32]


def batch_size() -> int:
    """Most requests computed together."""
    return int(os.environ.get(BATCH, "32"))


def wait_ms() -> float:
    """How long a server may wait for a batch to fill."""
    return float(os.environ.get(WAIT_MS, "5"))


def use_threads(count: int) -> None:
    """Let torch and FAISS compute by so many threads, if called from the present one."""
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)


class Job:
    """P8 and a graph over the chunks, projected.

    The forward is torch's own, of the model as it is (``fp32``) or with its encoder in bfloat16
    (``bf16``; what that weighs, the context in the model's space, stays in float32, which is as
    fast as all in bfloat16 and twice as near); or the service's (``packed``, ``packed-fp32``).
    """

    def __init__(self) -> None:
        folder, way = Path(os.environ[FOLDER]), os.environ.get(PRECISION, "fp32")
        use_threads(int(os.environ.get(THREADS, "1")))
        model = load_checkpoint(folder / CHECKPOINT).model
        dtype: Dtype = "float32" if way.endswith("fp32") else "bfloat16"
        self.scorer = Scorer(model, dtype=dtype) if way.startswith("packed") else None
        self.model = model.p8.eval()
        self.fast = copy.deepcopy(self.model).to(torch.bfloat16) if way == "bf16" else None
        self.index = faiss.read_index(str(folder / INDEX))
        self.parameters = faiss.SearchParametersHNSW(efSearch=SEARCH_EF)
        self.ids: list[str] = json.loads((folder / IDS).read_bytes())

    @torch.inference_mode()
    def query(self, context_BLD: Floats) -> Floats:
        """Turn windows of unit vectors (B, L, D) into queries (B, D)."""
        present_BL = np.ones(context_BLD.shape[:2], np.bool_)
        if self.scorer is not None:
            return self.scorer.query(context_BLD, present_BL, Method.P8).vectors_BD
        context, mask_BL = torch.from_numpy(context_BLD), torch.from_numpy(present_BL)
        if self.fast is None:
            query_BD = self.model(context, mask_BL).query_BD
        else:
            projected_BLD = self.model.project(context)
            logits_BL = self.fast.mixture_logits(projected_BLD.to(torch.bfloat16), mask_BL)
            alpha_BL = torch.softmax(logits_BL.float(), dim=-1)
            mixed_BD = torch.einsum("bl,bld->bd", alpha_BL, projected_BLD)
            query_BD = functional.normalize(mixed_BD, dim=-1)
        return np.asarray(query_BD.numpy())

    def rank(self, context_BLD: Floats) -> list[dict[str, Any]]:
        """Give ids and scores of the best chunks for each window."""
        scores_BK, rows_BK = self.index.search(
            self.query(context_BLD), TOP_K, params=self.parameters
        )
        return [
            {"ids": [self.ids[row] for row in rows], "scores": scores.tolist()}
            for rows, scores in zip(rows_BK, scores_BK, strict=True)
        ]


def from_numbers(context: list[list[float]]) -> Floats:
    """Read a window of lists of numbers."""
    return np.asarray(context, np.float32)


def from_base64(context: list[str]) -> Floats:
    """Read a window of base64 strings of float32."""
    return from_octets(b"".join(map(base64.b64decode, context)))


def from_octets(body: bytes) -> Floats:
    """Read a window of bare float32."""
    return np.frombuffer(bytearray(body), "<f4").reshape(-1, DIMENSION)


def from_json(context: list[Any]) -> Floats:
    """Read a window in either of the forms that JSON can have."""
    return from_base64(context) if isinstance(context[0], str) else from_numbers(context)
