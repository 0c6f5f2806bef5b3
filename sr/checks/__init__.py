"""Proof that a loss or a metric is what it claims to be: the conformance suite, and the loss microscope.

`conformance.check("l1")` runs every check on one loss; `microscope.look(picture)` shows how losses rank distortions.
"""
