"""Which experts a token visits, how that is learnt and foreseen, and where the experts lie."""

__distribution__ = "chimera-edge"
