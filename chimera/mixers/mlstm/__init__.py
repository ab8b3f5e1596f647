"""The matrix LSTM: token by token, one step, by chunks, and all tokens at once."""
