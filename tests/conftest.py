"""What holds for every test."""

from hypothesis import settings

# The default of 200 ms an example is wall time: a busy machine, or a dictionary that is loaded once, takes longer.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")
