"""The parts of the generated shop; client.datasets.marketplace puts them together."""
