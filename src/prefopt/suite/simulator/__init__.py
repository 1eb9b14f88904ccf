"""MuJoCo environments stepped in batches, the policies that act in them, episodes."""
