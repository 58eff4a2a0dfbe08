"""Tasks on texts of any length: functions of a model, its tokenizer and texts."""

from lckernels.tasks.answering.answer import Answer, Answers, answer
from lckernels.tasks.classification.classes import Classes, Label
from lckernels.tasks.classification.classify import classify
from lckernels.tasks.classification.watch import Watch, watch
from lckernels.tasks.dialogue.chat import Chat, Reply
from lckernels.tasks.late_chunks import LateChunks, late_chunks
from lckernels.tasks.ranking.max_sim import MaxSim, max_sim
from lckernels.tasks.ranking.rank import Ranked, rank
from lckernels.tasks.ranking.rank_max_sim import Match, RankedMatches, rank_max_sim
from lckernels.tasks.relation_extraction.atlop import AttentionRows, process_long_input
from lckernels.tasks.relation_extraction.relation_head import (
    RelationHead,
    RelationOutput,
    adaptive_threshold_loss,
)
from lckernels.tasks.relation_extraction.relations import Relation, Relations, relations
from lckernels.tasks.relation_extraction.span_states import Pairs, entity_states, pair_states, span_states
from lckernels.tasks.relation_extraction.triples import triples, write_triples
from lckernels.tasks.rewriting.rewrite import rewrite
from lckernels.tasks.rewriting.rewritten import Part, Rewritten
from lckernels.tasks.tagging.tag import Entity, Tags, tag

__all__ = [
    "Answer",
    "Answers",
    "AttentionRows",
    "Chat",
    "Classes",
    "Entity",
    "Label",
    "LateChunks",
    "Match",
    "MaxSim",
    "Pairs",
    "Part",
    "Ranked",
    "RankedMatches",
    "Relation",
    "RelationHead",
    "RelationOutput",
    "Relations",
    "Reply",
    "Rewritten",
    "Tags",
    "Watch",
    "adaptive_threshold_loss",
    "answer",
    "classify",
    "entity_states",
    "late_chunks",
    "max_sim",
    "pair_states",
    "process_long_input",
    "rank",
    "rank_max_sim",
    "relations",
    "rewrite",
    "span_states",
    "tag",
    "triples",
    "watch",
    "write_triples",
]
