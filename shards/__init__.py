"""Pictures into tar shards, and tar shards into batches. Knows nothing of training."""
