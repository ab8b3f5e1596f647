"""From the scores of a vocabulary to weights of a draw: whole numbers, so that sums have no order to keep."""
