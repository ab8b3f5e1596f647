"""From files of text to batches: sources, token shards, packing, the order of training."""
