"""What a ternary number is: quantise, pack, map and multiply, on whatever CPU there is."""

__distribution__ = "chimera-edge"
