"""Triples as JSON lines, read back, and loaded as a graph."""

import json

import pytest

from lckernels.tasks import Relation, Relations, triples, write_triples
from lckernels.tasks.results import Span

TEXT = "张三住在北京。\U00020bb7野家在东京。张三读书。"
ENTITIES = [[(0, 2), (14, 16)], (4, 6), (7, 10), Span(11, 13, "东京", 0.9)]
FOUND = [Relation(0, 1, "lives in", 0.75), Relation(2, 3, "位于", 0.5)]


def subject_of(text, start, end, mentions, i):
    label = {"label": None, "mentions": mentions}
    return {"id": i, "text": text, "start": start, "end": end, **label}


def test_read_back(tmp_path):
    path = tmp_path / "graph.jsonl"
    made = list(triples(ENTITIES, FOUND, text=TEXT, document="一"))
    assert write_triples(path, iter(made)) == 2
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == made
    assert made[0] == {
        "document": "一",
        "subject": subject_of("张三", 0, 2, [[0, 2], [14, 16]], 0),
        "relation": "lives in",
        "object": subject_of("北京", 4, 6, [[4, 6]], 1),
        "score": 0.75,
    }
    assert "\U00020bb7野家" in lines[1] and made[1]["subject"]["text"] == "\U00020bb7野家"
    for triple in made:
        for end in (triple["subject"], triple["object"]):
            assert TEXT[end["start"] : end["end"]] == end["text"]
            assert {TEXT[start:stop] for start, stop in end["mentions"]} == {end["text"]}


def test_a_graph_of_several_documents(tmp_path):
    path = tmp_path / "graph.jsonl"
    result = Relations(FOUND, 1.0, 18, 12)
    made = (
        triple for document in (1, 2) for triple in triples(ENTITIES, result, text=TEXT, document=document)
    )
    assert write_triples(str(path), made) == 4
    graph = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        triple = json.loads(line)
        edges = graph.setdefault(triple["subject"]["text"], {})
        edges.setdefault(triple["object"]["text"], []).append((triple["relation"], triple["document"]))
    assert graph == {
        "张三": {"北京": [("lives in", 1), ("lives in", 2)]},
        "\U00020bb7野家": {"东京": [("位于", 1), ("位于", 2)]},
    }


def test_no_triples_replace_an_older_file(tmp_path):
    path = tmp_path / "graph.jsonl"
    path.write_text("old\n")
    assert write_triples(path, triples(ENTITIES, [], text=TEXT)) == 0
    assert path.read_bytes() == b""


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "graph.jsonl"

    def fails():
        yield {"a": 1}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_triples(path, fails())
    assert list(tmp_path.iterdir()) == []


def test_bad_input():
    with pytest.raises(ValueError, match=r"^entities\[0\]: got \(0, 2\); pairs of offsets require the arg"):
        triples(ENTITIES, FOUND)
    with pytest.raises(ValueError, match=r"^entities\[0\]: got \(0, 99\); expected 0 <= start < end <= "):
        triples([(0, 99)], [], text=TEXT)
    with pytest.raises(ValueError, match=r"^relations\[0\]: got \(0, 9\); expected places below 4"):
        triples(ENTITIES, [Relation(0, 9, "x", 1.0)], text=TEXT)
