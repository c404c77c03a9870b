"""Privacy: mechanisms (`dp_sgd`, `no_privacy`), and what they stand on: noise, accountant, planning, ledger, audit."""
