"""Several runs side by side: the demo, leaderboards, and the tables of the documentation."""
