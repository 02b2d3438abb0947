"""Embedding in shards: the same bytes as in one run, or a refusal that names what is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.prepared import write_prepared
from tests.training.test_embed import HashEmbedder
from training.__main__ import main
from training.dataset import VECTORS, PreparedDataset
from training.embed import BLOCK_ROWS, block_path, embed_dataset
from training.shards import SHARDS, Shard, ShardError, embed_shard, merge_shards

COUNT = 4 * BLOCK_ROWS + 10


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return write_prepared(tmp_path / "data", [COUNT - 7, 7])


def embed(dataset: PreparedDataset, *shards: str, embedder: HashEmbedder | None = None) -> None:
    for text in shards:
        embed_shard(dataset, embedder or HashEmbedder(), Shard.parse(text), show_progress=False)


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shards_make_the_bytes_of_one_run(dataset: PreparedDataset, tmp_path: Path, of: int):
    copy = PreparedDataset.open(shutil.copytree(dataset.path, tmp_path / "copy"))
    whole = embed_dataset(copy, HashEmbedder(), show_progress=False)
    numbers = [f"{number}/{of}" for number in range(of, 0, -1)]
    counts = [
        embed_shard(dataset, HashEmbedder(), Shard.parse(text), show_progress=False)
        for text in numbers
    ]
    assert sum(counts) == COUNT
    merged, shards = merge_shards(dataset)
    assert shards == of
    assert (merged.path / VECTORS).read_bytes() == (whole.path / VECTORS).read_bytes()
    assert merged.manifest == whole.manifest
    assert sorted(path.name for path in merged.path.iterdir()) == [
        "chunks.jsonl", "documents.jsonl", "manifest.json", "vectors.npy"
    ]  # fmt: skip


def test_an_interrupted_shard_goes_on(dataset: PreparedDataset):
    with pytest.raises(KeyboardInterrupt):
        embed(dataset, "2/2", embedder=HashEmbedder(stop_after=BLOCK_ROWS + 500))
    assert Shard.parse("2/2").missing(dataset) == [3, 4]
    second = HashEmbedder()
    embed(dataset, "2/2", embedder=second)
    assert second.encoded == BLOCK_ROWS + 10
    third = HashEmbedder(stop_after=0)
    embed(dataset, "2/2", embedder=third)
    embed(dataset, "1/2")
    merge_shards(dataset)


def test_shards_come_from_other_machines(dataset: PreparedDataset, tmp_path: Path):
    other = PreparedDataset.open(shutil.copytree(dataset.path, tmp_path / "other"))
    embed(other, "2/2")
    embed(dataset, "1/2")
    place = Path(SHARDS) / "2-of-2"
    shutil.copytree(other.path / place, dataset.path / place)
    merged, _ = merge_shards(dataset)
    assert merged.dimension == HashEmbedder.dimension


def refusal(dataset: PreparedDataset) -> str:
    """Why a merge is refused; nothing may have changed."""
    before = (dataset.path / "manifest.json").read_bytes()
    with pytest.raises(ShardError) as error:
        merge_shards(dataset)
    assert (dataset.path / "manifest.json").read_bytes() == before
    assert not (dataset.path / VECTORS).exists()
    return str(error.value).removeprefix(f"{dataset.path / SHARDS}").removeprefix("/")


def test_missing_shards_are_named(dataset: PreparedDataset):
    assert refusal(dataset).startswith(": expected shards, found none; make them with: python -m")
    embed(dataset, "2/4")
    assert refusal(dataset) == ": expected all 4 shards, got 1; missing: 1/4, 3/4, 4/4"


def test_an_unfinished_shard_is_named(dataset: PreparedDataset):
    embed(dataset, "1/2")
    with pytest.raises(KeyboardInterrupt):
        embed(dataset, "2/2", embedder=HashEmbedder(stop_after=BLOCK_ROWS))
    assert refusal(dataset) == (
        "2-of-2: expected 3 blocks, 2 of them missing; finish it with: "
        f"python -m training embed {dataset.path} --shard 2/2"
    )


def test_shards_of_two_numbers_are_refused(dataset: PreparedDataset):
    embed(dataset, "1/2", "2/2", "1/3")
    assert refusal(dataset) == (
        ": expected shards of one number, got some of 2 and some of 3; remove those not wanted"
    )


def test_something_else_among_the_shards_is_refused(dataset: PreparedDataset):
    embed(dataset, "1/2")
    (dataset.path / SHARDS / "2-of-1").mkdir()
    assert refusal(dataset) == "2-of-1: expected a shard, named I-of-N"


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("weights_sha256", "ab", "None, as in shard 1/2, got 'ab'"),
        ("dimension", 8, "4, as in shard 1/2, got 8"),
        ("model", "other", "'hash', as in shard 1/2, got 'other'"),
        ("bfloat16", True, "False, as in shard 1/2, got True"),
        ("block_rows", 512, f"{BLOCK_ROWS}, as this folder and this version have it, got 512"),
        ("shard", 1, "2, as this folder and this version have it, got 1"),
    ],
)
def test_shards_that_do_not_go_together_are_refused(
    dataset: PreparedDataset, field: str, value: object, shown: str
):
    embed(dataset, "1/2", "2/2")
    file = dataset.path / SHARDS / "2-of-2" / "identity.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), field: value}))
    assert refusal(dataset) == f"2-of-2: {field}: expected {shown}"


def test_a_shard_of_other_data_is_refused(dataset: PreparedDataset, tmp_path: Path):
    other = write_prepared(tmp_path / "other", [COUNT - 6, 6])
    embed(other, "2/2")
    embed(dataset, "1/2")
    place = Path(SHARDS) / "2-of-2"
    shutil.copytree(other.path / place, dataset.path / place)
    assert refusal(dataset).startswith("2-of-2: data: expected ")


def test_a_shard_that_says_nothing_is_refused(dataset: PreparedDataset):
    embed(dataset, "1/1")
    (dataset.path / SHARDS / "1-of-1" / "identity.json").write_text("{")
    assert "cannot tell what it belongs to" in refusal(dataset)


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        (np.ones((BLOCK_ROWS, 4)), f"expected float32 ({BLOCK_ROWS}, 4), got float64"),
        (np.ones((BLOCK_ROWS, 5), np.float32), f"float32 ({BLOCK_ROWS}, 5)"),
        (np.ones((BLOCK_ROWS - 1, 4), np.float32), f"float32 ({BLOCK_ROWS - 1}, 4)"),
    ],
)
def test_a_block_of_another_shape_is_refused(
    dataset: PreparedDataset, rows: np.ndarray, shown: str
):
    embed(dataset, "1/2", "2/2")
    np.save(block_path(dataset.path / SHARDS / "2-of-2", 3), rows)
    assert shown in refusal(dataset)


def test_a_torn_block_is_refused(dataset: PreparedDataset):
    embed(dataset, "1/2", "2/2")
    block = block_path(dataset.path / SHARDS / "1-of-2", 1)
    block.write_bytes(block.read_bytes()[:-100])
    assert refusal(dataset).startswith("1-of-2/block-000001.npy: expected a block of vectors: ")


def test_another_model_starts_a_shard_over(dataset: PreparedDataset):
    embed(dataset, "1/2", embedder=HashEmbedder("other"))
    again = HashEmbedder()
    embed(dataset, "1/2", "2/2", embedder=again)
    assert again.encoded == COUNT
    merged, _ = merge_shards(dataset)
    assert merged.manifest["vectors"]["model"] == "hash"


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "a/b", "-1/2", "1/2/3", "", "1.0/2"])
def test_other_words_for_a_shard_are_refused(text: str):
    with pytest.raises(ShardError, match=r"shard: expected I/N with 1 <= I <= N, such as 2/8, got"):
        Shard.parse(text)


def test_the_commands_refuse_too(dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]):
    assert main(["embed", str(dataset.path), "--shard", "3/2"]) == 2
    assert capsys.readouterr().err.startswith("error: shard: expected I/N")
    assert main(["merge-shards", str(dataset.path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {dataset.path / SHARDS}: expected shards")
