"""Inference on a CPU: weights laid out for the processor, steps fused, bfloat16 if wanted.

The same functions as ``models.p8.TransformerP8Constrained`` and the layers of ``SetReranker``
compute, from copies of their weights. oneDNN lays each matrix out once instead of at every call,
and adds bias, activation and residual while it writes; for one window that is more than half of the
time (docs/benchmarks.md). And the steps are one program of TorchScript, so that they run without
the interpreter's lock, which other threads want (docs/LOG.md has what that gains).

In bfloat16 only encoders are: that of the window, which decides the mixture weights, and that of
the bag, whose evidence the re-ranker weighs. The vectors that are mixed stay float32, so the query
keeps to the cone of its context, and to the space that was indexed.

Shapes: B batch, L window, N places, D dimension, H hidden, R rows of a matrix, I inputs, O outputs.
"""

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

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
from models.rerank import SetReranker

M = TypeVar("M", bound=nn.Module)
Dtype = Literal["float32", "bfloat16"]

TORCH_DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pack(p8: P8Constrained, dtype: Dtype = "float32") -> "P8Constrained | PackedP8":
    """Lay a network out for inference; one that cannot be is answered as it is.

    Args:
        p8: In evaluation mode. Later changes to it are not followed.
        dtype: What the window encoder computes in.

    Raises:
        ValueError: If the processor does not multiply bfloat16, and that is wanted.
    """
    if dtype == "bfloat16" and not has_bfloat16():
        raise ValueError("dtype: expected float32, as this processor has no bfloat16, got bfloat16")
    on_cpu = next(p8.parameters()).device.type == "cpu"
    return PackedP8(p8, dtype) if on_cpu and isinstance(p8, TransformerP8Constrained) else p8


def pack_reranker(reranker: SetReranker, dtype: Dtype = "float32") -> SetReranker:
    """Lay a re-ranker's transformer layers out for inference.

    Args:
        reranker: In evaluation mode. Later changes to its layers are not followed; all else, such
            as what is fitted after training, is shared with it.
        dtype: What the bag encoder computes in.
    """
    if next(reranker.parameters()).device.type != "cpu":
        return reranker
    packed, bag = _sharing(reranker), _sharing(reranker.bag)
    blocks: Any = bag.blocks
    bag.blocks = PackedBlocks(list(blocks.layers), blocks.norm, dtype)
    packed.bag, packed.block = bag, PackedBlocks([reranker.block], None, "float32")
    return packed


def _sharing(module: M) -> M:
    """A module of the same parts, which can be replaced."""
    other = copy(module)
    other._modules = dict(module._modules)
    return other


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself: x86-64 by AVX-512 or AMX, or arm64.

    Others would take longer for it than for float32, and on some, or where its settings hold it to
    less (``ONEDNN_MAX_CPU_ISA``), oneDNN refuses to.
    """
    capabilities = torch.cpu.get_capabilities()
    its_own = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return its_own and (not _can_pack() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


class PackedP8:
    """A transformer P8 that can only be asked.

    Args:
        p8: Whose weights are copied.
        dtype: What the window encoder computes in.
    """

    def __init__(self, p8: TransformerP8Constrained, dtype: Dtype) -> None:
        self.config = p8.config
        self._packed = _can_pack()
        made = _Maker(TORCH_DTYPES[dtype], self._packed)
        exact = _Maker(torch.float32, self._packed)
        self._adapter = None
        if isinstance(p8.adapter, Adapter):
            self._adapter = (exact.linear(p8.adapter.up), exact.linear(p8.adapter.down))
        encoder = p8.encoder
        layers: list[Any] = list(encoder.blocks.layers)
        self._encoder = _Encoder(
            read=made.linear(encoder.read),
            position_LH=made.copied(encoder.position_LH),
            layers=[made.layer(layer) for layer in layers],
            norm=made.norm(encoder.blocks.norm),
            head=_Affine(exact.copied(p8.head.weight), exact.copied(p8.head.bias)),
            place_L=exact.copied(p8.place_L),
        )

    def project(self, chunks_ND: Tensor) -> Tensor:
        """Map unit chunk vectors (..., D) into the model's space, (..., D), unit length."""
        if self._adapter is None:
            return chunks_ND
        projected_ND: Tensor = _program(_project, self._packed)(
            chunks_ND, *self._adapter, self._packed
        )
        return projected_ND

    def mix(self, projected_BLD: Tensor, mask_BL: Tensor) -> P8Output:
        """Mix context vectors of the model's space into queries.

        Args:
            projected_BLD: Unit vectors, right-aligned.
            mask_BL: True where a chunk is present; every row needs at least one.

        Raises:
            ValueError: If the shapes do not fit the configuration.
        """
        check_window(projected_BLD, mask_BL, self.config)
        asked = (projected_BLD, mask_BL, self._encoder, self.config.heads, self._packed)
        return P8Output(*_program(_mix, self._packed)(*asked))


