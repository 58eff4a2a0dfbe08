"""What writes the output of rows: `generate` of an encoder-decoder of transformers, or CTranslate2."""

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lckernels.checks import bad, integer
from lckernels.long.parts import Parts, find_parts
from lckernels.long.positions import usable_positions
from lckernels.tasks.documents import check_eval_mode
from lckernels.tasks.rewriting.rewritten import Output
from lckernels.tasks.rewriting.source_rows import Row

Generator = Callable[[Sequence[Row], int], list[Output]]  # the rows, and the most new tokens by default
_SET_HERE = ("input_ids", "inputs", "inputs_embeds", "attention_mask", "encoder_outputs", "decoder_input_ids",
             "num_return_sequences", "return_dict_in_generate", "streamer")  # fmt: skip
_SET_HERE_CT2 = ("source", "target_prefix", "num_hypotheses", "return_end_token", "asynchronous",
                 "max_input_length")  # fmt: skip


def is_translator(model: object) -> bool:
    """Whether a model is a Translator of CTranslate2."""
    module = sys.modules.get("ctranslate2")
    return module is not None and isinstance(model, module.Translator)


def find_encoder_decoder(model: nn.Module) -> Parts:
    """The parts of an encoder-decoder that reads token ids and generates.

    Raises:
        TypeError: another model.
        ValueError: a model in training mode.
    """
    name, expected = type(model).__name__, "expected an encoder-decoder, as AutoModelForSeq2SeqLM loads it"
    parts = find_parts(model)
    if not parts.is_encoder_decoder:
        raise TypeError(f"model: got {name}, without an encoder and a decoder; {expected}")
    if not parts.model.can_generate():
        raise TypeError(f"model: got {name}, without a head that generates; {expected}")
    if getattr(parts.encoder, "main_input_name", "input_ids") != "input_ids":
        raise TypeError(f"model: got {name}, which reads no token ids; {expected}")
    check_eval_mode(name, model)
    return parts


def check_generation(generation: Mapping[str, Any], names: Sequence[str] = _SET_HERE) -> None:
    """Raises ValueError for arguments of `generate` that `rewrite` sets."""
    for name in names:
        if name in generation:
            raise bad(name, "a value", "rewrite sets this argument of the model; expected none")
    for name in ("max_new_tokens", "max_length"):
        if generation.get(name) is not None:
            integer(name, generation[name], 1)


class ModelGenerator:
    """`generate` of an encoder-decoder of transformers.

    Args:
        model: as it was given, in wrappers or not.
        parts: of the model.
        tokenizer: of the model.
        generation: arguments of `generate`.
    """

    def __init__(self, model: nn.Module, parts: Parts, tokenizer: Any, generation: Mapping[str, Any]) -> None:
        check_generation(generation)
        given = dict(generation)
        own, config = parts.model.generation_config, given.pop("generation_config", None)
        self.model, self.parts, self.tokenizer = model, parts, tokenizer
        self._given = _new_tokens(given) or _new_tokens({} if config is None else vars(config))
        self._config = copy.deepcopy(own)
        self._config.update(
            **{} if config is None else {k: x for k, x in vars(config).items() if x is not None}
        )
        self._others = self._config.update(**given)
        positions = usable_positions(parts.decoder)
        self._positions = None if positions is None else positions[0] - 1

    @property
    def own_new_tokens(self) -> int | None:
        """The most new tokens of the model's generation_config; None without."""
        return _new_tokens(vars(self.parts.model.generation_config))

    @torch.no_grad()
    def __call__(self, rows: Sequence[Row], new_tokens: int) -> list[Output]:
        limit = self._given or min(new_tokens, self._positions or new_tokens)
        config = copy.deepcopy(self._config)
        config.max_new_tokens, config.max_length = limit, None
        config.num_return_sequences, config.return_dict_in_generate = 1, False
        written = self.model.generate(**self._inputs(rows), generation_config=config, **self._others)
        # Before the output are the token that starts the decoder, and perhaps a language's.
        begin = 1 if config.forced_bos_token_id is None else 2
        texts = self.tokenizer.batch_decode(written[:, begin:], skip_special_tokens=True)
        special = set(self.tokenizer.all_special_ids)
        outputs = []
        for text, ids in zip(texts, written.tolist(), strict=True):
            num_tokens = sum(token not in special for token in ids[begin:])
            outputs.append(Output(text.strip(), num_tokens, self._is_cut_off(ids[1:], limit)))
        return outputs

    def _inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        device = next(self.model.parameters()).device
        ids = [torch.tensor(row.ids, device=device) for row in rows]
        inputs = _padded(ids, "input_ids", self.tokenizer.pad_token_id or 0)
        if not any(end > start for start, end in (row.context for row in rows)):
            return inputs
        from transformers.modeling_outputs import BaseModelOutput

        states = self.parts.encoder(**inputs, return_dict=True).last_hidden_state
        kept = [torch.cat([of_row[: row.context[0]], of_row[row.context[1] : len(row.ids)]])
                for row, of_row in zip(rows, states, strict=True)]  # fmt: skip
        found = _padded(kept, "states")
        return {
            "encoder_outputs": BaseModelOutput(found["states"]),
            "attention_mask": found["attention_mask"],
        }

    def _is_cut_off(self, ids: list[int], limit: int) -> bool:
        ends = self._config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        end = next((column for column, token in enumerate(ids) if token in ends), None)
        forced = self._config.forced_eos_token_id is not None
        return end is None or (forced and end == limit - 1)


