"""Planted bugs, each in the real component at the smallest place, and the check that must see it.

`bugs` plants them, `small` audits a small problem, test_mutants.py runs each check on the original (it passes) and on
the mutant (it fails).
"""