class _Affine(NamedTuple):
    """An affine map of rows, (R, I) to (R, O), or a layer normalisation's scale and shift."""

    weight: Tensor
    bias: Tensor


class _Layer(NamedTuple):
    """A pre-norm transformer layer, as ``nn.TransformerEncoderLayer`` is."""

    norm1: _Affine
    into: _Affine
    out: _Affine
    norm2: _Affine
    up: _Affine
    down: _Affine


class _Encoder(NamedTuple):
    """A window encoder and its head."""

    read: _Affine
    position_LH: Tensor
    layers: list[_Layer]
    norm: _Affine
    head: _Affine
    place_L: Tensor


class PackedBlocks(nn.Module):
    """Transformer layers over (B, N, H) that can only be asked, in place of those they are made of.

    Args:
        layers: As ``EncoderLayer`` is; their weights are copied.
        norm: The last normalisation, if there is one.
        dtype: What they compute in; rows come and go as float32.
    """

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module | None, dtype: Dtype) -> None:
        super().__init__()
        self._packed, self._dtype = _can_pack(), TORCH_DTYPES[dtype]
        made = _Maker(self._dtype, self._packed)
        first: Any = layers[0]
        self._heads: int = first.self_attn.num_heads
        self._layers = [made.layer(layer) for layer in layers]
        self._norm = None if norm is None else made.norm(norm)

    def forward(self, src_BNH: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        """Encode (B, N, H); the mask (B, N) is True where nothing stands."""
        batch, places, hidden = src_BNH.shape
        rows_RH = src_BNH.reshape(batch * places, hidden).to(self._dtype)
        encoded_RH: Tensor = _program(_encode, self._packed)(
            rows_RH, src_key_padding_mask, self._layers, self._norm, self._heads, self._packed
        )
        return encoded_RH.view(batch, places, hidden)


class _Maker(NamedTuple):
    """Copies weights into the layout that they are used in."""

    dtype: torch.dtype
    packed: bool

    def copied(self, value: Tensor) -> Tensor:
        return value.detach().to(self.dtype, copy=True)

    def affine(self, weight_OI: Tensor, bias_O: Tensor) -> _Affine:
        weight = self.copied(weight_OI)
        if self.packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        return _Affine(weight, self.copied(bias_O))

    def linear(self, layer: nn.Module) -> _Affine:
        assert isinstance(layer, nn.Linear)
        return self.affine(layer.weight, layer.bias)

    def norm(self, layer: nn.Module | None) -> _Affine:
        assert isinstance(layer, nn.LayerNorm)
        assert layer.eps == 1e-5
        return _Affine(self.copied(layer.weight), self.copied(layer.bias))

    def layer(self, layer: nn.Module) -> _Layer:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        attention: Any = layer.self_attn
        return _Layer(
            norm1=self.norm(layer.norm1),
            into=self.affine(attention.in_proj_weight, attention.in_proj_bias),
            out=self.linear(attention.out_proj),
            norm2=self.norm(layer.norm2),
            up=self.linear(layer.linear1),
            down=self.linear(layer.linear2),
        )


# What follows is Python as TorchScript knows it.


def _apply(rows_RI: Tensor, by: _Affine, activation: str, packed: bool) -> Tensor:
    """Map rows, then apply the exact GELU if ``activation`` is ``gelu``."""
    if packed:
        mapped_RO: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows_RI, by.weight, by.bias, activation, [], "none"
        )
        return mapped_RO
    plain_RO = functional.linear(rows_RI, by.weight, by.bias)
    return functional.gelu(plain_RO) if activation == "gelu" else plain_RO


