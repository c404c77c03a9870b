"""What runs in the middle and never sees behaviour: rounds, aggregation, checkpoints."""
