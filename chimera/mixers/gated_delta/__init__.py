"""The gated delta rule and its exact flow: token by token, one step, and by chunks."""