class TranslatorGenerator:
    """`translate_batch` of CTranslate2.

    Args:
        translator: a ctranslate2.Translator.
        tokenizer: of the model that it was converted from.
        generation: `num_beams`, `max_new_tokens`, `forced_bos_token_id` as of transformers, and arguments of
            `translate_batch`.
    """

    def __init__(self, translator: Any, tokenizer: Any, generation: Mapping[str, Any]) -> None:
        check_generation(generation, (*_SET_HERE, *_SET_HERE_CT2))
        given = dict(generation)
        first = given.pop("forced_bos_token_id", None)
        self._given = given.pop("max_new_tokens", None) or given.pop("max_decoding_length", None)
        if "num_beams" in given:
            given["beam_size"] = given.pop("num_beams")
        self.translator, self.tokenizer, self._options = translator, tokenizer, given
        self._prefix = [] if first is None else [tokenizer.convert_ids_to_tokens(first)]

    def __call__(self, rows: Sequence[Row], new_tokens: int) -> list[Output]:
        source = [self.tokenizer.convert_ids_to_tokens(row.ids) for row in rows]
        prefix = [self._prefix] * len(rows) if self._prefix else None
        options = {"max_decoding_length": self._given or new_tokens, "max_input_length": 0, **self._options}
        try:
            found = self.translator.translate_batch(
                source, target_prefix=prefix, return_end_token=True, **options
            )
        except TypeError as error:
            got, expected = ", ".join(self._options), "expected arguments of Translator.translate_batch"
            raise TypeError(f"generation arguments: got {got}; {expected}") from error
        return [self._output(result.hypotheses[0][len(self._prefix) :]) for result in found]

    def _output(self, tokens: list[str]) -> Output:
        special = set(self.tokenizer.all_special_ids)
        ids = self.tokenizer.convert_tokens_to_ids(tokens)
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        num_tokens = sum(token not in special for token in ids)
        return Output(text, num_tokens, not ids or ids[-1] != self.tokenizer.eos_token_id)


def _new_tokens(options: Mapping[str, Any]) -> int | None:
    """The most new tokens that arguments of `generate` allow; None without such a limit."""
    if options.get("max_new_tokens") is not None:
        return options["max_new_tokens"]
    longest = options.get("max_length")
    return None if longest is None else max(longest - 1, 1)  # it counts the token that starts the decoder


def _padded(rows: Sequence[Tensor], name: str, padding: int = 0) -> dict[str, Tensor]:
    """The rows, padded on the right, and their mask."""
    mask = [row.new_ones(len(row), dtype=torch.int64) for row in rows]
    return {
        name: pad_sequence(rows, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence(mask, batch_first=True),
    }
