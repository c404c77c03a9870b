"""Privacy: mechanisms, one a file, and what they stand on.

A mechanism (`dp_sgd`, `no_privacy`; the interface is in `mechanism`) trains on private units. It takes per-unit
gradients from `per_unit` and randomness from `noise`; `accountant` says what its events cost, `planning` how much noise
a promise needs, and `ledger` keeps what each client's data has paid.
"""
