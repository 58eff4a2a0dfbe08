"""The demo's reader: its training rows have the right answers, and it answers from notes of many chunks."""

import random

import pytest

pytest.importorskip("transformers")

from bench.demo import answer as demo


def test_the_answers_of_the_training_rows():
    read = demo.tokenizer()
    rows = next(demo.batches(read, random.Random(3)))
    kinds = {word: kind for kind, words in demo.KINDS.items() for word in words}
    without = 0
    for ids, start, end in zip(
        rows["input_ids"], rows["start_positions"], rows["end_positions"], strict=True
    ):
        words = read.convert_ids_to_tokens(ids)
        assert "[UNK]" not in words and start == end
        if start == 0:
            without += 1
            assert words[2] not in [kinds.get(word) for word in words]
        else:
            assert kinds[words[start]] == words[2]
    assert 0 < without < demo.ROWS / 2


@pytest.mark.slow
def test_the_demo_answers(tmp_path, monkeypatch, capsys):
    pytest.importorskip("typer")
    from helpers.cli import run

    printed = []
    monkeypatch.setattr(demo, "FOLDER", tmp_path / "demo")
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo.subprocess, "run", lambda line, check: printed.append(run(*line[3:])))
    monkeypatch.setattr("sys.argv", ["answer"])
    demo.main()
    assert "truncation would leave 3%" in capsys.readouterr().out
    (result,) = printed
    assert result.exit_code == 0, result.output
    _, things = demo.notes(random.Random(1), 400, list(demo.KINDS))
    assert f" 1   {things['bird']} " in result.stdout
    assert (tmp_path / "demo" / "notes.html").is_file()


def test_a_wrong_answer_ends_the_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "FOLDER", tmp_path / "demo")
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "reader", lambda read: demo.train(
        demo.transformers.BertForQuestionAnswering(demo.config(read)), demo.batches(read, random.Random(0)), 5
    ))  # fmt: skip
    monkeypatch.setattr("sys.argv", ["answer", "--sentences", "20"])
    with pytest.raises(SystemExit, match="expected"):
        demo.main()
