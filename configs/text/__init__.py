"""A model's words: tokenizer, chat template and the records of a data file."""
