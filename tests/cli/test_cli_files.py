"""The commands search and encode on several files and folders, and what they do with saved states."""

# ruff: noqa: E402
import json
import os
import re
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from helpers.cli import error_message, run
from helpers.tiny_bert import save_tiny_bert, tiny_text

from lckernels.errors import InputError
from lckernels.long import text_encoder
from lckernels.search.saved_states import States, load_states, save_states
from lckernels.text_files import read_text


@pytest.fixture
def folder(book):
    """A folder with two texts, one of them in a subfolder, and files that are no texts."""
    place = book.parent / "texts"
    (place / "deep").mkdir(parents=True)
    (place / "a.txt").write_text(tiny_text(12))
    (place / "deep" / "b.MD").write_text("Silver harbour river. Shadow window letter.")
    (place / "c.png").write_bytes(b"\x89PNG")
    (place / ".hidden.txt").write_bytes(b"\xff")
    return place


def test_passages_of_all_files_in_one_ranking(model, book, folder):
    options = ("--model", model, "--top", 4, "--passage-tokens", 20)
    result = run("search", book, folder, "silver harbour", *options)
    assert result.exit_code == 0, result.stderr
    heads = re.findall(r"^ (\d)  score (-?\d\.\d{3})   .*, character [\d,]+   (\S+)$", result.stdout, re.M)
    assert [rank for rank, *_ in heads] == ["1", "2", "3", "4"]
    scores = [float(score) for _, score, _ in heads]
    assert scores == sorted(scores, reverse=True)
    single = [run("search", file, "silver harbour", *options, "--no-plot").stdout for file in
              (book, folder / "a.txt", folder / "deep" / "b.MD")]  # fmt: skip
    apart = [float(score) for out in single for score in re.findall(r"score (-?\d\.\d{3})", out)]
    assert scores == sorted(apart, reverse=True)[:4]
    for name in (book, folder / "a.txt", folder / "deep" / "b.MD"):
        assert f"\n{name}\n" in result.stdout
    assert re.search(r"^\d+ passages, 4 printed$", result.stdout, re.M)
    assert not list(book.parent.rglob("*.search.png")), "several files have no picture"


def test_the_model_is_loaded_once(model, book, folder, monkeypatch):
    loaded, load = [], text_encoder.load
    monkeypatch.setattr(text_encoder, "load", lambda *args: loaded.append(args) or load(*args))
    assert run("search", book, folder, "river", "--model", model, "-q").exit_code == 0
    assert run("encode", book, folder, "-o", "out", "--model", model, "-q").exit_code == 0
    assert len(loaded) == 2


def test_encode_writes_a_folder(model, book, folder):
    result = run("encode", book, folder, "-o", "out", "--model", model)
    assert result.exit_code == 0, result.stderr
    written = {
        str(path.relative_to(book.parent / "out")): path for path in book.parent.rglob("*.safetensors")
    }
    for name, path in written.items():
        text = read_text(book if name.startswith("book") else folder / name.removesuffix(".safetensors"))
        assert load_states(path).metadata["text_sha256"] == text.sha256
    assert sorted(written) == ["a.txt.safetensors", "book.txt.safetensors", "deep/b.MD.safetensors"]
    again = run("search", book, folder, "river", "--model", model, "--states", "out")
    assert again.stdout.count("states taken from the file") == 3


def test_one_vector_for_the_text(model, book):
    from safetensors.torch import load_file

    assert run("encode", book, "-o", "s.safetensors", "--model", model, "--dtype", "bfloat16").exit_code == 0
    stored = load_file("s.safetensors")["document"]
    states = load_states("s.safetensors")
    mean = states.states.double().mean(0)
    torch.testing.assert_close(stored.double(), mean / mean.norm(), atol=1e-6, rtol=0)
    assert torch.equal(states.document, stored)


