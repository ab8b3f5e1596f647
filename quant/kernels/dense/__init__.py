"""Products of small float32 matrices with tokens: the projections of gates, routers and look-ahead."""
