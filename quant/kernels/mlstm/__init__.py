"""One step after another of the matrix LSTM, with the norm of each head."""
