"""Several runs: demo, leaderboards, search, and what trained networks look at."""
