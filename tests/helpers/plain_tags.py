"""Labels and entities in plain Python loops: the definition that the compiled search is compared with."""

import math


def plain_viterbi(logits, transitions, begin, end):
    """The best labels of one text; of equal sums the lowest label, from the last token to the first."""
    rows, steps = logits.double().tolist(), transitions.double().tolist()
    labels = range(len(begin))
    sums = [begin[label].item() + rows[0][label] for label in labels]
    pointers = []
    for row in rows[1:]:
        best = [max(labels, key=lambda i, to=to: (sums[i] + steps[i][to], -i)) for to in labels]
        sums = [sums[best[to]] + steps[best[to]][to] + row[to] for to in labels]
        pointers.append(best)
    final = [sums[label] + end[label].item() for label in labels]
    path = [max(labels, key=lambda i: (final[i], -i))]
    for best in reversed(pointers):
        path.append(best[path[-1]])
    assert final[path[0]] > -math.inf
    return path[::-1]


def is_allowed(names, with_ends):
    """Whether a sequence of labels is of BIO, or with_ends of BIOES, from the definition of the letters."""
    kind_before = None  # of an entity that may go on
    for name in names:
        letter, _, kind = name.partition("-")
        if letter in "IE" and kind != kind_before:
            return False
        if with_ends and kind_before is not None and letter in "OBS":
            return False
        kind_before = kind if letter in "BI" else None
    return not (with_ends and kind_before is not None)


def plain_entities(names):
    """(first word, word behind the last, type) of each entity, from the label of each word."""
    found, start, kind = [], None, None
    for i, name in enumerate([*names, "O"]):
        letter, _, of_type = name.partition("-")
        continues = letter in "IE" and of_type == kind
        if start is not None and not continues:
            found.append((start, i, kind))
            start = kind = None
        if name != "O" and start is None:
            start, kind = i, of_type
        if letter in "ES" and start is not None:
            found.append((start, i + 1, kind))
            start = kind = None
    return found
