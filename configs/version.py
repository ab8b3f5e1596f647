"""The version of the product, in the one place from which packaging, the command line and caches read it."""

VERSION = "0.1.0"
