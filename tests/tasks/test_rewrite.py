"""Translation of documents by a model trained here, exact on every sentence that it reads whole."""

import re

import pytest
import torch
from helpers.trained_models import Draw
from helpers.word_map import CHINESE, ENGLISH, LONGEST, by_hand, tokenizer, trained, untrained

import lckernels
from lckernels.tasks import rewrite

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model():
    return trained()


def sentence(draw, chinese, length):
    words = [(CHINESE if chinese else ENGLISH)[i] for i in draw(0, 8, length).tolist()]
    words = ["不" if chinese else "Not"] * int(draw(0, 2, 1)) + words
    return "".join(words) + "。" if chinese else " ".join(words) + "."


def written(source):
    return " ".join(by_hand(re.findall(r"[A-Za-z]+|\S", source)))


def documents(chinese):
    """A text with blank lines, indentation, lists and lines without letters, and its translation by hand."""
    draw = Draw(3)
    layout = [
        "{}\n\n",
        "  {}\n\n\n",
        "1. {}\n",
        "2. {}\n   - {}\n",
        "\t{}\r\n",
        "12\n---\n",
        "　　{}\n\n",
        "{}\n\n",
    ]
    text = expected = ""
    for line in layout * 2:
        filled = [[sentence(draw, chinese, int(draw(1, LONGEST - 1, 1))) for _ in range(3)] for _ in range(2)]
        text += line.format(*(("" if chinese else " ").join(part) for part in filled))
        expected += line.format(*(" ".join(map(written, part)) for part in filled))
    return text, expected


@pytest.mark.parametrize("chinese", [False, True])
def test_a_document_is_translated_sentence_by_sentence_with_its_layout(model, chinese):
    text, expected = documents(chinese)
    found = rewrite(model, tokenizer(), text)
    assert found.text == expected
    assert len(found.parts) == 48
    assert all(part.source == text[part.start : part.end] for part in found.parts)
    assert [part.text for part in found.parts] == [written(part.source) for part in found.parts]
    assert (found.coverage, found.missing, found.cut) == (1.0, [], [])
    assert (
        found.num_tokens == len(tokenizer()(re.sub("(?m)^\\s*(12|---|\\d\\.|-)", "", text))["input_ids"]) - 1
    )


def test_chunks_of_tokens_are_worse_at_their_seams(model):
    """Each chunk is translated sentence by sentence: of those that a seam cuts many are wrong."""
    text, expected = documents(chinese=False)
    ids = tokenizer()(text, add_special_tokens=False)["input_ids"]
    chunks = [tokenizer().decode(ids[i : i + LONGEST]) for i in range(0, len(ids), LONGEST)]
    by_chunk = " ".join(found.text for found in rewrite(model, tokenizer(), chunks))
    whole = [part.text for part in rewrite(model, tokenizer(), text).parts]
    assert all(sentence in expected for sentence in whole)
    found = [sentence.strip() + " ." for sentence in by_chunk.split(".")]
    assert sum(sentence in found for sentence in whole) < 0.9 * len(whole)  # 37 of 48


def test_several_texts_and_a_lengthened_model(model):
    texts = [documents(chinese)[0] for chinese in (False, True)] + ["12\n"]
    alone = [rewrite(model, tokenizer(), text) for text in texts]
    assert rewrite(model, tokenizer(), texts, batch=3) == alone
    assert alone[2].text == "12\n" and alone[2].parts == []
    with lckernels.lengthened(model, tokenizer()):
        assert rewrite(model, tokenizer(), texts) == alone


def test_a_paragraph_that_is_wrapped(model):
    text = "  Not River Mountain Winter Garden Letter\n  Silver Engine. Winter River.\n\nGarden."
    assert rewrite(model, tokenizer(), text).text == "  neg v0 v1 v2 v4 v5 v6 v3 . u2 u0 .\n\nu4 ."
    found = rewrite(model, tokenizer(), text, wrapped=False)
    assert found.text == "  neg v0 v1 v2 v4 v5\n  u6 u3 . u2 u0 .\n\nu4 ."


def test_a_sentence_that_is_longer_than_the_model_is_cut_and_reported(model):
    clauses = "Not " + "River Winter Garden Silver, " * 4
    text = f"Letter. {clauses[:-2]}. Engine."
    found = rewrite(model, tokenizer(), text)
    assert [part.is_cut for part in found.parts] == [False, True, True, False]
    assert found.cut == found.parts[1:3] and all(part.source.endswith((",", ".")) for part in found.cut)
    assert found.cut[0].text == written(found.cut[0].source) and found.coverage == 1


def test_outputs_that_may_be_incomplete(model):
    text = "River Winter Garden Silver Letter Harbour. Engine."
    found = rewrite(model, tokenizer(), text, max_new_tokens=4)
    assert [part.problem for part in found.parts] == ["stopped after 4 tokens, before an end", ""]
    text = "River Winter Garden Silver Letter Harbour Engine River Winter Garden Silver Letter."
    short = rewrite(model, tokenizer(), text, eos_token_id=tokenizer().convert_tokens_to_ids("u2"))
    assert (short.parts[0].text, short.missing) == ("u0 u2", short.parts)
    assert short.parts[0].problem == "tokens: 2 for 13"


