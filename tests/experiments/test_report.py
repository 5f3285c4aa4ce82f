"""The report as a browser draws it, and what it refuses to compare. The runs are made up; the log is the real one."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from autoemb_pipeline.cli.main import cli, main
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.errors import ConfigurationError, StateError
from autoemb_pipeline.experiments.cells import Stream, run_cell
from autoemb_pipeline.experiments.curves import error_by_popularity, error_over_stream, user_sums, weights_by_popularity
from autoemb_pipeline.experiments.kept import kept_of
from autoemb_pipeline.experiments.report import write_report
from autoemb_pipeline.experiments.runs import comparable, open_run
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.sink.prediction_log import read_predictions
from autoemb_pipeline.trainer import TrainerConfig
from tests.experiments.browser import loaded_dom
from tests.experiments.logged import write_run
from tests.ops.recorded import tastes

# Run in the page: what is really drawn and where, as JSON in an attribute that the dumped DOM shows.
PROBE = """
<script>
window.addEventListener('load', () => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const found = {};
  for (const svg of document.querySelectorAll('figure svg')) {
    const figure = svg.closest('figure').id;
    found[figure] = {
      lines: [...svg.querySelectorAll('g')].filter(g => /-p\\d-s\\d+$/.test(g.id)).map(g => ({
        id: g.id, length: g.querySelector('path').getTotalLength(), colour: getComputedStyle(g.querySelector('path')).stroke })),
      bars: [...svg.querySelectorAll('g')].filter(g => /-bars\\d+$/.test(g.id)).length,
      bands: [...svg.querySelectorAll('g')].filter(g => /-b\\d+$/.test(g.id)).length,
      texts: [...svg.querySelectorAll('text')].map(t => t.textContent.trim()),
      outside: [...svg.querySelectorAll('text')].filter(t => { const a = box(t), b = box(svg); return a[0] < b[0] - 1 || a[2] > b[2] + 1; })
        .map(t => t.textContent.trim()),
      width: box(svg)[2] - box(svg)[0], title: svg.querySelector('title').textContent };
  }
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  document.body.setAttribute('data-probe', JSON.stringify({
    figures: found, twice: ids.filter((id, n) => ids.indexOf(id) !== n),
    resources: performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:')) }));
});
</script></body>"""


def probe(page: Path, tmp_path: Path) -> dict:
    copy = tmp_path / "probed.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    dom = loaded_dom(copy, tmp_path / "profile")
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found is not None
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("runs")
    return {
        "autoemb-0": write_run(base / "autoemb-0", seed=0),
        "autoemb-1": write_run(base / "autoemb-1", seed=1),
        "fse": write_run(base / "fse", method="fse", skill=0.02),
    }


def test_chromium_draws_every_line_of_every_figure(runs: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = CliRunner().invoke(cli, ["report", *map(str, runs.values()), "--output", str(page)], catch_exceptions=False)
    assert result.output == f"{page}: 3 runs\n"
    drawn = probe(page, tmp_path)
    assert drawn["resources"] == []
    assert drawn["twice"] == []
    figures = drawn["figures"]
    assert list(figures) == ["g1-figure-6", "g1-figure-7-0", "g1-figure-8"]
    # Two methods and two references in both panels; three dimensions on both sides.
    assert [len(figures[name]["lines"]) for name in figures] == [8, 6, 8]
    for figure in figures.values():
        assert all(line["length"] > 100 for line in figure["lines"])
        assert all(line["colour"].startswith("rgb(") and line["colour"] != "rgb(0, 0, 0)" for line in figure["lines"])
        per_panel = len(figure["lines"]) // 2
        assert len({line["colour"] for line in figure["lines"]}) == per_panel
        assert figure["outside"] == []
        assert figure["width"] > 900
    assert figures["g1-figure-6"]["bars"] >= 8
    assert figures["g1-figure-6"]["bands"] == 2  # AutoEmb ran with two seeds
    texts = figures["g1-figure-6"]["texts"]
    for expected in ("AutoEmb", "FSE", "running user + item mean", "online logistic", "mean squared error (MSE)", "256"):
        assert expected in texts
    assert "earlier interactions of the item (bucket's lower bound)" in texts
    assert {"dimension 2", "dimension 16", "dimension 128"} <= set(figures["g1-figure-7-0"]["texts"])
    assert "interactions seen" in figures["g1-figure-8"]["texts"]


def test_searched_dimensions_are_a_histogram_and_bytes_stand_beside_the_error(tmp_path: Path) -> None:
    stream = Stream(name="synthetic-tastes", fingerprint="t", length=600, open=lambda: tastes(600))
    for method in ("autoemb", "fse"):
        learner = from_preset("stream", method=method, panel=0.2)
        config = TrainerConfig(learner=learner, context=ContextConfig(), prequential=PrequentialConfig())
        run_cell(tmp_path / method, config, stream, batch_size=50)
    page = tmp_path / "report.html"
    write_report([tmp_path / "autoemb", tmp_path / "fse"], page)
    figure = probe(page, tmp_path)["figures"]["g1-figure-7-0"]
    assert {"no row yet", "dimension 2", "dimension 16", "dimension 128"} <= set(figure["texts"])
    assert figure["outside"] == []
    (group,) = comparable([open_run(tmp_path / "autoemb"), open_run(tmp_path / "fse")])
    for side in ("user", "item"):
        curves = weights_by_popularity(group, group.variants[0], side)
        assert np.sum([curve.y for curve in curves], axis=0) == pytest.approx(np.ones(len(curves[0].x)), abs=1e-6)
        assert curves[0].y[0] > curves[0].y[-1]  # who is new has no row
    html = page.read_text(encoding="utf-8")
    for name, run in zip(("autoemb", "fse"), group.runs, strict=True):
        done = json.loads((tmp_path / name / "done.json").read_text())
        kept = kept_of(run.log)
        assert kept.bytes_share == pytest.approx(done["bytes_share_of_fixed"], rel=1e-6)
        assert f"{done['bytes_share_of_fixed']:.0%}" in kept.bytes_text
        assert f"<td>{kept.bytes_text.replace('(', '<small>(')}</small></td><td>{kept.given_up_text.partition('[')[0]}" in html
    assert "Bytes of fixed size" in html


def test_the_page_needs_no_network_and_names_synthetic_data(runs: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(list(runs.values()), page)
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", html)
    assert "@import" not in html
    assert "Synthetic data" in html
    real = tmp_path / "real.html"
    write_report([write_run(tmp_path / "real-run", dataset="ml-latest-small")], real)
    assert "ynthetic" not in real.read_text(encoding="utf-8")


def test_the_curves_are_those_of_the_log(runs: dict[str, Path]) -> None:
    (group,) = comparable([open_run(path) for path in runs.values()])
    assert [(variant.name, len(variant.runs)) for variant in group.variants] == [("AutoEmb", 2), ("FSE", 1)]
    frames = {name: read_predictions(path / "predictions").collect() for name, path in runs.items()}
    curves, counts = error_by_popularity(group, "item")
    own = frames["fse"].filter(pl.col("item_count").is_between(8, 15))
    place = list(curves[1].x).index(4)  # buckets 0, 1, 2-3, 4-7, 8-15
    assert curves[1].y[place] == pytest.approx(own["method_loss"].mean())
    assert counts[4] == len(own)
    both = np.mean([frames[f"autoemb-{s}"].filter(pl.col("item_count").is_between(8, 15))["method_loss"].mean() for s in (0, 1)])
    assert curves[0].y[place] == pytest.approx(both)
    weights = weights_by_popularity(group, group.variants[0], "user")
    assert [curve.name for curve in weights] == ["dimension 2", "dimension 16", "dimension 128"]
    assert np.sum([curve.y for curve in weights], axis=0) == pytest.approx(np.ones(len(weights[0].x)), abs=1e-6)
    assert weights_by_popularity(group, group.variants[1], "user") == []
    stretch, running = error_over_stream(group)
    assert stretch[1].x[-1] == running[1].x[-1] == 4000
    assert running[1].y[-1] == pytest.approx(frames["fse"]["method_loss"].mean())
    last = int(stretch[1].x[-2])
    assert stretch[1].y[-1] == pytest.approx(frames["fse"]["method_loss"][last:].mean())
    sums = user_sums(group, group.runs[2])
    assert sums["interactions"].sum() == 4000
    assert sums["method_loss"].sum() == pytest.approx(frames["fse"]["method_loss"].sum())


def test_a_longer_run_is_compared_on_what_both_have_seen(tmp_path: Path) -> None:
    long = write_run(tmp_path / "long", events=2000)
    short = write_run(tmp_path / "short", events=1000, method="fse")
    (group,) = comparable([open_run(long), open_run(short)])
    assert group.length == 1000
    assert user_sums(group, group.runs[0])["interactions"].sum() == 1000
    write_report([long, short], tmp_path / "r.html")
    assert "1,000 interactions (what all of these runs have seen)" in (tmp_path / "r.html").read_text()


def test_the_offline_stage_is_left_out_of_tables_and_kept_in_figure_8(tmp_path: Path) -> None:
    run = write_run(tmp_path / "staged", events=2000, offline=500)
    (group,) = comparable([open_run(run)])
    assert group.scored_from == 600  # the mini-batch that reaches 500 is offline still
    frame = read_predictions(run / "predictions").collect()
    sums = user_sums(group, group.runs[0])
    assert sums["method_loss"].sum() == pytest.approx(frame["method_loss"][600:].sum())
    _, counts = error_by_popularity(group, "user")
    assert sum(counts.values()) <= 1400
    assert error_over_stream(group)[1][0].y[-1] == pytest.approx(frame["method_loss"].mean())
    write_report([run], tmp_path / "r.html")
    assert "The first 600 interactions are the offline stage" in (tmp_path / "r.html").read_text()
    (early,) = comparable([open_run(write_run(tmp_path / "early", events=400, offline=5000))])
    assert (early.scored_from, user_sums(early, early.runs[0])["interactions"].sum()) == (0, 400)


def test_other_regimes_and_other_streams_stand_apart(runs: dict[str, Path], tmp_path: Path) -> None:
    strict = write_run(tmp_path / "strict", mode="strict")
    other = write_run(tmp_path / "other", stream=2)
    page = tmp_path / "report.html"
    assert write_report([runs["fse"], strict, other], page) == 3
    html = page.read_text()
    assert "3 groups that must not be compared" in html
    assert html.count('class="comparison"') == 3
    assert 'class="pairs"' not in html


def test_what_cannot_be_reported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(StateError, match="holds no run"):
        write_report([empty], tmp_path / "r.html")
    run = write_run(tmp_path / "run", events=400)
    with pytest.raises(ConfigurationError, match="one run twice"):
        write_report([run, run / ".." / "run"], tmp_path / "r.html")
    with pytest.raises(StateError, match="cannot be written"):
        write_report([run], tmp_path / "nowhere" / "r.html")
    for segment in (run / "predictions").iterdir():
        segment.write_bytes(b"torn")
    with pytest.raises(StateError, match="cannot be read"):
        write_report([run], tmp_path / "r.html")
    for segment in (run / "predictions").iterdir():
        segment.unlink()
    with pytest.raises(StateError, match="logged no predictions"):
        write_report([run], tmp_path / "r.html")
    monkeypatch.setitem(sys.modules, "autoemb_pipeline.experiments.drawing", None)
    good = write_run(tmp_path / "good", events=400)
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(good), "--output", str(tmp_path / "r.html")])
    assert stopped.value.code == 2
    assert "autoemb-pipeline[report]" in capsys.readouterr().err
