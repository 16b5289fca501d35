"""The command ``sa-readonly``: a room for each of its commands."""
