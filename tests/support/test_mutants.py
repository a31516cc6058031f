"""The faults of `scripts/mutants` can be put into the code as it is."""

from benchmarks import mutants


def test_every_fault_has_its_place_once():
    for module in mutants.MODULES.values():
        for mutant in module.mutants:
            mutants.check(mutant)
