"""From a source to a data set: clients, parts, slates and candidates, by the same documented rules for every reader.

clients.py says whose a row is, parts.py what is for training, moments.py and lists.py make slates, candidates.py fills
them up, queries.py finds words, brought.py reads scores of other rankers, dataset.py holds it together.
"""
