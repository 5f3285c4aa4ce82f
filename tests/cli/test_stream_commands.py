"""`stream init`, `stream check` and `train --stream`, as a new user types them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autoemb_pipeline.cli.main import main
from autoemb_pipeline.mapping.reading import parse_stream, read_stream
from tests.conftest import ROOT, TestBroker
from tests.run.kafka_reading import metrics_of
from tests.source.topics import write
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka
RECORDS = synthetic_stream(1_200, seed=9, users=30, items=20)
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(broker: TestBroker, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--bootstrap-servers", broker.bootstrap_servers])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return call


def clicks(first: int, last: int) -> list[bytes]:
    """A JSON click topic's records, as a web shop may write them."""
    return [
        json.dumps(
            {
                "user": {"id": r.user_id},
                "payload": {"item": r.item_id},
                "ts": r.timestamp + n,
                "event_type": "buy" if r.rating > 3.5 else "view",
            }
        ).encode()
        for n, r in enumerate(RECORDS[first:last], first)
    ]


def test_from_a_topic_to_the_first_figure_without_an_edit(
    broker: TestBroker, topic_name: str, make_topic: Callable[..., str], tmp_path: Path, run: Run
) -> None:
    make_topic(topic_name, 2)
    write(broker.kafka, topic_name, [*clicks(0, 900), b"rubbish"], lambda n: n % 2)
    file = tmp_path / "stream.toml"
    code, printed = run("stream", "init", "--topic", topic_name, "--output", file)
    assert code == 0
    assert f"next: autoemb-pipeline train --stream {file}" in printed
    assert read_stream(file).topics == (topic_name,)
    assert run("stream", "init", "--topic", topic_name, "--output", file)[0] == 2  # nothing is overwritten unasked
    code, printed = run("stream", "check", "--stream", file)
    assert code == 0
    assert "901 records: 900 usable (99.9%), 0 left out by the description" in printed
    assert "1 bad-json" in printed
    options = ("--until-end", "--batch-size", 100, "--state-dir", tmp_path / "run", "--metrics-topic", f"{topic_name}.m")
    names = ("--runtime-topic", f"{topic_name}.r")
    code, printed = run("train", "--stream", file, *options, *names)
    assert code == 0, printed
    last = metrics_of(broker.kafka, f"{topic_name}.m")[-1]
    assert (last["examples"], last["dead_letters"]) == (900, 1)
    assert 0.05 < last["positive_share"] < 0.95
    assert last["mse"] < 0.25


def test_options_go_before_the_description(
    broker: TestBroker, topic_name: str, make_topic: Callable[..., str], tmp_path: Path, run: Run
) -> None:
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, [json.dumps({"u": r.user_id, "i": r.item_id, "stars": r.rating}).encode() for r in RECORDS[:300]])
    file = tmp_path / "stream.toml"
    file.write_text(
        '[input]\ntopics = ["another"]\nformat = "json"\n[fields]\nuser = "u"\nitem = "i"\n[timestamp]\nunit = "record"\n'
        '[label]\nfield = "stars"\npositive_above = 3.5\n'
    )
    shares = {}
    for name, more in {"described": (), "given": ("--positive-above", 2)}.items():
        topics = ("--metrics-topic", f"{topic_name}.{name}", "--runtime-topic", f"{topic_name}.r", "--from", "beginning")
        code, printed = run("train", "--stream", file, "--topic", topic_name, "--until-end", "--state-dir", tmp_path / name, *topics, *more)
        assert code == 0, printed
        shares[name] = metrics_of(broker.kafka, f"{topic_name}.{name}")[-1]["positive_share"]
    ratings = [r.rating for r in RECORDS[:300]]
    assert shares["described"] == pytest.approx(sum(r > 3.5 for r in ratings) / 300)
    assert shares["given"] == pytest.approx(sum(r > 2 for r in ratings) / 300)


def test_what_cannot_be_used_is_refused_before_anything_is_read(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "stream.toml"
    file.write_text('[input]\ntopics = "t"\nformat = "json"\n[fields]\nuser = "u"\n')
    code, printed = run("train", "--stream", file)
    assert code == 2
    assert "[fields] lacks item" in printed
    file.write_text(
        '[input]\ntopics = "t"\nformat = "json"\n[fields]\nuser = "u"\nitem = "i"\n[timestamp]\nunit = "record"\n[label]\nfield = "l"\n'
    )
    code, printed = run("train", "--stream", file, "--task", "rating")
    assert code == 2
    assert "The rating task cannot be trained on the label 'l'" in printed
    assert run("train", "--stream", file, "--from", "yesterday")[0] == 2


def test_a_topic_that_is_not_there(tmp_path: Path, run: Run) -> None:
    code, printed = run("stream", "init", "--topic", "no-such-topic", "--output", tmp_path / "s.toml")
    assert code == 4
    assert "There is no topic 'no-such-topic'" in printed


def test_a_proposal_is_written_whole_or_not_at_all(
    broker: TestBroker, topic_name: str, make_topic: Callable[..., str], tmp_path: Path, run: Run
) -> None:
    make_topic(topic_name, 1)
    write(broker.kafka, topic_name, clicks(0, 40))
    code, printed = run("stream", "init", "--topic", topic_name, "--output", tmp_path / "nowhere" / "s.toml")
    assert code == 2
    assert "s.toml cannot be written" in printed
    file = tmp_path / "s.toml"
    assert run("stream", "init", "--topic", topic_name, "--topic", topic_name, "--output", file)[0] == 0
    assert read_stream(file).topics == (topic_name,)


def test_the_worked_example_of_the_documentation(broker: TestBroker, tmp_path: Path, run: Run) -> None:
    page = (ROOT / "docs" / "own-stream.md").read_text(encoding="utf-8")
    script = page.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-", "600", broker.bootstrap_servers], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "stream.toml"
    code, printed = run("stream", "init", "--topic", "clicks", "--output", file)
    assert code == 0, printed
    shown = page.partition("```toml\n")[2].partition("```")[0]
    assert read_stream(file) == parse_stream(shown)
    code, printed = run("stream", "check", "--stream", file)
    assert code == 0
    assert "left out by the description" in printed
