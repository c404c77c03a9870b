"""`mmrank budget`: a privacy budget planned before it is spent.

`plan` answers from public facts alone, `classes` turns a declared size into a sampling rate, and `curve` runs the
simulation at several epsilons to show what each is worth in ranking quality.
"""
