"""Standard scores of a model on a file of examples, by length of document and place of the evidence."""

from lckernels.tasks.evaluation.evaluate import Bucket, Evaluation, evaluate

__all__ = ["Bucket", "Evaluation", "evaluate"]
