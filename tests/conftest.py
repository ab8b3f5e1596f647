"""What holds for every test: no network, no clock as a judge, and failures that can be repeated."""

import os

from hypothesis import settings

# Set before any library reads them: a test that reaches for a model hub is wrong.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A deadline would fail a test for the machine's sake. In CI the examples are the same in every run.
settings.register_profile("house", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("house")
