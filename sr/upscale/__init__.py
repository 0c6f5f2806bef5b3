"""Applying a generator to pictures and video of any size and length, in bounded memory."""
