"""mmrank: one multimodal product ranker, trained where the behaviour data is, at a known privacy cost."""

__version__ = "0.1.0"
