"""One step after another of the gated delta rule and of its exact flow, with the norm of each head."""
