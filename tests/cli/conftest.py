"""An encoder on disk and a text file, which the tests of the commands read."""

import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from helpers.tiny_bert import save_tiny_bert

    return str(save_tiny_bert(tmp_path_factory.mktemp("model")))


@pytest.fixture
def book(tmp_path, monkeypatch):
    from helpers.tiny_bert import tiny_text

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "book.txt"
    path.write_text(tiny_text())
    return path