def _added(rows_RI: Tensor, other_RO: Tensor, by: _Affine, packed: bool) -> Tensor:
    """Map rows and add others."""
    if packed:
        mapped_RO: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows_RI, other_RO, by.weight, by.bias, "add"
        )
        return mapped_RO
    return other_RO + functional.linear(rows_RI, by.weight, by.bias)


def _norm(rows_RH: Tensor, by: _Affine) -> Tensor:
    return functional.layer_norm(rows_RH, [rows_RH.size(1)], by.weight, by.bias, 1e-5)


def _project(chunks_ND: Tensor, up: _Affine, down: _Affine, packed: bool) -> Tensor:
    rows_RD = chunks_ND.reshape(-1, chunks_ND.size(-1))
    shifted_RD = _added(_apply(rows_RD, up, "gelu", packed), rows_RD, down, packed)
    return functional.normalize(shifted_RD, dim=-1).view(chunks_ND.size())


def _encode(
    hidden_RH: Tensor,
    missing_BN: Tensor,
    layers: list[_Layer],
    norm: _Affine | None,
    heads: int,
    packed: bool,
) -> Tensor:
    """Apply layers to the rows of (B, N, H), and what comes after the last; float32, (R, H)."""
    batch, places = missing_BN.size()
    hidden = hidden_RH.size(1)
    bias_B11N: Tensor | None = None
    if bool(missing_BN.any()):
        bias_B11N = torch.zeros([batch, 1, 1, places])
        bias_B11N.masked_fill_(missing_BN[:, None, None], float("-inf"))
    for layer in layers:
        into_R3H = _apply(_norm(hidden_RH, layer.norm1), layer.into, "none", packed)
        # The attention itself is too small to gain from bfloat16.
        split = into_R3H.float().view(batch, places, 3, heads, hidden // heads)
        turned = split.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(turned[0], turned[1], turned[2], bias_B11N)
        seen_RH = seen.transpose(1, 2).reshape(batch * places, hidden).to(hidden_RH.dtype)
        hidden_RH = _added(seen_RH, hidden_RH, layer.out, packed)
        up_RF = _apply(_norm(hidden_RH, layer.norm2), layer.up, "gelu", packed)
        hidden_RH = _added(up_RF, hidden_RH, layer.down, packed)
    if norm is not None:
        hidden_RH = _norm(hidden_RH, norm)
    return hidden_RH.float()


def _mix(
    projected_BLD: Tensor, mask_BL: Tensor, encoder: _Encoder, heads: int, packed: bool
) -> tuple[Tensor, Tensor]:
    batch, window, dimension = projected_BLD.size()
    missing_BL = mask_BL.logical_not()
    position_RH = encoder.position_LH.repeat(batch, 1)
    rows_RD = projected_BLD.reshape(batch * window, dimension).to(position_RH.dtype)
    hidden_RH = _added(rows_RD, position_RH, encoder.read, packed)
    encoded_RH = _encode(hidden_RH, missing_BL, encoder.layers, encoder.norm, heads, packed)
    head_R1 = functional.linear(encoded_RH, encoder.head.weight, encoder.head.bias)
    logits_BL = (head_R1.view(batch, window) + encoder.place_L).masked_fill(
        missing_BL, float("-inf")
    )
    alpha_BL = torch.softmax(logits_BL, dim=-1)
    mixed_BD = torch.bmm(alpha_BL[:, None], projected_BLD)[:, 0]
    return functional.normalize(mixed_BD, dim=-1), alpha_BL


@cache
def _program(steps: Callable[..., Any], packed: bool) -> Callable[..., Any]:
    """The steps as a program of TorchScript; as they are where its operators are missing."""
    if not packed:
        return steps
    with warnings.catch_warnings():
        # Deprecated for torch.compile, which needs a compiler at run time. torch is pinned.
        warnings.simplefilter("ignore", DeprecationWarning)
        program: Callable[..., Any] = torch.jit.script(steps)
        return program


def _can_pack() -> bool:
    """Whether this build of torch has the operators that its own compiler uses for frozen weights.

    They are no public interface, which is why torch is pinned and a test compares the results.
    """
    mkldnn: Any = torch.backends.mkldnn
    return bool(mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