def test_json_of_search(model, book, folder):
    options = ("--model", model, "--top", 3, "--passage-tokens", 20, "--overlap", 5)
    result = run("search", book, folder, "silver harbour", *options, "--json", "--keep")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    assert set(found) == {"question", "model", "files", "passages", "picture"}
    assert (found["question"], found["model"], found["picture"]) == ("silver harbour", model, None)
    assert [one["file"] for one in found["files"]] == [
        str(book),
        *map(str, (folder / "a.txt", folder / "deep/b.MD")),
    ]
    for one in found["files"]:
        assert (one["chunk_len"], one["overlap"], one["weights"], one["states_reused"]) == (
            32, 5, "triangular", False,
        )  # fmt: skip
        assert one["states"] == f"{one['file']}.safetensors"
        assert one["tokens_per_second"] == pytest.approx(one["tokens"] / one["seconds"], rel=0.1)
        assert one["text_sha256"] == read_text(book.parent / one["file"]).sha256
    assert [one["rank"] for one in found["passages"]] == [1, 2, 3]
    for one in found["passages"]:
        content = read_text(book.parent / one["file"]).content
        assert content[one["start"] : one["end"]] == one["text"]
        assert one["line"] == content.count("\n", 0, one["start"]) + 1
        assert one["percent"] == pytest.approx(100 * one["start"] / len(content))
    again = json.loads(run("search", book, "river", *options, "--json", "--keep").stdout)
    assert again["files"][0]["states_reused"]
    assert again["picture"] == "book.search.png"


def test_json_of_encode(model, book):
    result = run("encode", book, "-o", "s.safetensors", "--model", model, "--json", "-q")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert set(found) == {"model", "files"}
    assert found["files"][0]["states"] == "s.safetensors"
    assert found["files"][0]["tokens"] == len(load_states("s.safetensors").offsets)


def test_positions_count_a_byte_order_mark(model, book):
    """Positions are those of the characters in the file, of which the mark is one."""
    plain = book.read_text()
    book.write_text(f"\ufeff{plain}", encoding="utf-8")
    content = book.read_text(encoding="utf-8")
    assert run("encode", book, "-o", "s.safetensors", "--model", model).exit_code == 0
    stored = load_states("s.safetensors")
    assert content[slice(*stored.offsets[0])] == plain.split()[0]
    search = ("search", book, "river", "--model", model, "--no-plot", "--states", "s.safetensors")
    found = json.loads(run(*search, "--json").stdout)
    assert found["files"][0]["states_reused"]
    for one in found["passages"]:
        assert content[one["start"] : one["end"]] == one["text"]
    assert f", character {found['passages'][0]['start']:,}" in run(*search).stdout
    # States of an earlier version, which did not count the mark.
    earlier = {name: value for name, value in stored.metadata.items() if name != "byte_order_mark"}
    save_states(Path("s.safetensors"), States(stored.states, stored.offsets - 1, earlier))
    assert "is made anew: byte_order_mark is None, not counted" in run(*search).stderr
    assert torch.equal(load_states("s.safetensors").offsets, stored.offsets)


