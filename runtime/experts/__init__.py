"""Running a model whose experts lie on disk: how much memory they get, and what happens on a miss."""
