"""Tasks on texts of any length: functions of a model, its tokenizer and texts."""

from lckernels.tasks.answer import Answer, Answers, answer
from lckernels.tasks.atlop import AttentionRows, process_long_input
from lckernels.tasks.chat import Chat, Reply
from lckernels.tasks.classes import Classes, Label
from lckernels.tasks.classify import classify
from lckernels.tasks.late_chunks import LateChunks, late_chunks
from lckernels.tasks.max_sim import MaxSim, max_sim
from lckernels.tasks.rank import Ranked, rank
from lckernels.tasks.rank_max_sim import Match, RankedMatches, rank_max_sim
from lckernels.tasks.relation_head import RelationHead, RelationOutput, adaptive_threshold_loss
from lckernels.tasks.relations import Relation, Relations, relations
from lckernels.tasks.rewrite import rewrite
from lckernels.tasks.rewritten import Part, Rewritten
from lckernels.tasks.span_states import Pairs, entity_states, pair_states, span_states
from lckernels.tasks.tag import Entity, Tags, tag
from lckernels.tasks.triples import triples, write_triples
from lckernels.tasks.watch import Watch, watch

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
