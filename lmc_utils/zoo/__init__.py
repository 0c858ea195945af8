"""Trained networks: those that ship, how they are made, and those in folders of users."""
