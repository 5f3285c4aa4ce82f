"""The live view as text: what a person reads, in any width, without colour and without Unicode."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from structlog.testing import capture_logs

from autoemb_pipeline.notices import Notices
from autoemb_pipeline.ops.watch.held import held_by_popularity, spaces_of
from autoemb_pipeline.ops.watch.live_view import ASCII, BLOCKS, bar, live_view, one_line, signs, sparkline
from autoemb_pipeline.ops.watch.run_history import RECORDS_KEPT, RUNS_KEPT, Histories, RunHistory
from autoemb_pipeline.schemas.metrics import PREQUENTIAL, RUNTIME
from autoemb_pipeline.schemas.notices import budget_notice, bytes_notice, share_text
from tests.ops.recorded import RUN_ID, WALL_TIME, recorded

SERIES = st.lists(st.none() | st.floats(-1e6, 1e6), max_size=40)


@given(SERIES, st.integers(1, 50))
def test_a_sparkline_has_a_sign_per_value_and_its_extremes(values: list[float | None], width: int) -> None:
    line = sparkline(values, width)
    kept = values[-width:]
    known = [value for value in kept if value is not None]
    if not known:
        assert line == ""
        return
    assert len(line) == len(kept)
    assert [sign == " " for sign in line] == [value is None for value in kept]
    assert line[kept.index(min(known))] == BLOCKS[0]
    if max(known) > min(known):
        assert line[kept.index(max(known))] == BLOCKS[-1]


def test_known_sparklines_and_bars() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == BLOCKS
    assert sparkline([9, 0, 7], 2) == "▁█"
    assert sparkline([1, None, 2], 5, ramp=ASCII) == "_ #"
    assert bar(0.5, 4) == "██··"
    assert bar(1.7, 3, ramp=ASCII) == "###"


def history(method: str = "autoemb", task: str = "binary", preset: str = "stream") -> RunHistory:
    metrics, runtime = recorded(method, task, preset=preset)
    watched = RunHistory(RUN_ID)
    for rate in (100.0, 200.0, 300.0):
        watched.metrics.append(PREQUENTIAL.normalise({"run_id": RUN_ID, **metrics, "mse_window": rate / 1000}))
        watched.runtime.append(RUNTIME.normalise({**runtime, "interactions_per_second": rate}))
    return watched


def test_the_view_names_who_holds_the_others_back() -> None:
    watched = history()
    assert "held back" not in text_of(watched, 80)
    watched.runtime.append(RUNTIME.normalise({**watched.latest("runtime"), "held_back_by": "partition 3 for 61 s, partition 12 for 4 s"}))
    text = text_of(watched, 80)
    assert "lag, held back by" in text
    assert "partition 3 for 61 s, partition 12 for 4 s" in text
    assert len(text.splitlines()) <= 24


def text_of(watched: RunHistory, width: int = 100, *, seconds: float = 1, ramp: str = BLOCKS) -> str:
    console = Console(width=width, force_terminal=False, color_system=None, record=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(live_view(watched, width=width, now=WALL_TIME / 1000 + seconds, ramp=ramp))
    return capture.get()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize(("method", "preset"), [("autoemb", "stream"), ("fse", "stream"), ("autoemb", "paper")])
def test_the_view_fits_its_terminal_and_says_what_matters(width: int, method: str, preset: str) -> None:
    watched = history(method, preset=preset)
    text = text_of(watched, width)
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert len(lines) <= 24
    assert "…" not in text
    latest = watched.latest("metrics")
    for expected in (
        RUN_ID,
        f"{method} ({preset})",
        "running mean",
        "online logistic",
        "300 interactions",
        f"{latest['mse']:.4f}",
        "▁▅█",
        "1,234",
    ):
        assert expected in text
    assert ("weights by dimension" in text) == (preset == "paper")
    assert ("held, rare → popular" in text) == ("given up" in text) == (method == "autoemb" and preset == "stream")
    if preset == "paper":
        assert f"{latest['user_weight']['128']:.2f}" in text
    else:
        assert share_text(latest["bytes_share_of_fixed"]) in text
    assert "14 s old" in text  # 12.5 s when reported, a second ago


def test_held_dimensions_are_a_histogram_by_popularity() -> None:
    record = {
        "user_ids_of_space": {"0": 6, "2": 3, "16": 1},
        "item_ids_of_space": {"0": 1, "2": 0, "16": 0},
        "user_bucket_count": {"0": 4, "1": 4, "2": 4, "4": 12},
        "user_bucket_weight": {"0_2": 0.0, "0_16": 0.0, "1_2": 0.5, "1_16": 0.0, "2_2": 0.5, "2_16": 0.5, "4_2": 0.0, "4_16": 1.0},
    }
    assert spaces_of(record) == ["0", "2", "16"]
    assert held_by_popularity(record, "user", 9) == {"0": [1.0, 0.5, 0.0, 0.0], "2": [0.0, 0.5, 0.5, 0.0], "16": [0.0, 0.0, 0.5, 1.0]}
    assert held_by_popularity(record, "user", 3)["16"] == [0.0, 0.0, 0.875]  # the popular ones together, by their interactions
    assert held_by_popularity(record, "item", 3) == {"0": [], "2": [], "16": []}
    assert spaces_of({"user_ids_of_space": None}) == []
    assert signs([0.0, 0.02, 0.5, 1.0, None]) == "·▁▅█ "


def test_the_loss_given_up_with_and_without_an_interval() -> None:
    known = {"loss_given_up": 1.1e-4, "loss_given_up_low": 0.8e-4, "loss_given_up_high": 1.4e-4, "bytes_share_of_fixed": 0.284}
    assert bytes_notice(known) == "28% of fixed bytes, given up 1.1±0.3e-4"
    assert bytes_notice({**known, "loss_given_up_low": None, "bytes_share_of_fixed": 0.0456}) == "4.6% of fixed bytes, given up 1.1e-4"
    assert bytes_notice({"bytes_share_of_fixed": 0.53}) == "53% of fixed bytes"
    removed = {"user_removed_ids": 1200, "item_removed_ids": 0}
    assert bytes_notice({**known, **removed}) == "28% of fixed bytes, given up 1.1±0.3e-4, 1,200 users and 0 items removed"
    assert bytes_notice({}) is None
    watched = history()
    assert bytes_notice(watched.latest("metrics")) in one_line(watched)


def test_removed_ids_are_told_where_there_is_a_time_to_live() -> None:
    watched = history()
    watched.metrics[-1] |= {"user_removed_ids": 1200, "item_removed_ids": 34}
    assert "1,200 users and 34 items removed" in text_of(watched)
    assert "1,200 users and 34 items removed" in one_line(watched)
    watched.metrics[-1] |= {"user_removed_ids": None, "item_removed_ids": None}
    assert "removed" not in text_of(watched) + one_line(watched)


def test_a_silent_trainer_and_dead_letters_are_said_in_words() -> None:
    assert "no report for 2 min 5 s: stopped, or hanging" in text_of(history(), seconds=125)
    watched = history()
    watched.metrics[-1]["dead_letters"] = 3
    assert "dead letters 3" in text_of(watched)


def test_without_unicode() -> None:
    text = text_of(history(), ramp=ASCII)
    text.replace("→", "->").replace("–", "-").encode("ascii")


def test_before_the_first_interaction() -> None:
    watched = RunHistory(RUN_ID)
    watched.runtime.append(RUNTIME.normalise(recorded()[1]))
    assert "no interactions yet" in text_of(watched)
    assert "lag 1,234" in one_line(watched)


def test_one_line_for_the_rating_task() -> None:
    watched = history("fse", "rating")
    line = one_line(watched)
    assert f"cross_entropy {watched.latest('metrics')['cross_entropy']:.4f}" in line
    assert "\n" not in line


def test_the_newest_run_is_followed_and_memory_is_bounded() -> None:
    histories = Histories()
    assert histories.current is None
    for number in range(RUNS_KEPT + 3):
        histories.add("metrics", [{"run_id": f"r{number}", "step": step} for step in range(RECORDS_KEPT + 5)])
    current = histories.current
    assert current is not None
    assert current.run_id == f"r{RUNS_KEPT + 2}"
    assert len(current.metrics) == RECORDS_KEPT
    assert current.metrics[-1]["step"] == RECORDS_KEPT + 4
    assert len(histories._runs) == RUNS_KEPT
    assert histories.add("runtime", [{"run_id": "r9"}]) == []
    assert histories.current is current
    fixed = Histories("r1")
    assert fixed.add("metrics", [{"run_id": "r1", "step": 1}, {"run_id": "r2", "step": 1}]) == [{"run_id": "r1", "step": 1}]


def test_runtime_records_of_many_older_runs_do_not_push_out_the_newest_runs_metrics() -> None:
    histories = Histories()
    runs = [f"r{number}" for number in range(RUNS_KEPT + 5)]
    histories.add("metrics", [{"run_id": run, "step": 1} for run in runs])
    histories.add("runtime", [{"run_id": run, "step": 1} for run in runs])
    assert histories.current is not None
    assert histories.current.latest("metrics") == histories.current.latest("runtime") == {"run_id": runs[-1], "step": 1}
    assert len(histories._runs) == RUNS_KEPT


def test_records_are_those_of_the_topics() -> None:
    metrics = {"run_id": RUN_ID, **recorded()[0]}
    assert PREQUENTIAL.parse(json.dumps(json.loads(PREQUENTIAL.to_json(metrics))).encode()) == PREQUENTIAL.normalise(metrics)


def test_what_waits_and_labels_of_one_class_are_said_in_words() -> None:
    watched = history()
    waiting = "waiting: 300 interactions, 2 dead letters; the mini-batch closes in 7 s"
    assert waiting in text_of(watched)
    assert waiting in one_line(watched)
    watched.runtime[-1].update(waiting_interactions=1, waiting_dead_letters=0, batch_closes_in_seconds=None)
    assert "waiting: 1 interaction; the mini-batch closes when it is full\n" in text_of(watched)
    watched.runtime[-1].update(waiting_interactions=0)
    watched.metrics[-1].update(label_warning="all-negative", rating_min=0.0, rating_max=1.0, examples=2_000)
    warning = "warning: all 2,000 labels so far are negative: ratings lie between 0 and 1. Start again: --new-run --positive-above 0.5"
    assert warning in text_of(watched, 200)
    assert warning in one_line(watched)
    assert "waiting" not in text_of(watched)


def test_notices_before_the_first_step() -> None:
    watched = RunHistory(RUN_ID)
    watched.runtime.append(RUNTIME.normalise(recorded()[1]))
    assert "300 interactions, 2 dead letters" in text_of(watched)
    assert "300 interactions, 2 dead letters" in one_line(watched)


def test_a_budget_below_what_every_id_takes_is_said_in_words_and_once_in_the_log() -> None:
    watched = history()
    latest = watched.metrics[-1]
    assert latest["least_bytes"] == sum(29 + len(f"{kind}{n}") for kind, count in (("u", 12), ("i", 20)) for n in range(count))
    assert budget_notice(latest) is None
    latest.update(memory_budget=1000, least_bytes=1023)
    assert "warning: biases and index of the known ids alone take 1,023 bytes, more than --memory-budget 1,000" in text_of(watched, 300)
    assert "--new-run --memory-budget 2046" in one_line(watched)
    notices = Notices()
    with capture_logs() as lines:
        for metrics in ({**latest, "least_bytes": 1000}, latest, latest):
            notices.look(metrics, watched.latest("runtime"))
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["the memory budget cannot be kept"]
