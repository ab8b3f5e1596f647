"""RMSNorm, its int8 form for the next product, and the block quantiser that other operations end in too."""
