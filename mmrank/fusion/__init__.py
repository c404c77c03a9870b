"""Fusion of what an item shows into one vector, one way a file.

`build(*, dim, meta_width, **settings)` gives a module: text, image [batch, item, dim] or None where that
side is switched off, meta [batch, item, meta_width] -> [batch, item, dim].
"""
