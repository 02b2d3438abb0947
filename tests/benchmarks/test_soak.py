import pytest

from benchmarks.hotspots import parse, stage_of, summary
from benchmarks.soak import drift, faults, growth


def samples(mb_a_minute: float) -> list[tuple[float, float, float]]:
    """Ten minutes of memory that fills within the first one and then grows steadily."""
    return [
        (at, 0.0, min(1.0, at / 60.0) * 500.0 + mb_a_minute * at / 60.0)
        for at in (5.0 * number for number in range(1, 121))
    ]


def test_growth_is_that_after_the_beginning() -> None:
    assert growth(samples(0.0)) == pytest.approx(0.0, abs=1e-12)
    assert growth(samples(5.0)) == pytest.approx(5.0 / 530.0, rel=0.01)


def test_drift_compares_late_with_early_minutes() -> None:
    assert drift([90.0, 40.0, *[10.0] * 8]) == 1.0  # the first two are left out
    assert drift([10.0] * 5 + [30.0] * 5) == 3.0
    assert drift([10.0] * 9 + [90.0]) == 1.0  # one slow minute is none


def soak(**more: object) -> dict[str, object]:
    return {"failed": 0, "dropped": 0, "growth_share_minute": 0.0001, "drift": 1.1, **more}


def test_faults_name_what_is_wrong() -> None:
    assert faults(soak()) == []
    assert "no failures" in faults(soak(failed=3))[0]
    assert "memory" in faults(soak(growth_share_minute=0.01))[0]
    assert "p99" in faults(soak(drift=2.0))[0]


RAW = """\
thread (1): worker-0;_work (service/workers.py:172);Scorer.query (models/scoring.py:150) 60
thread (1): worker-0;_work (service/workers.py:172);VectorIndex.search (models/index.py:92) 30
thread (1): worker-0;_work (service/workers.py:172);strange (elsewhere.py:1) 10
thread (2): MainThread;_run_once (asyncio/base_events.py:1);EpollSelector.select (selectors.py:4) 5
"""


def test_stacks_are_summed_up_by_thread_and_stage() -> None:
    stacks = parse(RAW)
    assert [stage_of(frames) for frames, _ in stacks] == ["forward", "search", "other", "waiting"]
    lines = summary(stacks)
    assert "thread (1): worker-0: 100 samples" in lines
    assert "   60.0% forward" in lines
    assert "  100.0% _work (service/workers.py:172)" in lines
    assert "thread (2): MainThread: 5 samples" in lines
