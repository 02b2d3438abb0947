"""P8 for inference on a CPU: weights laid out for the processor, steps fused, bfloat16 if wanted.

The same function as ``models.p8.TransformerP8Constrained`` computes, from a copy of its weights.
oneDNN lays each matrix out once instead of at every call, and adds bias, activation and residual
while it writes; for one window that is more than half of the time (docs/benchmarks.md).

In bfloat16 only the window encoder is: it decides the mixture weights. The vectors that are mixed
stay float32, so the query keeps to the cone of its context, and to the space that was indexed.

Shapes: B batch, L window, D dimension, H hidden, R rows of a matrix, I inputs, O outputs.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.p8 import (
    Adapter,
    P8Constrained,
    P8Output,
    TransformerP8Constrained,
    check_window,
)

Dtype = Literal["float32", "bfloat16"]

TORCH_DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pack(p8: P8Constrained, dtype: Dtype = "float32") -> "P8Constrained | PackedP8":
    """Lay a network out for inference; one that cannot be is answered as it is.

    Args:
        p8: In evaluation mode. Later changes to it are not followed.
        dtype: What the window encoder computes in.
    """
    on_cpu = next(p8.parameters()).device.type == "cpu"
    return PackedP8(p8, dtype) if on_cpu and isinstance(p8, TransformerP8Constrained) else p8


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class PackedP8:
    """A transformer P8 that can only be asked.

    Args:
        p8: Whose weights are copied.
        dtype: What the window encoder computes in.
    """

    def __init__(self, p8: TransformerP8Constrained, dtype: Dtype) -> None:
        self.config = p8.config
        self._dtype = TORCH_DTYPES[dtype]
        encoder = p8.encoder
        self._adapter = None
        if isinstance(p8.adapter, Adapter):
            up, down = p8.adapter.up, p8.adapter.down
            self._adapter = (_linear(up, torch.float32), _linear(down, torch.float32))
        self._read = _linear(encoder.read, self._dtype)
        self._position_LH = encoder.position_LH.detach().to(self._dtype)
        layers: list[Any] = list(encoder.blocks.layers)
        self._blocks = [_Block(layer, p8.config.heads, self._dtype) for layer in layers]
        assert encoder.blocks.norm is not None
        self._norm = _Norm(encoder.blocks.norm, self._dtype)
        self._head = (p8.head.weight.detach().clone(), p8.head.bias.detach().clone())
        self._place_L = p8.place_L.detach().clone()

    def project(self, chunks_ND: Tensor) -> Tensor:
        """Map unit chunk vectors (..., D) into the model's space, (..., D), unit length."""
        if self._adapter is None:
            return chunks_ND
        up, down = self._adapter
        rows_RD = chunks_ND.reshape(-1, chunks_ND.shape[-1])
        projected_RD = functional.normalize(down.added(up.gelu(rows_RD), rows_RD), dim=-1)
        return projected_RD.view(chunks_ND.shape)

    def mix(self, projected_BLD: Tensor, mask_BL: Tensor) -> P8Output:
        """Mix context vectors of the model's space into queries.

        Args:
            projected_BLD: Unit vectors, right-aligned.
            mask_BL: True where a chunk is present; every row needs at least one.

        Raises:
            ValueError: If the shapes do not fit the configuration.
        """
        check_window(projected_BLD, mask_BL, self.config)
        logits_BL = self._logits(projected_BLD, mask_BL)
        alpha_BL = torch.softmax(logits_BL.masked_fill(~mask_BL, float("-inf")), dim=-1)
        mixed_BD = torch.einsum("bl,bld->bd", alpha_BL, projected_BLD)
        return P8Output(functional.normalize(mixed_BD, dim=-1), alpha_BL)

    def _logits(self, projected_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        batch, window, dimension = projected_BLD.shape
        bias_B11L = None
        if not bool(mask_BL.all()):
            bias_B11L = torch.zeros(batch, 1, 1, window)
            bias_B11L.masked_fill_(~mask_BL[:, None, None], float("-inf"))
        rows_RD = projected_BLD.reshape(batch * window, dimension).to(self._dtype)
        hidden_RH = self._read.added(rows_RD, self._position_LH.repeat(batch, 1))
        for block in self._blocks:
            hidden_RH = block(hidden_RH, window, bias_B11L)
        encoded_RH = self._norm(hidden_RH).float()
        return functional.linear(encoded_RH, *self._head).view(batch, window) + self._place_L


class _Block:
    """A pre-norm transformer layer, as ``nn.TransformerEncoderLayer`` is."""

    def __init__(self, layer: nn.TransformerEncoderLayer, heads: int, dtype: torch.dtype) -> None:
        attention: Any = layer.self_attn
        self._heads = heads
        self._norm1, self._norm2 = _Norm(layer.norm1, dtype), _Norm(layer.norm2, dtype)
        self._into = _Linear(attention.in_proj_weight, attention.in_proj_bias, dtype)
        self._out = _linear(attention.out_proj, dtype)
        self._up, self._down = _linear(layer.linear1, dtype), _linear(layer.linear2, dtype)

    def __call__(self, hidden_RH: Tensor, window: int, bias_B11L: Tensor | None) -> Tensor:
        rows, hidden = hidden_RH.shape
        # The attention itself is too small to gain from bfloat16.
        into_R3H = self._into(self._norm1(hidden_RH)).float()
        split = into_R3H.view(rows // window, window, 3, self._heads, hidden // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias_B11L)
        seen_RH = seen.transpose(1, 2).reshape(rows, hidden).to(hidden_RH.dtype)
        hidden_RH = self._out.added(seen_RH, hidden_RH)
        return self._down.added(self._up.gelu(self._norm2(hidden_RH)), hidden_RH)


class _Norm:
    """A layer normalisation."""

    def __init__(self, norm: nn.Module, dtype: torch.dtype) -> None:
        assert isinstance(norm, nn.LayerNorm)
        self._shape, self._eps = list(norm.normalized_shape), norm.eps
        self._weight_H = norm.weight.detach().to(dtype, copy=True)
        self._bias_H = norm.bias.detach().to(dtype, copy=True)

    def __call__(self, hidden_RH: Tensor) -> Tensor:
        shape, eps = self._shape, self._eps
        return functional.layer_norm(hidden_RH, shape, self._weight_H, self._bias_H, eps)


class _Linear:
    """An affine map of rows, (R, I) to (R, O), and what may follow it at once."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor, dtype: torch.dtype) -> None:
        self._weight = weight_OI.detach().to(dtype, copy=True)
        self._bias_O = bias_O.detach().to(dtype, copy=True)
        self._packed = _can_pack()
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight)

    def __call__(self, rows_RI: Tensor) -> Tensor:
        return self._map(rows_RI, "none")

    def gelu(self, rows_RI: Tensor) -> Tensor:
        """Map rows, then apply the exact GELU."""
        return self._map(rows_RI, "gelu")

    def added(self, rows_RI: Tensor, other_RO: Tensor) -> Tensor:
        """Map rows and add others."""
        if not self._packed:
            return other_RO + functional.linear(rows_RI, self._weight, self._bias_O)
        fused: Any = torch.ops.mkldnn._linear_pointwise.binary
        result: Tensor = fused(rows_RI, other_RO, self._weight, self._bias_O, "add")
        return result

    def _map(self, rows_RI: Tensor, activation: str) -> Tensor:
        if not self._packed:
            mapped_RO = functional.linear(rows_RI, self._weight, self._bias_O)
            return functional.gelu(mapped_RO) if activation == "gelu" else mapped_RO
        fused: Any = torch.ops.mkldnn._linear_pointwise
        result: Tensor = fused(rows_RI, self._weight, self._bias_O, activation, [], "none")
        return result


def _linear(layer: nn.Module, dtype: torch.dtype) -> _Linear:
    assert isinstance(layer, nn.Linear)
    return _Linear(layer.weight, layer.bias, dtype)


def _can_pack() -> bool:
    """Whether this build of torch has the operators that its own compiler uses for frozen weights.

    They are no public interface, which is why torch is pinned and a test compares the results.
    """
    mkldnn: Any = torch.backends.mkldnn
    return bool(mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
