"""Which modules run on a view: those whose methods may read a config."""

# ruff: noqa: E402
from functools import cached_property, wraps
from typing import ClassVar

import pytest
from torch import nn

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_patched import model_of

from lckernels.hf.patch.config_use import reads_configs
from lckernels.hf.patch.methods import Method
from lckernels.hf.patch.modules import lckernels_attention


def size_of(module):
    return module.config.hidden_size


def product(x, module):
    return x * module.config.hidden_size


def with_config(function):
    @wraps(function)
    def wrapper(self, *args):
        return function(self, *args) + self.config.hidden_size

    return wrapper


def scaled(function):
    @wraps(function)
    def wrapper(*args):
        return 2 * function(*args)

    return wrapper


class Plain(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.size = config.hidden_size

    def forward(self, x):
        return x * self.size


class Reads(Plain):
    def forward(self, x):
        return x * self.config.hidden_size


class InheritsReads(Reads):
    pass


class ReadsInProperty(Plain):
    @property
    def width(self):
        return self.config.hidden_size

    def forward(self, x):
        return x * self.width


class ReadsByName(Plain):
    def forward(self, x):
        return x * self.__dict__["config"].hidden_size


class ReadsInLambda(Plain):
    def forward(self, x):
        return (lambda: x * self.config.hidden_size)()


class HandsOnSelf(Plain):
    def forward(self, x):
        return x * size_of(self)


class ReadsInDecorator(Plain):
    @with_config
    def forward(self, x):
        return x * self.size


class Decorated(Plain):
    @scaled
    def forward(self, x):
        return x * self.size


class CallableThatIsNoFunction(Plain):
    other = size_of.__get__


class ReadsInCachedProperty(Plain):
    @cached_property
    def width(self):
        return self.config.hidden_size

    def forward(self, x):
        return x * self.width


class HandsOnSelfWithAnother(Plain):
    def forward(self, x):
        return product(x, self)


class HandsOnThis(Plain):
    def forward(this, x):
        return x * size_of(this)


class HandsOnInLambda(Plain):
    def forward(self, x):
        return (lambda: x * size_of(self))()


class ReadsInStaticMethod(Plain):
    @staticmethod
    def width(module):
        return module.config.hidden_size

    def forward(self, x):
        return x * self.size


class HasData(Plain):
    names: ClassVar[tuple[str, ...]] = ("size",)
    scale = 2

    def forward(self, x):
        y = x * self.size
        return self.scale * y + self.size


CONFIG = transformers.BertConfig(hidden_size=8)


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Plain, False),
        (HasData, False),
        (Decorated, True),
        (ReadsInCachedProperty, True),
        (HandsOnSelfWithAnother, True),
        (HandsOnThis, True),
        (HandsOnInLambda, True),
        (ReadsInStaticMethod, True),
        (Reads, True),
        (InheritsReads, True),
        (ReadsInProperty, True),
        (ReadsByName, True),
        (ReadsInLambda, True),
        (HandsOnSelf, True),
        (ReadsInDecorator, True),
        (CallableThatIsNoFunction, True),
    ],
)
def test_reads_configs(cls, expected):
    assert reads_configs(cls(CONFIG), ["config"]) is expected


def test_without_configs_nothing_is_read():
    assert not reads_configs(Reads(CONFIG), [])


def test_a_forward_of_the_instance_may_read():
    module = Plain(CONFIG)
    module.forward = lambda x: x * size_of(module)
    assert reads_configs(module, ["config"])


def methods(model):
    return {type(m).__name__ for m in model.modules() for x in vars(m).values() if type(x) is Method}


def test_a_feed_forward_is_left_alone():
    model = model_of("mistral")
    mlp = model.model.layers[0].mlp
    before = dict(vars(mlp))
    with lckernels_attention(model):
        assert {"MistralAttention", "MistralModel"} <= methods(model)
        assert "MistralMLP" not in methods(model) and vars(mlp) == before
