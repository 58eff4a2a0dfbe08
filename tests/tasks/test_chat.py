"""Chat: each turn is that of the windowed forward over all ids of the dialogue; its cache does not grow."""

# ruff: noqa: E402, RUF001
import copy
import dataclasses
import threading

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.tiny_decoder import SIZES, byte_tokenizer

import lckernels
from lckernels.hf.cache import RollingLayer
from lckernels.hf.patch.modules import is_patched
from lckernels.tasks import Chat

WINDOW = 24
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen 3: what the model has thought is left out of all turns but the last.
FORGETS = CHATML.replace(
    "{{ m.content }}",
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' and not loop.last else m.content }}",
)
MESSAGES = ["Who is a wizard?", "And a hacker?", "Why", "他是谁？", "谢谢，再见。" * 5, "Bye"]
OPTIONS = {"do_sample": False, "max_new_tokens": 7}


def tokenizer(template=CHATML):
    made = byte_tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


@pytest.fixture(scope="module")
def model():
    """A Llama in fp64 whose replies are small letters."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SIZES, "vocab_size": 262, "max_position_embeddings": 10_000})
    model = transformers.LlamaForCausalLM(config).double().eval()
    model.generation_config.eos_token_id = 261
    letters = byte_tokenizer().convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz"))
    with torch.no_grad():
        model.lm_head.weight[[i for i in range(262) if i not in letters]] = 0
    return model


@pytest.fixture(params=[CHATML, None], ids=["template", "plain"])
def read(request):
    return tokenizer(request.param)


def windowed(model, ids, **options):
    """The reply to these ids from calls without a cache."""
    with torch.no_grad():
        found = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), use_cache=False, **OPTIONS, **options
        )
    return found[0, len(ids) :].tolist()


@pytest.mark.parametrize("sink_tokens", [0, 4, None])
def test_turns_are_those_of_the_windowed_forward(model, read, sink_tokens):
    with Chat(model, read, WINDOW, sink_tokens, system="Be brief.", **OPTIONS) as chat:
        before = 0
        for message in MESSAGES:
            reply, ids = chat(message), chat.ids
            prompt = ids[: len(ids) - reply.num_tokens]
            assert ids[len(prompt) :] == windowed(model, prompt) and len(prompt) > before
            assert reply.text == read.decode(ids[len(prompt) :], skip_special_tokens=True).strip()
            assert message in read.decode(prompt[before:]) and not reply.is_complete
            before = len(ids)
        whole = torch.tensor([chat.ids])
        chat._read(whole[:, :-1])
        with torch.no_grad():
            found = model(whole[:, -1:], attention_mask=torch.ones_like(whole), **chat._cached()).logits[
                0, -1
            ]
            expected = model(whole, use_cache=False).logits[0, -1]
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert reply.num_cached <= WINDOW + chat._layers()[0].kept.sink_tokens
    assert not any("lckernels" in str(module.__dict__.get("forward")) for module in model.modules())


def test_the_dialogue_is_what_the_template_writes(model):
    read, turns = tokenizer(), [{"role": "system", "content": "Be brief."}]
    with Chat(model, read, 1000, system="Be brief.", **OPTIONS) as chat:
        for message in MESSAGES:
            reply = chat(message)
            turns.append({"role": "user", "content": message})
            whole = read.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            assert read.decode(chat.ids) == whole + reply.text and not reply.rewritten
            turns.append({"role": "assistant", "content": reply.text})


def test_plain_turns(model):
    with Chat(model, tokenizer(None), 1000, system="Be brief.", **OPTIONS) as chat:
        replies = [chat(message).text for message in MESSAGES[:3]]
        turns = "\n".join(f"User: {x}\nAssistant:{y}" for x, y in zip(MESSAGES, replies, strict=False))
        assert chat.tokenizer.decode(chat.ids) == f"<s>Be brief.\n\n{turns}"


def test_the_end_of_a_reply_is_written_once(model):
    """It is part of the turn that follows, by the template; another end-of-sequence token is not."""
    for template in (CHATML, None):
        read = tokenizer(template)
        with Chat(model, read, WINDOW, **OPTIONS) as chat:
            first = chat("Who?", forced_eos_token_id=261)
            assert first.is_complete and first.num_tokens == 6 and chat.ids[-1] != 261
            second = chat("And?")
            end = "<|im_end|>\n<|im_start|>user\nAnd?" if template else "\nUser: And?"
            prompt = chat.ids[: len(chat.ids) - second.num_tokens]
            assert end in read.decode(prompt) and read.decode(prompt).count("<|im_end|>") == (
                3 if template else 0
            )
            assert chat.ids[len(prompt) :] == windowed(model, prompt)


def check_memory(model, turns):
    sizes, read = [], tokenizer()
    with Chat(model, read, WINDOW, 4, do_sample=False, max_new_tokens=1) as chat:
        for i in range(turns):
            reply = chat(f"{i:04d}" + " more" * (i % 3))
            sizes.append(chat.cache_bytes)
            assert reply.num_cached <= WINDOW + 4 + 64
        assert len(chat.ids) > 30 * turns and all(isinstance(x, int) for x in chat.ids)
        assert max(sizes[8:]) == sizes[8] and all(isinstance(layer, RollingLayer) for layer in chat._layers())
        prompt = chat.ids[:-1]
        assert chat.ids[-1:] == windowed(model, prompt, max_length=None)[:1]


def test_memory_does_not_grow(model):
    check_memory(model, 60)


@pytest.mark.slow  # 1,000 turns
def test_memory_does_not_grow_over_a_thousand_turns(model):
    check_memory(model, 1000)


def test_the_system_prompt_stays_visible(model):
    """Its tokens are sink tokens by default, if they fit in a window."""
    read = tokenizer()
    for window, fits in ((64, True), (16, False)):
        with Chat(model, read, window, system="Answer in Chinese.", **OPTIONS) as chat:
            chat("Hi")
            text = read.decode(chat.ids[: chat.num_system_tokens])
            assert text == "<|im_start|>system\nAnswer in Chinese.<|im_end|>\n<|im_start|>user\n"
            assert chat._layers()[0].kept.sink_tokens == (chat.num_system_tokens if fits else 4)
    with Chat(model, read, 16, **OPTIONS) as chat:
        assert chat.num_system_tokens == 0 and "4 sink tokens" in str(chat.report)


def test_a_reply_as_an_iterator(model, read):
    with Chat(model, read, WINDOW, **OPTIONS) as chat:
        replies = [chat(message) for message in MESSAGES[:3]]
        ids = chat.ids
        chat.reset()
        assert (chat.ids, chat.num_cached, chat.reply) == ([], 0, None)
        for message, reply in zip(MESSAGES, replies, strict=False):
            assert "".join(chat(message, stream=True)).strip() == reply.text
            assert chat.reply == reply
        assert chat.ids == ids


def test_an_iterator_that_is_left(model, read):
    with Chat(model, read, WINDOW, do_sample=False, max_new_tokens=400) as chat:
        pieces = chat("Who?", stream=True)
        next(pieces)
        with pytest.raises(
            ValueError, match="message: got a turn while another one runs; first exhaust or close"
        ):
            chat("And?")
        pieces.close()
        assert 1 <= chat.reply.num_tokens < 400 and len(chat.ids) > chat.reply.num_tokens
        for _ in chat("Why?", stream=True):
            break
        reply = chat("And?", max_new_tokens=7)
        prompt = chat.ids[:-7]
        assert chat.ids[-7:] == windowed(model, prompt) and reply.num_tokens == 7
        last = chat("Bye", stream=True)
        next(last)
    with pytest.raises(ValueError, match="message: got a turn of a dialogue after close"):
        chat("And?")


def test_close_and_reset_end_the_turn_that_runs(model):
    """Whatever iterators there are, and from any thread; what the turn has read is not written back."""
    options = {"do_sample": False, "max_new_tokens": 2000}
    with Chat(model, tokenizer(), WINDOW, **options) as chat:
        first = chat("Who?", stream=True)
        next(first)
        with pytest.raises(ValueError, match="message: got a turn while another one runs"):
            chat("And?", stream=True)
        chat.reset()
        assert len("".join(first)) < 1900 and (chat.ids, chat.reply) == ([], None)
        second = chat("Why?", stream=True)
        next(second)
        errors = []
        reading = threading.Thread(target=lambda: list(second))
        reading.start()

        def close():
            try:
                chat.close()
            except BaseException as error:
                errors.append(error)

        closing = threading.Thread(target=close)
        closing.start()
        closing.join(30)
        reading.join(30)
        assert not errors and not reading.is_alive() and not is_patched(model)
        assert 1 <= chat.reply.num_tokens < 2000
        with pytest.raises(ValueError, match="message: got a turn of a dialogue after close"):
            chat("And?", stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_an_interrupted_turn_is_not_part_of_the_dialogue(model, read, stream):
    def stops_at(number):
        calls = []

        def criterion(ids, scores, **options):
            calls.append(0)
            if len(calls) == number:
                raise KeyboardInterrupt
            return torch.zeros(len(ids), dtype=torch.bool)

        return [criterion]

    with Chat(model, read, WINDOW, **OPTIONS) as chat:
        chat("Who?")
        ids, last = chat.ids, chat.reply
        with pytest.raises(KeyboardInterrupt):
            found = chat("And?", stream=stream, stopping_criteria=stops_at(3))
            list(found if stream else ())
        assert (chat.ids, chat.reply) == (ids, last)
        reply = chat("Why?")
        assert chat.ids[: len(ids)] == ids and "And?" not in read.decode(chat.ids)
        assert chat.ids[-reply.num_tokens :] == windowed(model, chat.ids[: -reply.num_tokens])


def test_a_template_that_rewrites_earlier_turns(model):
    read = tokenizer(FORGETS)

    def thinks(chat, message):
        """The reply as if it had begun with a thought."""
        chat(message)
        chat._last = dataclasses.replace(chat._last, reply="<think>hm</think>I am")

    with Chat(model, read, WINDOW, rewrites="error", **OPTIONS) as chat:
        assert not chat("Who?").rewritten and not chat("Why?").rewritten
        thinks(chat, "And?")
        ids = chat.ids
        with pytest.raises(
            ValueError, match="rewrites: got a chat template that writes the turn before otherwise"
        ):
            chat("Bye")
        assert chat.ids == ids
    with Chat(model, read, WINDOW, **OPTIONS) as chat:
        thinks(chat, "And?")
        ids = chat.ids
        reply = chat("Bye")
        assert reply.rewritten and chat.ids[: len(ids)] == ids
        added = read.decode(chat.ids[len(ids) : -reply.num_tokens])
        assert added == "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"


def test_a_patched_model_is_used(model, read):
    with lckernels.patched(model, window=WINDOW, sink_tokens=4):
        with pytest.raises(
            ValueError, match="window: got 8 for LlamaForCausalLM, which is patched; expected None"
        ):
            Chat(model, read, 8)
        with Chat(model, read, **OPTIONS) as chat:
            chat("Who?")
            reply = chat("And?")
            assert chat.ids[-7:] == windowed(model, chat.ids[:-7]) and reply.num_cached <= WINDOW + 4
        assert chat.report is None
        windowed(model, [5, 6])  # still patched
    with pytest.raises(ValueError, match="model: got LlamaForCausalLM, not patched"):
        lckernels.unpatch(model)


def test_positions_of_the_cache(model, read):
    """Turns with one cache are those of one call with all ids and a new cache."""
    with Chat(model, read, WINDOW, 4, "cache", **OPTIONS) as chat:
        for message in MESSAGES:
            reply = chat(message)
        ids = torch.tensor([chat.ids[: -reply.num_tokens]])
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS)
        assert found[0].tolist() == chat.ids


def test_saved_dialogues(model, read, tmp_path):
    with Chat(model, read, WINDOW, **OPTIONS) as chat:
        chat("Who?")
        chat.save(tmp_path / "dialogue.json")
        expected = chat("他是谁？"), chat.ids
        chat.reset()
        chat.load(tmp_path / "dialogue.json")
        assert (chat("他是谁？"), chat.ids) == expected
        (tmp_path / "other.json").write_text('{"ids": [0.5]}')
        with pytest.raises(
            ValueError, match=r"path: got .*other.json, no dialogue; expected a file that Chat.save"
        ):
            chat.load(tmp_path / "other.json")
        assert chat.ids == expected[1]


def test_peft(model):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2)
    ).eval()
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    with Chat(adapted, tokenizer(), WINDOW, **OPTIONS) as chat:
        chat("Who?")
        chat("And?")
        ids = torch.tensor([chat.ids[:-7]])
        options = {"attention_mask": torch.ones_like(ids), "use_cache": False, **OPTIONS}
        assert adapted.generate(input_ids=ids, **options)[0].tolist() == chat.ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "window: got None for LlamaForCausalLM, which is not patched; expected a number of keys"),
        ({"window": 8, "num_beams": 2}, "num_beams: got 2; expected 1: a dialogue has one row of keys"),
        ({"window": 8, "use_cache": False}, "use_cache: got an option of generate that a Chat has itself"),
        ({"window": 8, "rewrites": "drop"}, "rewrites: got 'drop'; allowed are 'append', 'error'"),
        ({"window": 8, "system": " "}, "system: got white space alone; expected a text"),
        ({"window": 8, "positions": "none"}, "positions: got 'none'"),
        ({"window": 0}, "window: got 0; expected an int >= 1"),
        ({"window": 8, "plain": True, "template_options": {"thinking": 1}}, "template_options: got"),
        (
            {"window": 8, "template": "{{ raise_exception('no roles') }}", "system": "Hi"},
            "TemplateError: no roles",
        ),
    ],
)
def test_bad_options(model, options, message):
    options = dict(options)
    template = None if options.pop("plain", False) else options.pop("template", CHATML)
    with pytest.raises(ValueError, match=message):
        Chat(model, tokenizer(template), **options)
    with pytest.raises(ValueError, match="not patched"):
        lckernels.unpatch(model)


def test_bad_messages_and_models(model):
    with Chat(model, tokenizer(), WINDOW, **OPTIONS) as chat:
        for message, error, text in (
            (" ", ValueError, "message: got white space alone; expected a text"),
            (["Hi"], TypeError, "message: got list; expected a str"),
        ):
            with pytest.raises(error, match=text):
                chat(message)
        with pytest.raises(ValueError, match="num_return_sequences: got 2; expected 1"):
            chat("Hi", num_return_sequences=2)
        assert chat.ids == []
    encoder = transformers.BertModel(transformers.BertConfig(hidden_size=16, num_attention_heads=2))
    with pytest.raises(TypeError, match="model: got BertModel; expected a decoder"):
        Chat(encoder.eval(), tokenizer(), 8)
    with pytest.raises(ValueError, match="in training mode"):
        Chat(copy.deepcopy(model).train(), tokenizer(), 8)
    leaves_out = tokenizer("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with Chat(model, leaves_out, WINDOW, **OPTIONS) as chat:
        chat("Hi")
        with pytest.raises(ValueError, match="tokenizer: got a chat template that writes a reply 0 times"):
            chat("Hi")
