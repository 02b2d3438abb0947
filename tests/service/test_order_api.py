"""``/v1/order`` over a real socket: exact to the last bit of the JSON."""

import numpy as np

from service.client import Client, encode_vector

from .conftest import Live, unit_rows


def test_swapping_is_exactly_one_minus(service: Live) -> None:
    vectors_ND = unit_rows(40, 11)
    for a_D, b_D in zip(vectors_ND[::2], vectors_ND[1::2], strict=True):
        forth = service.ok("/v1/order", {"a": a_D.tolist(), "b": b_D.tolist()})["p_b_after_a"]
        back = service.ok("/v1/order", {"a": b_D.tolist(), "b": a_D.tolist()})["p_b_after_a"]
        assert 0 < forth < 1
        assert forth != 0.5
        assert forth + back == 1.0
        assert back == 1.0 - forth
        assert forth == 1.0 - back or forth < 0.5  # exact from the larger half to the smaller


def test_a_batch_is_exact_in_any_place(service: Live) -> None:
    ids = [f"delta:{place}" for place in range(8)]
    pairs = [{"a_id": a, "b_id": b} for a in ids for b in ids if a != b]
    answers = service.ok("/v1/order", {"pairs": pairs})["answers"]
    found = {
        (pair["a_id"], pair["b_id"]): answer["p_b_after_a"]
        for pair, answer in zip(pairs, answers, strict=True)
    }
    for (a, b), forth in found.items():
        assert forth + found[b, a] == 1.0
        assert forth == service.ok("/v1/order", {"a_id": a, "b_id": b})["p_b_after_a"]


def test_ids_numbers_and_base64_agree(service: Live) -> None:
    raw_ND = unit_rows(48, 1)
    by_ids = service.ok("/v1/order", {"a_id": "alpha:0", "b_id": "alpha:1"})
    by_numbers = service.ok("/v1/order", {"a": raw_ND[0].tolist(), "b": raw_ND[1].tolist()})
    mixed = service.ok("/v1/order", {"a_id": "alpha:0", "b": encode_vector(raw_ND[1])})
    with Client(service.url) as client:
        by_client = client.order(raw_ND[0], np.asarray(raw_ND[1], np.float64))
    assert by_ids == by_numbers == mixed == {"p_b_after_a": by_client}


def test_a_chunk_against_itself_is_even(service: Live) -> None:
    assert service.ok("/v1/order", {"a_id": "beta:1", "b_id": "beta:1"})["p_b_after_a"] == 0.5
