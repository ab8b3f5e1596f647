"""The layers that mix tokens: gated delta rule, its exact flow, matrix LSTM, Titans memory as context."""
