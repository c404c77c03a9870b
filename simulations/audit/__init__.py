"""An audit tries to break a run's promise: canaries, and an attacker who sees all that the claim allows.

`canaries` makes units that each move a parameter of their own: slates or people of one client, or devices. `training`
runs the configuration with a coin's half of them through the real vault, ledger and server loop (`devices` where they
are clients), `membership` attacks the released model, `report` puts it together.
"""
