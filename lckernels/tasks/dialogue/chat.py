"""A dialogue of any length in constant memory: one KV cache, which keeps a window, over all turns."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from lckernels.checks import bad, boolean, integer, integers
from lckernels.hf.patch import patch, unpatch
from lckernels.hf.patch.modules import is_patched
from lckernels.long.tokens import count_special_tokens
from lckernels.prompts import KEY_ARGUMENTS, num_virtual_tokens
from lckernels.tasks.dialogue.chat_stream import pieces
from lckernels.tasks.dialogue.chat_turns import Exchange, PlainTurns, TemplateTurns
from lckernels.tasks.documents import check_eval_mode, given_texts

_PIECE = 512  # tokens of a call of the model that reads a message
_WAIT = 0.05  # seconds between two looks for the turn to stop
_SINK_TOKENS = 4
_NEW_TOKENS = 256
_OWN = (
    "input_ids", "inputs_embeds", "attention_mask", "position_ids", "streamer", "use_cache",
    "return_dict_in_generate", *KEY_ARGUMENTS,
)  # fmt: skip
_ONE_ROW = ("num_beams", "num_return_sequences")
REWRITES = ("append", "error")


@dataclass(frozen=True)
class Reply:
    """What the model answered.

    Attributes:
        text: without special tokens, and without white space at its ends.
        num_tokens: tokens of the reply, the end-of-sequence token left out.
        num_cached: tokens whose keys the cache keeps, of any layer the most.
        is_complete: whether an end-of-sequence token ended it, and not a limit of tokens.
        rewritten: whether the chat template would write the turn before otherwise than the model has read it.
    """

    text: str
    num_tokens: int
    num_cached: int
    is_complete: bool
    rewritten: bool = False


class Chat:
    """A dialogue with a decoder, whose KV cache keeps the first tokens and a window of the last ones.

    A turn reads the new message alone; its result is that of the windowed forward over all ids of the
    dialogue. No turn is tokenized twice. The model is patched until `close`, or the end of a `with` block;
    one that is patched already is used as it is, and stays patched.

    Args:
        model: a decoder of transformers that generates, in eval mode.
        tokenizer: of the model. Its chat template writes the turns; without one they are plain, as in
            `lckernels.tasks.dialogue.chat_turns.PlainTurns`.
        window: keys that a token sees in each layer with full attention; None for a model that is patched.
        sink_tokens: first tokens that stay visible. Default: those of the system prompt with all that is
            before the first message, if they fit in a window, and at least 4.
        positions: "absolute" (default) or "cache", as in `patch`.
        system: the system prompt. Default: none.
        rewrites: for a chat template that writes earlier turns otherwise once there are later ones, such as
            one that removes what the model has thought: "append" (default) leaves them as they were read, and
            `Reply.rewritten` states it; "error" raises.
        template_options: further arguments of the chat template, such as enable_thinking.
        **generate: default options of `generate`, such as do_sample; max_new_tokens is 256 by default.

    Raises:
        TypeError: a model that is no decoder, virtual tokens of PEFT, a system prompt that is no str.
        ValueError: no window for a model that is not patched, a window for one that is, an option that the
            dialogue has itself, a model in training mode.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        window: int | None = None,
        sink_tokens: int | None = None,
        positions: str = "absolute",
        *,
        system: str | None = None,
        rewrites: str = "append",
        template_options: Mapping[str, Any] | None = None,
        **generate: Any,
    ) -> None:
        name = type(model).__name__
        _check_model(model, name)
        if system is not None:
            _check_text("system", system)
        if rewrites not in REWRITES:
            raise bad("rewrites", repr(rewrites), f"allowed are {', '.join(map(repr, REWRITES))}")
        self.model, self.tokenizer, self._rewrites = model, tokenizer, rewrites
        self._options = self._checked(generate)
        has_template = getattr(tokenizer, "chat_template", None) is not None
        options = template_options or {}
        if options and not has_template:
            raise bad("template_options", dict(options), "expected None: the tokenizer has no chat template")
        self._turns = TemplateTurns(tokenizer, system, options) if has_template else PlainTurns(system)
        self._has_template = has_template
        self._lock, self._closed = threading.Lock(), False
        self._stop: threading.Event | None = None  # of the turn that runs, if it is streamed
        self.reset()
        self.num_system_tokens = 0 if system is None else self._num_common()
        self._patched, self.report = not is_patched(model), None
        self._patch(name, window, sink_tokens, positions)

    def _patch(self, name: str, window: int | None, sink_tokens: int | None, positions: str) -> None:
        if not self._patched:
            for argument, given in (("window", window), ("sink_tokens", sink_tokens)):
                if given is not None:
                    expected = (
                        "expected None, or close() of the Chat before it, or lckernels.unpatch(model), first"
                    )
                    raise bad(argument, f"{given} for {name}, which is patched", expected)
            return
        if window is None:
            raise bad("window", f"None for {name}, which is not patched", "expected a number of keys")
        window = integer("window", window, 1)
        if sink_tokens is None:
            sink_tokens = max(_SINK_TOKENS, self.num_system_tokens * (self.num_system_tokens <= window))
        self.report = patch(self.model, window, sink_tokens, positions)

    @property
    def ids(self) -> list[int]:
        """The token ids of the dialogue: those that the model has read, and the last token of its reply."""
        return list(self._ids)

    @property
    def num_cached(self) -> int:
        """Tokens whose keys the cache keeps, of any layer the most; 0 before the first turn."""
        keys = (layer.keys for layer in self._layers() if isinstance(getattr(layer, "keys", None), Tensor))
        return max((x.shape[2] for x in keys if x.dim() == 4), default=0)

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values, in bytes, with the room for the next ones."""
        found = 0
        for layer in self._layers():
            buffers = getattr(layer, "buffers", None) or (layer.keys, layer.values)
            found += sum(x.numel() * x.element_size() for x in buffers if isinstance(x, Tensor))
        return found

    def __call__(self, message: str, *, stream: bool = False, **generate: Any) -> "Reply | Iterator[str]":
        """The model's reply to a message.

        Args:
            message: a text.
            stream: True returns an iterator of the reply's text in pieces, while it is generated in a thread;
                `reply` then has the Reply. The turn begins with the first piece; closing the iterator ends
                the reply there. Default: False.
            **generate: options of `generate` for this turn, such as max_new_tokens and do_sample.

        Returns:
            The Reply, or with `stream` the iterator.

        Raises:
            TypeError: a message that is no str.
            ValueError: an empty message, an option that the dialogue has itself, a turn while another one
                runs, a chat template that rewrites earlier turns with rewrites="error", a closed dialogue.

        An error or an interrupt within a turn leaves the dialogue as it was before it; the next turn then
        reads the whole of it again, once.
        """
        _check_text("message", message)
        options = {**self._options, **self._checked(generate)}
        if boolean("stream", stream):
            if self._lock.locked():
                raise _another_runs()
            self._check_open()
            return pieces(self.tokenizer, lambda *way: self._turn(message, options, *way))
        return self._turn(message, options)

    def reset(self) -> None:
        """The dialogue is empty again; the system prompt stays. An iterator of a reply ends.

        A turn of another thread without `stream` is waited for, here and in `close` and `load`.
        """
        with self._between_turns():
            self._clear()

    def _clear(self) -> None:
        self._ids: list[int] = []
        self._cache: Any = None
        self._last: Exchange | None = None
        self.reply: Reply | None = None

    def close(self) -> None:
        """Restores the model, if this dialogue has patched it. An iterator of a reply ends."""
        with self._between_turns():
            if self._patched and not self._closed:
                unpatch(self.model)
            self._closed, self._cache = True, None

    @contextmanager
    def _between_turns(self) -> Iterator[None]:
        """No turn runs: one that is streamed ends at its next token."""
        while not self._lock.acquire(timeout=_WAIT):
            stop = self._stop
            if stop is not None:
                stop.set()
        try:
            yield
        finally:
            self._lock.release()

    def _check_open(self) -> None:
        if self._closed:
            raise bad("message", "a turn of a dialogue after close()", "expected a new Chat")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save(self, path: str | Path) -> None:
        """Writes the dialogue to a JSON file: its ids, and the texts of its last turn."""
        last = None if self._last is None else [self._last.message, self._last.reply]
        Path(path).write_text(json.dumps({"ids": self._ids, "last": last}), encoding="utf-8")

    def load(self, path: str | Path) -> None:
        """Continues a dialogue that `save` wrote; the next turn reads its ids.

        Raises:
            ValueError: another file.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            ids, last = integers("ids", data["ids"]).tolist(), data["last"]
            exchange = None if last is None else Exchange(*map(str, last))
        except (ValueError, KeyError, TypeError) as error:
            raise bad("path", f"{path}, no dialogue", "expected a file that Chat.save wrote") from error
        with self._between_turns():
            self._clear()
            self._ids, self._last = ids, exchange

    def _turn(
        self, message: str, options: dict[str, Any], streamer: Any = None, stop: threading.Event | None = None
    ) -> Reply:
        if not self._lock.acquire(blocking=False):
            raise _another_runs()
        self._stop = stop
        try:
            self._check_open()
            turn = self._turns.turn(self._last, message)
            if turn.rewritten and self._rewrites == "error":
                got = "a chat template that writes the turn before otherwise than the model has read it"
                raise bad("rewrites", got, "expected rewrites='append', or another template")
            ids = self._ids + self._tokens(turn.text, first=not self._ids)
            try:
                new, complete = self._generate(ids, options, streamer, stop)
            except BaseException:
                self._cache = None  # may have tokens of this turn
                raise
            self._ids = ids + new
            text = self.tokenizer.decode(new, skip_special_tokens=True).strip()
            self._last = Exchange(message, text)
            self.reply = Reply(text, len(new), self.num_cached, complete, turn.rewritten)
            return self.reply
        finally:
            self._stop = None
            self._lock.release()

    @torch.no_grad()
    def _generate(
        self, ids: list[int], options: dict[str, Any], streamer: Any, stop: threading.Event | None
    ) -> tuple[list[int], bool]:
        """The ids of a reply, and whether an end-of-sequence token followed them."""
        device = next(self.model.parameters()).device
        whole = torch.tensor([ids], device="cpu").to(device)
        self._read(whole[:, :-1])
        if not {"max_new_tokens", "max_length", "generation_config"} & options.keys():
            options = {**options, "max_new_tokens": _NEW_TOKENS}
        if stop is not None:
            options = dict(options)
            options["stopping_criteria"] = [
                *options.get("stopping_criteria", ()),
                lambda rows, scores, **more: torch.full((len(rows),), stop.is_set(), device=rows.device),
            ]
        result = self.model.generate(
            input_ids=whole, attention_mask=torch.ones_like(whole), return_dict_in_generate=True,
            streamer=streamer, use_cache=True, **self._cached(), **options,
        )  # fmt: skip
        self._cache = _cache_of(result)
        new = result.sequences[0, len(ids) :].tolist()
        complete = bool(new) and new[-1] in self._ends(options)
        new = new[:-1] if complete else new
        if self._length() not in (len(ids) + len(new) - 1, len(ids) + len(new)):
            self._cache = None  # of a way of decoding that leaves other tokens in it
        return new, complete

    def _read(self, whole: Tensor) -> None:
        """The cache has all of these tokens, (1, num_tokens)."""
        while (begin := self._length()) < whole.shape[1]:
            end = min(begin + _PIECE, whole.shape[1])
            mask = torch.ones_like(whole[:, :end])
            output = self.model(
                input_ids=whole[:, begin:end], attention_mask=mask, use_cache=True, **self._cached()
            )
            self._cache = _cache_of(output)

    def _cached(self) -> dict[str, Any]:
        return {} if self._cache is None else {self._cache[0]: self._cache[1]}

    def _length(self) -> int:
        return 0 if self._cache is None else int(self._cache[1].get_seq_length())

    def _layers(self) -> list[Any]:
        return [] if self._cache is None else list(self._cache[1].layers)

    def _ends(self, options: dict[str, Any]) -> set[int]:
        """The end-of-sequence tokens of a call of `generate`."""
        config = options.get("generation_config") or self.model.generation_config
        ends = options.get("eos_token_id", config.eos_token_id)
        return set() if ends is None else {ends} if isinstance(ends, int) else {int(x) for x in ends}

    def _tokens(self, text: str, first: bool) -> list[int]:
        """The ids of a turn's text; a chat template writes special tokens itself."""
        if self._has_template or not first:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        _, trailing = count_special_tokens(self.tokenizer, type(self.model).__name__)
        ids = self.tokenizer(text)["input_ids"]
        return ids[: len(ids) - trailing]

    def _num_common(self) -> int:
        """First tokens of a dialogue that its first message does not change."""
        first, second = (self._tokens(self._turns.turn(None, message).text, True) for message in ("a", "b"))
        pairs = enumerate(zip(first, second, strict=False))
        return next((i for i, (one, other) in pairs if one != other), min(len(first), len(second)))

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options of `generate`. Raises ValueError for those that the dialogue has itself."""
        for name in _OWN:
            if name in options:
                raise bad(name, "an option of generate that a Chat has itself", "expected another option")
        config = options.get("generation_config") or self.model.generation_config
        for name in _ONE_ROW:
            given = options.get(name, getattr(config, name, None))
            if given not in (None, 1):
                raise bad(name, given, "expected 1: a dialogue has one row of keys")
        return options


def _check_model(model: nn.Module, name: str) -> None:
    if not isinstance(model, nn.Module) or not callable(getattr(model, "generate", None)):
        raise TypeError(f"model: got {name}; expected a decoder as AutoModelForCausalLM loads it")
    if getattr(model.config, "is_encoder_decoder", False):
        raise TypeError(f"model: got {name}, an encoder-decoder; expected a decoder")
    if num_virtual_tokens(model):
        raise TypeError(f"model: got {name} with virtual tokens; expected another PEFT method")
    check_eval_mode(name, model)


def _another_runs() -> ValueError:
    expected = "first exhaust or close the iterator of that one"
    return bad("message", "a turn while another one runs", expected)


def _check_text(name: str, text: object) -> None:
    """Raises TypeError or ValueError for what is no text, or white space alone."""
    if not isinstance(text, str):
        raise TypeError(f"{name}: got {type(text).__name__}; expected a str")
    given_texts(name, text)


def _cache_of(output: Any) -> tuple[str, Any]:
    """The cache in an output, with the name of its argument."""
    return next((name, output[name]) for name in KEY_ARGUMENTS if output.get(name) is not None)
