"""The ladder: the discriminator of one stage becomes the perceptual loss of the next.

Source: the idea is Akella Ravi Tej's, "More to Perceptual Loss in Super Resolution" (about 2018), section III.A. What that
proposal leaves open is decided here: when a stage has converged, when two networks are equally good, when to give up.
"""
