"""Studies of several runs under one protocol: what was measured, side by side, and what it says. Nothing is drawn here.

Nothing is imported here either, so that the result classes can be had without torch.
"""
