"""The loss between networks: their averages, and how good these are along lines, planes and simplices."""