@pytest.mark.parametrize("option", [("--keep",), ("--states", "s.safetensors")])
def test_states_of_another_text_are_not_replaced(model, book, option):
    search = ("search", book, "river", "--model", model, "--no-plot", *option)
    assert run(*search).exit_code == 0
    kept = next(book.parent.glob("*.safetensors"))
    before = kept.read_bytes()
    book.write_text(tiny_text(30))
    message = error_message(*search)
    assert f"{kept.name} stores the states of another text (text_sha256 is " in message
    assert message.endswith("choose another path or add --overwrite\n")
    assert kept.read_bytes() == before
    result = run(*search, "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert "does not fit and is made anew: text_sha256 is " in result.stderr
    assert load_states(kept).metadata["text_sha256"] == read_text(book).sha256


def test_encode_does_not_replace_states_of_another_text(model, book):
    encode = ("encode", book, "-o", "s.safetensors", "--model", model)
    assert run(*encode).exit_code == 0
    assert run(*encode).exit_code == 0, "states of the same text are replaced"
    book.write_text(tiny_text(30))
    assert "stores the states of another text" in error_message(*encode)
    assert run(*encode, "--overwrite").exit_code == 0


def test_the_library_rejects_states_of_another_text(model, book):
    from lckernels.search.encoding import load_or_encode

    encoder, path = text_encoder.TextEncoder(model), book.parent / "s.safetensors"
    load_or_encode(read_text(book), encoder, path)
    book.write_text(tiny_text(30))
    with pytest.raises(InputError, match=r"states of another text .*; pass overwrite=True"):
        load_or_encode(read_text(book), encoder, path)
    _, reused = load_or_encode(read_text(book), encoder, path, overwrite=True)
    assert not reused
    _, reused = load_or_encode(read_text(book), encoder, path)
    assert reused


def test_folders_and_files_that_do_not_fit(model, book, folder):
    options = ("--model", model, "-q")
    empty = book.parent / "empty"
    empty.mkdir()
    assert "the folder empty has no text file (.txt, .md)" in error_message("search", "empty", "x", *options)
    assert "is named twice" in error_message("search", book, book.parent, "x", *options)
    assert "--plot draws one FILE" in error_message("search", folder, "x", "--plot", "p.png", *options)
    assert "book.txt is a file; expected a folder for the states of 2 files" in error_message(
        "encode", folder, "-o", "book.txt", *options
    )
    assert "the folder no for out does not exist" in error_message("encode", folder, "-o", "no/out", *options)
    (empty / "book.txt").write_text("River.")
    message = error_message("encode", "book.txt", "empty/book.txt", "-o", "out", *options)
    assert "the states of book.txt and empty/book.txt would both be out/book.txt.safetensors" in message
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    assert "latin.txt is not a text file in UTF-8: byte 3" in error_message("search", folder, "x", *options)


def test_a_folder_is_not_one_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^\. is a folder, not a text file$"):
        read_text(tmp_path.relative_to(os.getcwd()))


@pytest.mark.parametrize(
    ("limit", "options", "remark"),
    [
        (None, (), "chunk length 32 tokens, all positions of the model"),
        (None, ("--chunk-len", 16), "chunk length 16 tokens"),
        (32, (), "chunk length 32 tokens, all positions of the model"),
        (34, (), "chunk length 32 tokens, all positions of the model"),
        (16, ("--chunk-len", 16), "chunk length 16 tokens"),
        (16, (), "chunk length 32 tokens, all positions of the model; --chunk-len 16 is the "
                 "max_seq_length in its sentence_bert_config.json"),
        (16, ("--chunk-len", 20), "chunk length 20 tokens; --chunk-len 16 is the "
                                  "max_seq_length in its sentence_bert_config.json"),
    ],
)  # fmt: skip
def test_the_length_of_chunks_is_said(tmp_path, book, limit, options, remark):
    model = save_tiny_bert(tmp_path / "model")
    if limit:
        (model / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
    result = run("search", book, "river", "--model", model, "--no-plot", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines()[0] == remark
    assert run("search", book, "river", "--model", model, "--no-plot", "-q", *options).stderr == ""


def test_a_task_head_that_is_not_loaded_is_said(tmp_path, book):
    model = save_tiny_bert(tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(model, num_labels=3)
    transformers.BertForSequenceClassification(config).save_pretrained(model)
    result = run("search", book, "river", "--model", model, "--no-plot")
    assert result.exit_code == 0, result.stderr
    remark = "was saved from BertForSequenceClassification; its task head is not loaded, only its encoder"
    assert result.stderr.splitlines()[0] == f"{model} {remark}"


def test_warnings_of_the_encoder_are_remarks(model, book, monkeypatch):
    monkeypatch.setattr(text_encoder, "dropped_head", lambda *_: "a sentence")
    for options, remarks in (((), ["a sentence"]), (("-q",), [])):
        result = run("search", book, "river", "--model", model, "--no-plot", *options)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.splitlines()[:1] == remarks


def test_weights_are_hashed_only_for_saved_states_and_once(model, book, folder, monkeypatch):
    hashed, hash_weights = [], text_encoder.weights_sha256
    monkeypatch.setattr(text_encoder, "weights_sha256", lambda *a: hashed.append(a) or hash_weights(*a))
    options = ("--model", model, "-q", "--no-plot")
    assert run("search", book, folder, "river", *options).exit_code == 0
    assert len(hashed) == 0
    assert run("search", book, folder, "river", *options, "--states", "out").exit_code == 0
    assert run("search", book, folder, "river", *options, "--states", "out").exit_code == 0
    assert len(hashed) == 2