def test_a_limit_of_tokens(model):
    text = "River Winter. Garden.\n\nSilver Letter.\n"
    found = rewrite(model, tokenizer(), text, limit=5)
    assert (found.text, found.num_tokens) == ("u0 u2 . u4 .", 5)
    assert found.coverage == pytest.approx(19 / 32)
    assert rewrite(model, tokenizer(), text, limit=8).text == "u0 u2 . u4 .\n\nu5 u6 .\n".replace(
        "u5 u6", "u6 u5"
    )


def test_arguments_of_generate(model):
    text, expected = documents(chinese=True)
    assert rewrite(model, tokenizer(), text, num_beams=2, length_penalty=1.0).text == expected
    config = transformers.GenerationConfig(
        max_length=5, decoder_start_token_id=2, eos_token_id=1, pad_token_id=0
    )
    found = rewrite(model, tokenizer(), text, generation_config=config)
    assert max(len(part.text.split()) for part in found.parts) == 4 and found.missing


def test_a_model_that_forces_its_last_token(model):
    text = "River Winter. Garden Silver Letter Engine."
    found = rewrite(model, tokenizer(), text, forced_eos_token_id=1, max_new_tokens=5)
    assert [part.text for part in found.parts] == ["u0 u2 .", "u4 u6 u5 u3"]
    assert [part.problem for part in found.parts] == ["", "stopped after 4 tokens, before an end"]


def test_context_is_read_and_not_written(model):
    """Against `generate` with a mask over the states of the whole row."""
    text = "River Winter. Not Garden Silver. Letter.\n"
    found = rewrite(model, tokenizer(), text, context_sentences=1)
    sentences = [part.source for part in found.parts]
    plain = rewrite(model, tokenizer(), text)
    assert found.parts[0] == plain.parts[0] and found.text != plain.text
    for before, part in zip(sentences, found.parts[1:], strict=False):
        context, ids = (tokenizer()(x, add_special_tokens=False)["input_ids"] for x in (before, part.source))
        row = torch.tensor([[*context, *ids, 1]])
        mask = (torch.arange(row.shape[1]) >= len(context)).long()[None]
        states = model.get_encoder()(input_ids=row)
        written_here = model.generate(encoder_outputs=states, attention_mask=mask, max_new_tokens=15)
        assert part.text == tokenizer().decode(written_here[0], skip_special_tokens=True)


def test_what_context_decides():
    """A model trained here: the word to write depends on the sentence before, in another paragraph."""
    torch.manual_seed(0)
    model, draw = untrained(), Draw()
    it, stop, first, he = (tokenizer().convert_tokens_to_ids(x) for x in ("Not", ".", ENGLISH[0], "u0"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        word = draw(0, 8, 32)
        ends = torch.tensor([stop, it, stop, 1]).expand(32, -1)
        states = model.get_encoder()(input_ids=torch.cat([first + word[:, None], ends], 1))
        states.last_hidden_state = states.last_hidden_state[:, 2:]
        labels = torch.stack([he + word // 4, *torch.tensor([stop, 1]).expand(32, -1).T], 1)
        optimizer.zero_grad()
        model(encoder_outputs=states, labels=labels).loss.backward()
        optimizer.step()
    model.eval()
    texts = [f"{word}.\n\n- Not.\n" for word in ENGLISH]

    def of_second(**options):
        return [found.parts[1].text for found in rewrite(model, tokenizer(), texts, **options)]

    expected = ["u0 ."] * 4 + ["u1 ."] * 4
    assert of_second(context_sentences=1) == expected
    assert len(set(of_second())) == 1  # without context all these sentences are the same


def test_a_slow_tokenizer():
    """One of bytes, without offsets."""
    byt5 = transformers.ByT5Tokenizer()
    config = transformers.T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    found = rewrite(model, byt5, "One day.\n\n- 两天。</s>", prefix="translate: ", max_new_tokens=3)
    assert [part.source for part in found.parts] == ["One day.", "两天。", "</s>"]
    assert found.num_tokens == 8 + 9 + 4 and found.coverage == 1.0


def test_nothing_changes(model):
    words = tokenizer(limit=16)
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    before = (model.generation_config.to_dict(), words.model_max_length, words.backend_tokenizer.to_str())
    rewrite(model, words, "River. Garden.", max_new_tokens=3)
    rewrite(model, words, "River. " * 30, "summarize", max_new_tokens=3)
    assert (
        model.generation_config.to_dict(),
        words.model_max_length,
        words.backend_tokenizer.to_str(),
    ) == before
    assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())


def test_progress(model, capfd):
    rewrite(model, tokenizer(), "River. Garden.", progress=True)
    assert "4.00/4.00" in capfd.readouterr().err
    rewrite(untrained().eval(), tokenizer(), "River. Garden.")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("own", [False, True])
def test_a_configuration_of_several_sequences(model, monkeypatch, own):
    """One sequence, and no object around it, whatever a generation_config has."""
    text, expected = documents(chinese=False)
    options = {"num_return_sequences": 2, "return_dict_in_generate": True, "num_beams": 2}
    if own:
        for name, value in options.items():
            monkeypatch.setattr(model.generation_config, name, value)
        assert rewrite(model, tokenizer(), text).text == expected
    else:
        config = transformers.GenerationConfig(**options)
        assert rewrite(model, tokenizer(), text, generation_config=config).text == expected
