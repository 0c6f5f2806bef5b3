"""What the bytes of picture files mean: one module a format, each with `read_header` and `decode`.

`decode` is for files whose header was read and found to have no more than `MAX_PIXELS`, as `shards.decode` does.
"""
