"""The mutations of the CUDA kernels fit the sources; tests/cuda_mutations.py runs them."""

from cuda_mutations import all_mutations, missing


def test_the_text_of_every_mutation_is_in_its_file():
    assert missing(all_mutations()) == []


def test_names_are_distinct():
    names = [mutation.name for mutation in all_mutations()]
    assert len(names) == len(set(names)) > 70
