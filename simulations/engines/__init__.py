"""Engines, one a file: how a simulation carries messages between the server's and the clients' apps.

An engine is `federate(settings, *, config_path, state_dir, on_round, on_client, resume, workspace)`: it trains
and returns the model, float32 by name. Both apps are the ones that a deployment runs.
"""
