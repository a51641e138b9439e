"""Side by side with peers, in one run, as ratios. ``make bench`` runs all; nothing here is part of the test suite."""
