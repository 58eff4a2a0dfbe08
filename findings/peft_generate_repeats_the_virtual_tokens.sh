#!/usr/bin/env bash
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0.
# Behaviour: transformers 5.24 passes the KV cache of generate as `cache`; PEFT looks for `past_key_values` and finds none.
#   With prompt tuning each step of generate puts the virtual tokens before the new token again. With prefix tuning the steps
#   run on a cache without the prefix, and an attention mask with it. No error, no warning; forward is as it should be.
# Seen on 2026-11-30, 4 virtual tokens, 6 tokens of text, 8 new ones; tokens of the first calls and keys in the cache before it:
#   prompt tuning: 10+0 5+10 5+15, equal to greedy decoding by forward: False
#   prompt tuning, use_cache=False: 10+0 11+0 12+0, equal to greedy decoding by forward: True
#   prefix tuning: 6+0 1+6 1+7, equal to greedy decoding by forward: False
# Instead: an older transformers (5.17.0 passes `past_key_values`); for prompt tuning use_cache=False; or a loop over forward.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import peft
import torch
import transformers

transformers.logging.set_verbosity_error()
print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
IDS, NEW = torch.arange(5, 11)[None], 8


def tuned(config):
    """A tiny Llama with random virtual tokens."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, initializer_range=0.2))
    model = peft.get_peft_model(model, config(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter)
    return model


def shown(name, config, **options):
    """Prints the calls of generate; returns them, and whether its tokens are those of forward."""
    model, calls = tuned(config), []

    def record(module, args, given):
        tokens = given["inputs_embeds"] if given.get("inputs_embeds") is not None else given["input_ids"]
        cache = given.get("cache")
        calls.append(f"{tokens.shape[1]}+{0 if cache is None else cache.get_seq_length()}")

    handle = model.get_base_model().register_forward_pre_hook(record, with_kwargs=True)
    out = model.generate(input_ids=IDS, max_new_tokens=NEW, do_sample=False, eos_token_id=None, **options)
    handle.remove()
    with torch.no_grad():
        by_forward = model(input_ids=out).logits[:, -NEW - 1 : -1].argmax(-1)
    equal = torch.equal(out[:, -NEW:], by_forward)
    print(f"{name}:", *calls[:2], f"{calls[2]}, equal to greedy decoding by forward: {equal}")
    return calls[:3], equal


found = [
    shown("prompt tuning", peft.PromptTuningConfig),
    shown("prompt tuning, use_cache=False", peft.PromptTuningConfig, use_cache=False),
    shown("prefix tuning", peft.PrefixTuningConfig),
]
expected = [
    (["10+0", "5+10", "5+15"], False),
    (["10+0", "11+0", "12+0"], True),
    (["6+0", "1+6", "1+7"], False),
]
raise SystemExit(found != expected)
PYTHON
